#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "preference_spec.hpp"
#include "private_ops.hpp"
#include "selm/host/loss_options.hpp"
#include "selm/torch/ops.hpp"

// Public loss operators: check, then call the private operator that has the kernels.

namespace selm::ops {
namespace {

using check::Argument;
using check::translated;

/// The tensors of a loss under their public names; a loss without a reference has none of `ref_`.
struct PairTensors {
  const at::Tensor& policy_chosen;
  const at::Tensor& policy_rejected;
  const OptionalTensor& policy_response;
  const OptionalTensor& ref_chosen;
  const OptionalTensor& ref_rejected;
  const OptionalTensor& ref_response;
  const OptionalTensor& chosen_lengths;
  const OptionalTensor& rejected_lengths;
};

void check_tensors(const char* op, const PairTensors& in) {
  const Argument first{op, "policy_chosen_logps", in.policy_chosen};
  check::per_sequence(first);
  check::like({op, "policy_rejected_logps", in.policy_rejected}, first);
  if (in.policy_response) {
    check::like({op, "policy_response_logps", *in.policy_response}, first);
  }
  const auto reference = [&](const char* name, const OptionalTensor& tensor) {
    if (tensor) {
      const Argument argument{op, name, *tensor};
      check::like(argument, first);
      check::no_grad(argument);
    }
  };
  reference("ref_chosen_logps", in.ref_chosen);
  reference("ref_rejected_logps", in.ref_rejected);
  reference("ref_response_logps", in.ref_response);
  const auto lengths = [&](const char* name, const OptionalTensor& tensor) {
    if (tensor) {
      check::lengths({op, name, *tensor}, first);
    }
  };
  lengths("chosen_lengths", in.chosen_lengths);
  lengths("rejected_lengths", in.rejected_lengths);
}

/// `legal`: the names that the operator accepts for `loss_type`.
template <typename Names>
std::vector<at::Tensor> preference_loss(const char* op, const Names& legal, const PairTensors& in,
                                        const PreferenceOptions& options,
                                        const ExplorationOptions& exploration = {}) {
  translated([&] {
    validate_loss_type(op, options, legal);
    validate(op, options, in.chosen_lengths.has_value(), in.rejected_lengths.has_value());
    validate(op, exploration, "exploration");
    validate_response_use(op, exploration, in.policy_response.has_value(),
                          in.ref_response.has_value());
    validate_together(op, options, exploration);
  });
  check_tensors(op, in);
  const PreferenceSpec spec = pack(options, exploration);
  return preference_loss_op().call(
      op, in.policy_chosen, in.policy_rejected, in.policy_response, in.ref_chosen, in.ref_rejected,
      in.ref_response, in.chosen_lengths, in.rejected_lengths, spec.names, spec.numbers);
}

PreferenceLoss as_preference_loss(const std::vector<at::Tensor>& out) {
  return {out[0], out[3], out[4]};
}

}  // namespace

PreferenceLoss dpo_loss(const at::Tensor& policy_chosen_logps,
                        const at::Tensor& policy_rejected_logps, const at::Tensor& ref_chosen_logps,
                        const at::Tensor& ref_rejected_logps, const PreferenceOptions& options,
                        const OptionalTensor& chosen_lengths,
                        const OptionalTensor& rejected_lengths) {
  return as_preference_loss(
      preference_loss("dpo_loss", dpo_loss_names(),
                      {policy_chosen_logps, policy_rejected_logps, std::nullopt, ref_chosen_logps,
                       ref_rejected_logps, std::nullopt, chosen_lengths, rejected_lengths},
                      options));
}

SelmLoss selm_loss(const at::Tensor& policy_chosen_logps, const at::Tensor& policy_rejected_logps,
                   const OptionalTensor& policy_response_logps, const at::Tensor& ref_chosen_logps,
                   const at::Tensor& ref_rejected_logps, const OptionalTensor& ref_response_logps,
                   const ExplorationOptions& exploration, const PreferenceOptions& options,
                   const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths) {
  const std::vector<at::Tensor> out = preference_loss(
      "selm_loss", dpo_loss_names(),
      {policy_chosen_logps, policy_rejected_logps, policy_response_logps, ref_chosen_logps,
       ref_rejected_logps, ref_response_logps, chosen_lengths, rejected_lengths},
      options, exploration);
  return {out[0], out[1], out[2], out[3], out[4], policy_response_logps ? out[7] : at::Tensor()};
}

PreferenceLoss cpo_loss(const at::Tensor& policy_chosen_logps,
                        const at::Tensor& policy_rejected_logps, const PreferenceOptions& options,
                        const OptionalTensor& chosen_lengths,
                        const OptionalTensor& rejected_lengths) {
  return as_preference_loss(
      preference_loss("cpo_loss", cpo_loss_names,
                      {policy_chosen_logps, policy_rejected_logps, std::nullopt, std::nullopt,
                       std::nullopt, std::nullopt, chosen_lengths, rejected_lengths},
                      options));
}

PreferenceLoss simpo_loss(const at::Tensor& policy_chosen_logps,
                          const at::Tensor& policy_rejected_logps, const at::Tensor& chosen_lengths,
                          const at::Tensor& rejected_lengths, double beta, double simpo_gamma,
                          double label_smoothing) {
  PreferenceOptions options{"simpo", beta, label_smoothing};
  options.simpo_gamma = simpo_gamma;
  return as_preference_loss(
      preference_loss("simpo_loss", std::array<std::string_view, 1>{"simpo"},
                      {policy_chosen_logps, policy_rejected_logps, std::nullopt, std::nullopt,
                       std::nullopt, std::nullopt, chosen_lengths, rejected_lengths},
                      options));
}

PreferenceLoss orpo_loss(const at::Tensor& policy_chosen_logps,
                         const at::Tensor& policy_rejected_logps, const at::Tensor& chosen_lengths,
                         const at::Tensor& rejected_lengths, double beta) {
  return as_preference_loss(
      preference_loss("orpo_loss", std::array<std::string_view, 1>{"orpo"},
                      {policy_chosen_logps, policy_rejected_logps, std::nullopt, std::nullopt,
                       std::nullopt, std::nullopt, chosen_lengths, rejected_lengths},
                      {"orpo", beta}));
}

UnpairedPreferenceLoss kto_loss(const at::Tensor& policy_logps, const at::Tensor& ref_logps,
                                const at::Tensor& desirable, const OptionalTensor& kl, double beta,
                                double desirable_weight, double undesirable_weight,
                                std::string_view loss_type) {
  const char* op = "kto_loss";
  translated([&] {
    validate_unpaired(op, loss_type, beta, desirable_weight, undesirable_weight, kl.has_value());
  });
  const Argument first{op, "policy_logps", policy_logps};
  check::per_sequence(first);
  const Argument reference{op, "ref_logps", ref_logps};
  check::like(reference, first);
  check::no_grad(reference);
  const Argument labels{op, "desirable", desirable};
  check::strided(labels);
  TORCH_CHECK_TYPE(desirable.scalar_type() == at::kBool, labels.expected("to be bool, got "),
                   check::dtype_name(desirable.scalar_type()));
  check::same_device(labels, first);
  check::same_shape(labels, first);
  if (kl) {
    const Argument baseline{op, "kl", *kl};
    check::strided(baseline);
    check::same_dtype(baseline, first);
    check::same_device(baseline, first);
    check::no_grad(baseline, "the baseline");
    TORCH_CHECK_VALUE(kl->dim() == 0, baseline.expected("to have shape [], one number, got "),
                      check::describe(*kl));
  }
  const auto [losses, rewards, derivative] = unpaired_loss_op().call(
      policy_logps, ref_logps, desirable, kl, beta, desirable_weight, undesirable_weight);
  return {losses, rewards};
}

namespace {

LossType loss_type_of(const char* op, const std::optional<std::vector<std::string>>& names,
                      const std::optional<std::vector<double>>& weights) {
  if (!names) {
    TORCH_CHECK_VALUE(!weights, "selm::", op,
                      ": expected 'loss_weights' to be left out without 'loss_type', got a value");
    return "sigmoid";
  }
  TORCH_CHECK_VALUE(!weights || weights->size() == names->size(), "selm::", op,
                    ": expected 'loss_weights' to hold one number for each of ", names->size(),
                    " losses, got ", weights ? weights->size() : 0);
  std::vector<WeightedLoss> terms;
  for (std::size_t k = 0; k < names->size(); ++k) {
    terms.push_back({(*names)[k], weights ? (*weights)[k] : 1.0});
  }
  return terms;
}

using Names = std::optional<std::vector<std::string>>;
using Numbers = std::optional<std::vector<double>>;

}  // namespace

TORCH_LIBRARY_IMPL(selm, CompositeImplicitAutograd, m) {
  m.impl("dpo_loss",
         [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
            const at::Tensor& ref_chosen, const at::Tensor& ref_rejected, double beta,
            const Names& loss_type, const Numbers& loss_weights, double label_smoothing,
            std::string_view f_divergence_type, std::optional<double> f_alpha_divergence_coef,
            std::optional<double> discopop_tau, std::optional<double> dpop_lambda,
            std::optional<double> length_margin, const OptionalTensor& chosen_lengths,
            const OptionalTensor& rejected_lengths) {
           const PreferenceLoss out =
               dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected,
                        {loss_type_of("dpo_loss", loss_type, loss_weights), beta, label_smoothing,
                         std::string(f_divergence_type), f_alpha_divergence_coef, discopop_tau,
                         dpop_lambda, length_margin},
                        chosen_lengths, rejected_lengths);
           return std::make_tuple(out.losses, out.chosen_rewards, out.rejected_rewards);
         });
  m.impl("selm_loss",
         [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
            const OptionalTensor& policy_response, const at::Tensor& ref_chosen,
            const at::Tensor& ref_rejected, const OptionalTensor& ref_response, double alpha,
            double beta, std::string_view exploration, std::optional<double> logratio_clip,
            const Names& loss_type, const Numbers& loss_weights, double label_smoothing,
            std::string_view f_divergence_type, std::optional<double> f_alpha_divergence_coef,
            std::optional<double> discopop_tau, std::optional<double> dpop_lambda,
            std::optional<double> length_margin, const OptionalTensor& chosen_lengths,
            const OptionalTensor& rejected_lengths) {
           const SelmLoss out =
               selm_loss(policy_chosen, policy_rejected, policy_response, ref_chosen, ref_rejected,
                         ref_response, {alpha, std::string(exploration), logratio_clip},
                         {loss_type_of("selm_loss", loss_type, loss_weights), beta, label_smoothing,
                          std::string(f_divergence_type), f_alpha_divergence_coef, discopop_tau,
                          dpop_lambda, length_margin},
                         chosen_lengths, rejected_lengths);
           return std::make_tuple(
               out.losses, out.dpo_losses, out.exploration, out.chosen_rewards,
               out.rejected_rewards,
               // Schemas have no undefined tensors: an output that is not there is empty.
               out.response_rewards.defined()
                   ? out.response_rewards
                   : at::empty({0}, policy_chosen.options().requires_grad(false)));
         });
  m.impl("cpo_loss",
         [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected, double beta,
            std::string_view loss_type, double label_smoothing,
            const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths) {
           const PreferenceLoss out = cpo_loss(policy_chosen, policy_rejected,
                                               {std::string(loss_type), beta, label_smoothing},
                                               chosen_lengths, rejected_lengths);
           return std::make_tuple(out.losses, out.chosen_rewards, out.rejected_rewards);
         });
  m.impl("simpo_loss", [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
                          const at::Tensor& chosen_lengths, const at::Tensor& rejected_lengths,
                          double beta, double simpo_gamma, double label_smoothing) {
    const PreferenceLoss out = simpo_loss(policy_chosen, policy_rejected, chosen_lengths,
                                          rejected_lengths, beta, simpo_gamma, label_smoothing);
    return std::make_tuple(out.losses, out.chosen_rewards, out.rejected_rewards);
  });
  m.impl("orpo_loss",
         [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
            const at::Tensor& chosen_lengths, const at::Tensor& rejected_lengths, double beta) {
           const PreferenceLoss out =
               orpo_loss(policy_chosen, policy_rejected, chosen_lengths, rejected_lengths, beta);
           return std::make_tuple(out.losses, out.chosen_rewards, out.rejected_rewards);
         });
  m.impl("kto_loss", [](const at::Tensor& policy_logps, const at::Tensor& ref_logps,
                        const at::Tensor& desirable, const OptionalTensor& kl, double beta,
                        double desirable_weight, double undesirable_weight,
                        std::string_view loss_type) {
    const UnpairedPreferenceLoss out = kto_loss(policy_logps, ref_logps, desirable, kl, beta,
                                                desirable_weight, undesirable_weight, loss_type);
    return std::make_tuple(out.losses, out.rewards);
  });
}

}  // namespace selm::ops
