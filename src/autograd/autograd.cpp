#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>

#include "autograd/once_differentiable.hpp"
#include "native/linear_head.hpp"
#include "private_ops.hpp"
#include "selm/core/loss_list.hpp"

// Forward also computes the gradient for a unit upstream gradient, or a summary from which one pass
// over the logits gives it; no formula lives here.

namespace selm::ops {
namespace {

using Guard = at::AutoDispatchBelowADInplaceOrView;

/// Whether a loss of the list ranks the batch, so that a loss belongs to several rows.
bool ranks_the_batch(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    const LossTraits* loss = find_loss(name);
    return loss != nullptr && loss->pairing != Pairing::row;
  });
}

class PreferenceLossFunction : public Function<PreferenceLossFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, std::string_view op,
                               const Variable& policy_chosen, const Variable& policy_rejected,
                               const OptionalTensor& policy_response,
                               const OptionalTensor& ref_chosen, const OptionalTensor& ref_rejected,
                               const OptionalTensor& ref_response,
                               const OptionalTensor& chosen_lengths,
                               const OptionalTensor& rejected_lengths,
                               const std::vector<std::string>& names,
                               c10::ArrayRef<double> numbers) {
    const Guard guard;
    variable_list out = preference_loss_op().call(
        op, policy_chosen, policy_rejected, policy_response, ref_chosen, ref_rejected, ref_response,
        chosen_lengths, rejected_lengths, names, numbers);
    ctx->mark_non_differentiable(variable_list(out.begin() + 1, out.end()));
    ctx->set_materialize_grads(false);
    ctx->saved_data["op"] = std::string(op);
    const auto or_undefined = [](const OptionalTensor& x) { return x.value_or(Variable()); };
    variable_list saved{policy_chosen, policy_rejected, or_undefined(policy_response)};
    if (ranks_the_batch(names)) {
      // A loss belongs to several rows: backward asks the kernel again, with the upstream gradient.
      for (const OptionalTensor& tensor :
           {ref_chosen, ref_rejected, ref_response, chosen_lengths, rejected_lengths}) {
        saved.push_back(or_undefined(tensor));
      }
      ctx->saved_data["names"] = names;
      ctx->saved_data["numbers"] = numbers.vec();
    } else {
      saved.insert(saved.end(), {out[5], out[6], policy_response ? out[8] : Variable()});
    }
    ctx->save_for_backward(std::move(saved));
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(11);
    const Variable& upstream = grads[0];
    if (!upstream.defined()) {
      return result;
    }
    const variable_list saved = ctx->get_saved_variables();
    variable_list dependencies{saved[0], saved[1], upstream};
    if (saved[2].defined()) {
      dependencies.push_back(saved[2]);
    }
    const bool ranked = ctx->saved_data.count("names") > 0;
    const variable_list again = ranked ? derivatives(ctx, saved, upstream) : variable_list();
    for (std::size_t k = 0; k < 3; ++k) {
      if (saved[k].defined()) {
        result[1 + k] = first_derivative(ctx->saved_data["op"].toStringRef(), dependencies, [&] {
          return ranked ? again[k] : upstream * saved[3 + k];
        });
      }
    }
    return result;
  }

 private:
  /// With respect to the policy's chosen, rejected and response.
  static variable_list derivatives(AutogradContext* ctx, const variable_list& saved,
                                   const Variable& upstream) {
    const Guard guard;
    const auto optional = [&](std::size_t k) {
      return saved[k].defined() ? OptionalTensor(saved[k]) : std::nullopt;
    };
    const auto names = ctx->saved_data["names"].to<std::vector<std::string>>();
    const std::vector<double> numbers = ctx->saved_data["numbers"].toDoubleVector();
    const auto [d_chosen, d_rejected, d_response] = preference_loss_backward_op().call(
        upstream, ctx->saved_data["op"].toStringRef(), saved[0], saved[1], optional(2), optional(3),
        optional(4), optional(5), optional(6), optional(7), names, numbers);
    return {d_chosen, d_rejected, d_response};
  }
};

class UnpairedLossFunction : public Function<UnpairedLossFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Variable& policy_logps,
                               const Variable& ref_logps, const Variable& desirable,
                               const OptionalTensor& kl, double beta, double desirable_weight,
                               double undesirable_weight) {
    const Guard guard;
    auto [losses, rewards, derivative] = unpaired_loss_op().call(
        policy_logps, ref_logps, desirable, kl, beta, desirable_weight, undesirable_weight);
    ctx->mark_non_differentiable({rewards, derivative});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({derivative, policy_logps});
    return {losses, rewards, derivative};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(7);
    if (grads[0].defined()) {
      const variable_list saved = ctx->get_saved_variables();
      result[0] =
          first_derivative("kto_loss", {saved[1], grads[0]}, [&] { return grads[0] * saved[0]; });
    }
    return result;
  }
};

class LogratioTermFunction : public Function<LogratioTermFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, std::string_view op,
                               const Variable& policy_logps, const OptionalTensor& ref_logps,
                               std::string_view kind, double alpha, double beta,
                               double logratio_clip) {
    const Guard guard;
    auto [value, derivative] =
        logratio_term_op().call(op, policy_logps, ref_logps, kind, alpha, beta, logratio_clip);
    ctx->mark_non_differentiable({derivative});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({derivative, policy_logps});
    ctx->saved_data["op"] = std::string(op);
    return {value, derivative};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(7);
    if (grads[0].defined()) {
      const variable_list saved = ctx->get_saved_variables();
      result[1] = first_derivative(ctx->saved_data["op"].toStringRef(), {saved[1], grads[0]},
                                   [&] { return grads[0] * saved[0]; });
    }
    return result;
  }
};

class TokenLogpsFunction : public Function<TokenLogpsFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Variable& logits, const Variable& index,
                               double temperature, std::int64_t ignore_index) {
    const Guard guard;
    auto [logps, summary] = token_logps_op().call(logits, index, temperature, ignore_index);
    ctx->mark_non_differentiable({summary});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({logits, index, summary});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["ignore_index"] = ignore_index;
    return {logps, summary};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(4);
    if (grads[0].defined()) {
      const variable_list saved = ctx->get_saved_variables();
      result[0] = first_derivative("selective_log_softmax", {saved[0], grads[0]}, [&] {
        return token_logps_backward_op().call(grads[0], saved[0], saved[1], saved[2],
                                              ctx->saved_data["temperature"].toDouble(),
                                              ctx->saved_data["ignore_index"].toInt());
      });
    }
    return result;
  }
};

class SequenceLogpsFunction : public Function<SequenceLogpsFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Variable& logits, const Variable& labels,
                               std::int64_t ignore_index, bool average_log_prob) {
    const Guard guard;
    auto [logps, summary] =
        sequence_logps_op().call(logits, labels, ignore_index, average_log_prob);
    ctx->mark_non_differentiable({summary});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({logits, labels, summary});
    ctx->saved_data["ignore_index"] = ignore_index;
    ctx->saved_data["average_log_prob"] = average_log_prob;
    return {logps, summary};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(4);
    if (grads[0].defined()) {
      const variable_list saved = ctx->get_saved_variables();
      result[0] = first_derivative("sequence_logps", {saved[0], grads[0]}, [&] {
        return sequence_logps_backward_op().call(grads[0], saved[0], saved[1], saved[2],
                                                 ctx->saved_data["ignore_index"].toInt(),
                                                 ctx->saved_data["average_log_prob"].toBool());
      });
    }
    return result;
  }
};

class LinearLogpsFunction : public Function<LinearLogpsFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Variable& hidden, const Variable& weight,
                               const Variable& labels, const OptionalTensor& bias,
                               c10::ArrayRef<double> transform, std::int64_t ignore_index,
                               std::array<bool, 4> outputs,
                               std::optional<std::int64_t> workspace_bytes,
                               std::int64_t for_backward, bool entropy_grad) {
    const Guard guard;
    variable_list out =
        linear_logps_op().call(hidden, weight, labels, bias, transform, ignore_index, outputs,
                               workspace_bytes, for_backward, entropy_grad);
    variable_list detached(out.begin() + 1, out.end());
    if (entropy_grad) {
      detached.erase(detached.begin() + 3);
    }
    ctx->mark_non_differentiable(detached);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward(
        {hidden, weight, labels, bias.value_or(Variable()), out[1], out[2], out[3], out[4]});
    ctx->saved_data["transform"] = transform.vec();
    ctx->saved_data["ignore_index"] = ignore_index;
    ctx->saved_data["workspace_bytes"] = workspace_bytes;
    ctx->saved_data["has_hidden_grad"] =
        for_backward == static_cast<std::int64_t>(ForBackward::hidden_grad);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(10);
    const Variable &grad = grads[0], &entropy_grad = grads[4];
    if (!grad.defined() && !entropy_grad.defined()) {
      return result;
    }
    const variable_list saved = ctx->get_saved_variables();
    if (ctx->saved_data["has_hidden_grad"].toBool() && !entropy_grad.defined()) {
      result[0] = scaled_hidden_grad(ctx, grad, saved);
      return result;
    }
    const std::array<bool, 3> needed{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                                     saved[3].defined() && ctx->needs_input_grad(3)};
    const variable_list out = computed(ctx, grad, entropy_grad, saved, needed);
    variable_list dependencies;
    for (const Variable& tensor : {saved[0], saved[1], saved[3], grad, entropy_grad}) {
      if (tensor.defined()) {
        dependencies.push_back(tensor);
      }
    }
    constexpr std::array<std::size_t, 3> inputs{0, 1, 3};
    for (std::size_t k = 0; k < needed.size(); ++k) {
      if (needed[k]) {
        result[inputs[k]] = first_derivative("linear_logps", dependencies, [&] { return out[k]; });
      }
    }
    return result;
  }

 private:
  /// Frozen head: the forward pass has left d logps / d hidden, one row per label. Those of ignored
  /// labels are 0 whatever comes from upstream, also where it is infinite.
  static Variable scaled_hidden_grad(AutogradContext* ctx, const Variable& grad,
                                     const variable_list& saved) {
    const Variable &hidden = saved[0], &labels = saved[2], &hidden_grad = saved[5];
    return first_derivative("linear_logps", {hidden, grad}, [&] {
      const Variable ignored = labels.eq(ctx->saved_data["ignore_index"].toInt());
      return (hidden_grad * grad.masked_fill(ignored, 0.0).reshape_symint({-1, 1}))
          .view_symint(hidden.sym_sizes())
          .to(hidden.scalar_type());
    });
  }

  static variable_list computed(AutogradContext* ctx, const Variable& grad,
                                const Variable& entropy_grad, const variable_list& saved,
                                std::array<bool, 3> needed) {
    const at::AutoGradMode no_graph(false);
    const auto optional = [](const Variable& tensor) {
      return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
    };
    const auto [d_hidden, d_weight, d_bias] = linear_logps_backward_op().call(
        optional(grad), optional(entropy_grad), saved[0], saved[1], saved[2], optional(saved[3]),
        saved[4], saved[7], saved[6], ctx->saved_data["transform"].toDoubleVector(),
        ctx->saved_data["ignore_index"].toInt(),
        ctx->saved_data["workspace_bytes"].toOptional<std::int64_t>(), needed);
    return {d_hidden, d_weight, d_bias};
  }
};

std::tuple<at::Tensor, at::Tensor> as_pair(const variable_list& out) {
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(selm, Autograd, m) {
  m.impl("_preference_loss",
         [](std::string_view op, const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
            const OptionalTensor& policy_response, const OptionalTensor& ref_chosen,
            const OptionalTensor& ref_rejected, const OptionalTensor& ref_response,
            const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths,
            const std::vector<std::string>& names, c10::ArrayRef<double> numbers) {
           return PreferenceLossFunction::apply(op, policy_chosen, policy_rejected, policy_response,
                                                ref_chosen, ref_rejected, ref_response,
                                                chosen_lengths, rejected_lengths, names, numbers);
         });
  m.impl("_unpaired_loss", [](const at::Tensor& policy_logps, const at::Tensor& ref_logps,
                              const at::Tensor& desirable, const OptionalTensor& kl, double beta,
                              double desirable_weight, double undesirable_weight) {
    const variable_list out = UnpairedLossFunction::apply(
        policy_logps, ref_logps, desirable, kl, beta, desirable_weight, undesirable_weight);
    return std::make_tuple(out[0], out[1], out[2]);
  });
  m.impl("_logratio_term",
         [](std::string_view op, const at::Tensor& policy_logps, const OptionalTensor& ref_logps,
            std::string_view kind, double alpha, double beta, double logratio_clip) {
           return as_pair(LogratioTermFunction::apply(op, policy_logps, ref_logps, kind, alpha,
                                                      beta, logratio_clip));
         });
  m.impl("_token_logps", [](const at::Tensor& logits, const at::Tensor& index, double temperature,
                            std::int64_t ignore_index) {
    return as_pair(TokenLogpsFunction::apply(logits, index, temperature, ignore_index));
  });
  m.impl("_sequence_logps", [](const at::Tensor& logits, const at::Tensor& labels,
                               std::int64_t ignore_index, bool average_log_prob) {
    return as_pair(SequenceLogpsFunction::apply(logits, labels, ignore_index, average_log_prob));
  });
  m.impl("_linear_logps",
         [](const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
            const OptionalTensor& bias, c10::ArrayRef<double> transform, std::int64_t ignore_index,
            std::array<bool, 4> outputs, std::optional<std::int64_t> workspace_bytes,
            std::int64_t for_backward, bool entropy_grad) {
           return LinearLogpsFunction::apply(hidden, weight, labels, bias, transform, ignore_index,
                                             outputs, workspace_bytes, for_backward, entropy_grad);
         });
}

}  // namespace selm::ops
