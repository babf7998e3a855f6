#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "backend.hpp"
#include "checks.hpp"
#include "preference_spec.hpp"
#include "private_ops.hpp"
#include "selm/core/divergence.hpp"
#include "selm/core/ranked_batch.hpp"
#include "selm/host/values.hpp"

// Device kernels of the losses and of the functions of one log-ratio: allocate, then one loop.

namespace selm::ops {
namespace {

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

template <typename T>
const T* pointer(const OptionalTensor& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

/// The batch's order for losses that rank it, on a device; the host makes its own.
class DeviceRanking {
 public:
  explicit DeviceRanking(const at::Tensor& values)
      : order_(at::argsort(values, /*stable=*/true, 0, false)), places_(at::argsort(order_)) {}

  const std::int64_t* order() const { return order_.const_data_ptr<std::int64_t>(); }
  const std::int64_t* places() const { return places_.const_data_ptr<std::int64_t>(); }

 private:
  at::Tensor order_, places_;
};

/// The contiguous tensors of a batch, and what its losses need to know of all rows.
struct Batch {
  at::Tensor policy_chosen, policy_rejected;
  OptionalTensor policy_response, ref_chosen, ref_rejected, ref_response;
  OptionalTensor chosen_lengths, rejected_lengths, upstream;
  std::optional<at::Tensor> mean_chosen_length = {};
  std::optional<DeviceRanking> policy = {}, ref = {}, chosen = {}, rejected = {};

  void rank(const PreferenceOptions& options) {
    const auto ratio = [](const at::Tensor& a, const at::Tensor& b) {
      return a.to(at::kDouble) - b.to(at::kDouble);
    };
    if (uses(options, Pairing::ranked_pairs)) {
      policy.emplace(ratio(policy_chosen, policy_rejected));
      ref.emplace(ratio(*ref_chosen, *ref_rejected));
    }
    if (uses(options, Pairing::ranked_ratios)) {
      chosen.emplace(ratio(policy_chosen, *ref_chosen));
      rejected.emplace(ratio(policy_rejected, *ref_rejected));
    }
    if (uses(options, Lengths::mean_chosen)) {
      mean_chosen_length = chosen_lengths->to(at::kDouble).mean();
    }
  }

  template <typename Storage>
  PreferenceInputs<Storage> inputs() const {
    PreferenceInputs<Storage> in{
        pointer<Storage>(policy_chosen),       pointer<Storage>(policy_rejected),
        pointer<Storage>(policy_response),     pointer<Storage>(ref_chosen),
        pointer<Storage>(ref_rejected),        pointer<Storage>(ref_response),
        pointer<std::int64_t>(chosen_lengths), pointer<std::int64_t>(rejected_lengths),
        pointer<double>(mean_chosen_length)};
    in.upstream = pointer<Storage>(upstream);
    if (policy) {
      in.ranked_pairs = pairs_of_differences(*policy, *ref);
    }
    if (chosen) {
      in.ranked_ratios = pairs_of_ratios(*chosen, *rejected);
    }
    return in;
  }
};

/// Losses, parts, rewards and derivatives of a batch; without `upstream` of each row's own loss.
std::vector<at::Tensor> evaluate(
    std::string_view op, const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
    const OptionalTensor& policy_response, const OptionalTensor& ref_chosen,
    const OptionalTensor& ref_rejected, const OptionalTensor& ref_response,
    const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths,
    const std::vector<std::string>& names, c10::ArrayRef<double> numbers,
    const OptionalTensor& upstream) {
  const auto spec = unpack(names, numbers);
  const PreferenceOptions& options = spec.first;
  const ExplorationOptions& exploration = spec.second;
  Batch batch{policy_chosen.contiguous(), policy_rejected.contiguous(), contiguous(policy_response),
              contiguous(ref_chosen),     contiguous(ref_rejected),     contiguous(ref_response),
              contiguous(chosen_lengths), contiguous(rejected_lengths), contiguous(upstream)};
  std::vector<at::Tensor> out(policy_response ? 9 : 7);
  for (at::Tensor& tensor : out) {
    tensor = at::empty_like(batch.policy_chosen);
  }
  const at::Device device = policy_chosen.device();
  const std::int64_t rows = policy_chosen.numel();
  if (!device.is_cpu()) {
    batch.rank(options);
  }
  AT_DISPATCH_FLOATING_TYPES(policy_chosen.scalar_type(), "selm::preference_loss", [&] {
    const PreferenceInputs<scalar_t> in = batch.inputs<scalar_t>();
    if (device.is_cpu()) {
      check::translated([&] { check_values(op, in, rows); });
    }
    const auto data = [&](std::size_t k) {
      return k < out.size() ? out[k].mutable_data_ptr<scalar_t>() : nullptr;
    };
    const PreferenceOutputs<scalar_t> results{data(0), data(1), data(2), data(3), data(4),
                                              data(7), data(5), data(6), data(8)};
    backend::preference(device, options, exploration, in, results, rows);
  });
  return out;
}

std::vector<at::Tensor> preference_loss(
    std::string_view op, const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
    const OptionalTensor& policy_response, const OptionalTensor& ref_chosen,
    const OptionalTensor& ref_rejected, const OptionalTensor& ref_response,
    const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths,
    const std::vector<std::string>& names, c10::ArrayRef<double> numbers) {
  return evaluate(op, policy_chosen, policy_rejected, policy_response, ref_chosen, ref_rejected,
                  ref_response, chosen_lengths, rejected_lengths, names, numbers, std::nullopt);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> preference_loss_backward(
    const at::Tensor& upstream, std::string_view op, const at::Tensor& policy_chosen,
    const at::Tensor& policy_rejected, const OptionalTensor& policy_response,
    const OptionalTensor& ref_chosen, const OptionalTensor& ref_rejected,
    const OptionalTensor& ref_response, const OptionalTensor& chosen_lengths,
    const OptionalTensor& rejected_lengths, const std::vector<std::string>& names,
    c10::ArrayRef<double> numbers) {
  const std::vector<at::Tensor> out =
      evaluate(op, policy_chosen, policy_rejected, policy_response, ref_chosen, ref_rejected,
               ref_response, chosen_lengths, rejected_lengths, names, numbers, upstream);
  return {out[5], out[6], policy_response ? out[8] : at::empty({0}, policy_chosen.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> unpaired_loss(
    const at::Tensor& policy_logps, const at::Tensor& ref_logps, const at::Tensor& desirable,
    const OptionalTensor& kl, double beta, double desirable_weight, double undesirable_weight) {
  const at::Tensor policy = policy_logps.contiguous(), ref = ref_logps.contiguous();
  const at::Tensor labels = desirable.contiguous();
  at::Tensor losses = at::empty_like(policy), rewards = at::empty_like(policy);
  at::Tensor derivative = at::empty_like(policy);
  const UnpairedLoss<double> loss{beta, desirable_weight, undesirable_weight};
  AT_DISPATCH_FLOATING_TYPES(policy.scalar_type(), "selm::unpaired_loss", [&] {
    const UnpairedInputs<scalar_t> in{pointer<scalar_t>(policy), pointer<scalar_t>(ref),
                                      labels.const_data_ptr<bool>(), pointer<scalar_t>(kl)};
    if (policy.is_cpu()) {
      check::translated([&] {
        check_logps("kto_loss", "policy_logps", in.policy, policy.numel());
        check_logps("kto_loss", "ref_logps", in.ref, policy.numel());
      });
    }
    const UnpairedOutputs<scalar_t> out{losses.mutable_data_ptr<scalar_t>(),
                                        rewards.mutable_data_ptr<scalar_t>(),
                                        derivative.mutable_data_ptr<scalar_t>()};
    backend::unpaired(policy.device(), loss, in, out, policy.numel());
  });
  return {losses, rewards, derivative};
}

/// Calls `visit(functor)` with the function of one log-ratio that `op` and `kind` name.
template <typename Visit>
void visit_logratio_term(std::string_view op, std::string_view kind, double alpha, double beta,
                         double logratio_clip, Visit visit) {
  if (op == "implicit_rewards") {
    visit(ImplicitReward<double>{beta});
  } else if (op == "exploration_bonus") {
    visit(make_exploration({alpha, std::string(kind), logratio_clip}, beta));
  } else {
    TORCH_CHECK_VALUE(op == "kl_estimate", "selm::_logratio_term: unknown operator '", op, "'");
    visit(KlEstimate<double>{find_kl_estimator(kind)->kind});
  }
}

std::tuple<at::Tensor, at::Tensor> logratio_term(std::string_view op,
                                                 const at::Tensor& policy_logps,
                                                 const OptionalTensor& ref_logps,
                                                 std::string_view kind, double alpha, double beta,
                                                 double logratio_clip) {
  const at::Tensor policy = policy_logps.contiguous();
  const OptionalTensor ref = contiguous(ref_logps);
  at::Tensor value = at::empty_like(policy), grad = at::empty_like(policy);
  AT_DISPATCH_FLOATING_TYPES(policy.scalar_type(), "selm::logratio_term", [&] {
    if (policy.is_cpu()) {
      check::translated([&] {
        check_logps(op, "policy_logps", pointer<scalar_t>(policy), policy.numel());
        check_logps(op, "ref_logps", pointer<scalar_t>(ref), ref ? ref->numel() : 0);
      });
    }
    visit_logratio_term(op, kind, alpha, beta, logratio_clip, [&](const auto& functor) {
      backend::logratio_term(policy.device(), functor, pointer<scalar_t>(policy),
                             pointer<scalar_t>(ref), value.mutable_data_ptr<scalar_t>(),
                             grad.mutable_data_ptr<scalar_t>(), policy.numel());
    });
  });
  return {value, grad};
}

std::vector<at::Tensor> preference_loss_meta(std::string_view, const at::Tensor& policy_chosen,
                                             const at::Tensor&,
                                             const OptionalTensor& policy_response,
                                             const OptionalTensor&, const OptionalTensor&,
                                             const OptionalTensor&, const OptionalTensor&,
                                             const OptionalTensor&, const std::vector<std::string>&,
                                             c10::ArrayRef<double>) {
  std::vector<at::Tensor> out(policy_response ? 9 : 7);
  for (at::Tensor& tensor : out) {
    tensor = at::empty_symint(policy_chosen.sym_sizes(), policy_chosen.options());
  }
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> preference_loss_backward_meta(
    const at::Tensor&, std::string_view, const at::Tensor& policy_chosen, const at::Tensor&,
    const OptionalTensor& policy_response, const OptionalTensor&, const OptionalTensor&,
    const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
    const std::vector<std::string>&, c10::ArrayRef<double>) {
  const auto like = [&] {
    return at::empty_symint(policy_chosen.sym_sizes(), policy_chosen.options());
  };
  return {like(), like(), policy_response ? like() : at::empty({0}, policy_chosen.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> unpaired_loss_meta(const at::Tensor& policy_logps,
                                                                  const at::Tensor&,
                                                                  const at::Tensor&,
                                                                  const OptionalTensor&, double,
                                                                  double, double) {
  const auto like = [&] {
    return at::empty_symint(policy_logps.sym_sizes(), policy_logps.options());
  };
  return {like(), like(), like()};
}

std::tuple<at::Tensor, at::Tensor> logratio_term_meta(std::string_view,
                                                      const at::Tensor& policy_logps,
                                                      const OptionalTensor&, std::string_view,
                                                      double, double, double) {
  const auto like = [&] {
    return at::empty_symint(policy_logps.sym_sizes(), policy_logps.options());
  };
  return {like(), like()};
}

}  // namespace

#define SELM_REGISTER(key)                                         \
  TORCH_LIBRARY_IMPL(selm, key, m) {                               \
    m.impl("_preference_loss", preference_loss);                   \
    m.impl("_preference_loss_backward", preference_loss_backward); \
    m.impl("_unpaired_loss", unpaired_loss);                       \
    m.impl("_logratio_term", logratio_term);                       \
  }
SELM_REGISTER(CPU)
SELM_REGISTER(CUDA)

TORCH_LIBRARY_IMPL(selm, Meta, m) {
  m.impl("_preference_loss", preference_loss_meta);
  m.impl("_preference_loss_backward", preference_loss_backward_meta);
  m.impl("_unpaired_loss", unpaired_loss_meta);
  m.impl("_logratio_term", logratio_term_meta);
}

}  // namespace selm::ops
