#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "backend.hpp"
#include "checks.hpp"
#include "private_ops.hpp"
#include "selm/host/options.hpp"
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

std::vector<at::Tensor> preference_loss(
    std::string_view op, const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
    const OptionalTensor& policy_response, const at::Tensor& ref_chosen,
    const at::Tensor& ref_rejected, const OptionalTensor& ref_response,
    const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths, double alpha,
    std::string_view exploration, double beta, std::string_view loss_type, double label_smoothing) {
  const at::Tensor policy_w = policy_chosen.contiguous(), policy_l = policy_rejected.contiguous();
  const at::Tensor ref_w = ref_chosen.contiguous(), ref_l = ref_rejected.contiguous();
  const OptionalTensor policy_y = contiguous(policy_response), ref_y = contiguous(ref_response);
  const OptionalTensor length_w = contiguous(chosen_lengths);
  const OptionalTensor length_l = contiguous(rejected_lengths);
  std::vector<at::Tensor> out(policy_y ? 9 : 7);
  for (at::Tensor& tensor : out) {
    tensor = at::empty_like(policy_w);
  }
  AT_DISPATCH_FLOATING_TYPES(policy_w.scalar_type(), "selm::preference_loss", [&] {
    const PreferenceInputs<scalar_t> in{
        pointer<scalar_t>(policy_w),     pointer<scalar_t>(policy_l),
        pointer<scalar_t>(policy_y),     pointer<scalar_t>(ref_w),
        pointer<scalar_t>(ref_l),        pointer<scalar_t>(ref_y),
        pointer<std::int64_t>(length_w), pointer<std::int64_t>(length_l)};
    if (policy_w.is_cpu()) {
      check::translated([&] { check_values(op, in, policy_w.numel()); });
    }
    const auto data = [&](std::size_t k) {
      return k < out.size() ? out[k].mutable_data_ptr<scalar_t>() : nullptr;
    };
    const PreferenceOutputs<scalar_t> results{data(0), data(1), data(2), data(3), data(4),
                                              data(7), data(5), data(6), data(8)};
    backend::preference(policy_w.device(), {std::string(loss_type), beta, label_smoothing},
                        {alpha, std::string(exploration)}, in, results, policy_w.numel());
  });
  return out;
}

/// Calls `visit(functor)` with the function of one log-ratio that `op` and `kind` name.
template <typename Visit>
void visit_logratio_term(std::string_view op, std::string_view kind, double alpha, double beta,
                         Visit visit) {
  if (op == "implicit_rewards") {
    visit(ImplicitReward<double>{beta});
  } else if (op == "exploration_bonus") {
    visit(make_exploration({alpha, std::string(kind)}, beta));
  } else {
    TORCH_CHECK_VALUE(op == "kl_estimate", "selm::_logratio_term: unknown operator '", op, "'");
    visit(KlEstimate<double>{find_kl_estimator(kind)->kind});
  }
}

std::tuple<at::Tensor, at::Tensor> logratio_term(std::string_view op,
                                                 const at::Tensor& policy_logps,
                                                 const OptionalTensor& ref_logps,
                                                 std::string_view kind, double alpha, double beta) {
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
    visit_logratio_term(op, kind, alpha, beta, [&](const auto& functor) {
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
                                             const at::Tensor&, const at::Tensor&,
                                             const OptionalTensor&, const OptionalTensor&,
                                             const OptionalTensor&, double, std::string_view,
                                             double, std::string_view, double) {
  std::vector<at::Tensor> out(policy_response ? 9 : 7);
  for (at::Tensor& tensor : out) {
    tensor = at::empty_symint(policy_chosen.sym_sizes(), policy_chosen.options());
  }
  return out;
}

std::tuple<at::Tensor, at::Tensor> logratio_term_meta(std::string_view,
                                                      const at::Tensor& policy_logps,
                                                      const OptionalTensor&, std::string_view,
                                                      double, double) {
  const auto like = [&] {
    return at::empty_symint(policy_logps.sym_sizes(), policy_logps.options());
  };
  return {like(), like()};
}

}  // namespace

#define SELM_REGISTER(key)                       \
  TORCH_LIBRARY_IMPL(selm, key, m) {             \
    m.impl("_preference_loss", preference_loss); \
    m.impl("_logratio_term", logratio_term);     \
  }
SELM_REGISTER(CPU)
SELM_REGISTER(CUDA)

TORCH_LIBRARY_IMPL(selm, Meta, m) {
  m.impl("_preference_loss", preference_loss_meta);
  m.impl("_logratio_term", logratio_term_meta);
}

}  // namespace selm::ops
