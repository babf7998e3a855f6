#include "selm/torch/ops.hpp"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>

#include "autocast.hpp"
#include "checks.hpp"
#include "cpu/row_math.hpp"
#include "native/linear_head.hpp"
#include "private_ops.hpp"
#include "rows.hpp"
#include "selm/host/options.hpp"

// Public operators: check, then call the private operator that has the kernels. They are composite,
// so autograd, autocast, tracing and meta tensors reach the private ones.

namespace selm::ops {
namespace {

using check::Argument;
using check::translated;

/// Logits and their row labels: any floating dtype, int32 or int64 labels, matching leading shape.
void check_logits(const Argument& logits, const Argument& labels) {
  check::strided(logits);
  check::floating_dtype(logits);
  check::strided(labels);
  check::integer_dtype(labels);
  check::same_device(labels, logits);
  TORCH_CHECK_VALUE(logits.value.sym_size(-1) > 0 || labels.value.sym_numel() == 0,
                    logits.expected("to have a vocabulary, got "), check::describe(logits.value));
}

void check_row_shape(const Argument& rows, const Argument& labels) {
  TORCH_CHECK_VALUE(
      labels.value.dim() == rows.value.dim() - 1 &&
          labels.value.sym_sizes() == rows.value.sym_sizes().slice(0, labels.value.dim()),
      labels.expected("to have the shape of '"), rows.name, "' without its last dimension, got ",
      check::describe(labels.value), " for ", check::describe(rows.value));
}

void check_rank(const Argument& a, std::int64_t low, std::int64_t high, const char* shapes) {
  TORCH_CHECK_VALUE(a.value.dim() >= low && a.value.dim() <= high, a.expected("to have shape "),
                    shapes, ", got ", check::describe(a.value));
}

/// Calls `check(T())` with the type that logits of `tensor` are accumulated in.
template <typename Check>
void with_accumulation_type(const at::Tensor& tensor, Check check) {
  translated([&] { accumulation_type(tensor) == at::kDouble ? check(0.0) : check(0.0F); });
}

void check_transform(const char* op, const at::Tensor& hidden, const LinearLogpsOptions& options) {
  const double temperature = options.temperature;
  const double logit_scale = options.logit_scale;
  with_accumulation_type(hidden, [&](auto zero) {
    using T = decltype(zero);
    validate_positive(op, "temperature", temperature);
    validate_positive(op, "logit_scale", logit_scale);
    validate_factor<T>(op, "temperature", temperature, "logit_scale / temperature",
                       logit_scale / temperature);
    if (options.softcap) {
      const double softcap = *options.softcap;
      validate_positive(op, "softcap", softcap);
      validate_factor<T>(op, "softcap", softcap, "logit_scale / softcap", logit_scale / softcap);
      validate_factor<T>(op, "softcap", softcap, "softcap / temperature", softcap / temperature);
    }
  });
}

/// An operand of the head's matrix product, in the type that it is computed in.
at::Tensor head_operand(const Argument& a, const char* hint = "") {
  check::strided(a);
  check::floating_dtype(a, hint);
  return autocast(a.value);
}

void check_head(const char* op, const at::Tensor& hidden, const at::Tensor& weight,
                const OptionalTensor& bias) {
  const Argument h{op, "hidden", hidden};
  const Argument w{op, "weight", weight};
  TORCH_CHECK_VALUE(weight.sym_numel() != 0, w.expected("to hold the whole head, got "),
                    check::describe(weight), ": weight is empty, gather it first (ZeRO-3/FSDP)");
  check_rank(w, 2, 2, "(vocab, hidden)");
  check::same_device(w, h);
  TORCH_CHECK_TYPE(hidden.scalar_type() == weight.scalar_type(), w.expected("to be "),
                   check::dtype_name(hidden.scalar_type()), " (same as 'hidden'), got ",
                   check::dtype_name(weight.scalar_type()),
                   ": cast one of them, or use autocast, which casts both");
  TORCH_CHECK_VALUE(weight.sym_size(1) == hidden.sym_size(-1),
                    w.expected("to have shape (vocab, hidden) with hidden = "), hidden.sym_size(-1),
                    ", got ", check::describe(weight),
                    weight.sym_size(0) == hidden.sym_size(-1) ? ": is it transposed?" : "");
  if (bias) {
    const Argument b{op, "bias", *bias};
    check::same_dtype(b, w);
    check::same_device(b, w);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0),
                      b.expected("to have shape ["), weight.sym_size(0), "], got ",
                      check::describe(*bias));
  }
}

constexpr std::array<const char*, 4> output_names{"entropy", "log_sum_sq_probs", "mean_logits",
                                                  "is_top1"};

std::array<bool, 4> parse_outputs(const char* op, const std::vector<std::string>& outputs) {
  std::array<bool, 4> asked{};
  for (const std::string& output : outputs) {
    const auto* const found = std::find(output_names.begin(), output_names.end(), output);
    if (found == output_names.end()) {
      translated([&] { throw detail::unknown_name(op, "outputs", output_names, output); });
    }
    asked[static_cast<std::size_t>(found - output_names.begin())] = true;
  }
  return asked;
}

at::Tensor logratio_term(const char* op, const at::Tensor& policy, const OptionalTensor& ref,
                         std::string_view kind, double alpha, double beta,
                         double logratio_clip = std::numeric_limits<double>::infinity()) {
  const Argument first{op, "policy_logps", policy};
  check::strided(first);
  check::sequence_dtype(first);
  if (ref) {
    const Argument reference{op, "ref_logps", *ref};
    check::like(reference, first);
    check::no_grad(reference);
  }
  return std::get<0>(logratio_term_op().call(op, policy, ref, kind, alpha, beta, logratio_clip));
}

}  // namespace

at::Tensor selective_log_softmax(const at::Tensor& logits, const at::Tensor& index,
                                 double temperature, std::int64_t ignore_index) {
  const char* op = "selective_log_softmax";
  const Argument l{op, "logits", logits};
  const Argument i{op, "index", index};
  check::strided(l);
  check_rank(l, 2, 3, "(rows, vocab) or (batch, time, vocab)");
  check_logits(l, i);
  check_row_shape(l, i);
  with_accumulation_type(logits,
                         [&](auto zero) { validate_temperature<decltype(zero)>(op, temperature); });
  return std::get<0>(token_logps_op().call(logits, index, temperature, ignore_index));
}

at::Tensor sequence_logps(const at::Tensor& logits, const at::Tensor& labels,
                          std::int64_t ignore_index, bool average_log_prob) {
  const char* op = "sequence_logps";
  const Argument l{op, "logits", logits};
  const Argument y{op, "labels", labels};
  check::strided(l);
  check_rank(l, 3, 3, "(batch, time, vocab)");
  check_logits(l, y);
  TORCH_CHECK_VALUE(labels.dim() == 2 && labels.sym_size(0) == logits.sym_size(0) &&
                        labels.sym_size(1) == logits.sym_size(1),
                    y.expected("to have shape (batch, time) as 'logits' does, got "),
                    check::describe(labels), " for ", check::describe(logits),
                    labels.dim() == 2 && labels.sym_size(1) - logits.sym_size(1) == 1
                        ? ": are the logits already shifted? This operator shifts"
                    : labels.dim() == 2 && logits.sym_size(1) - labels.sym_size(1) == 1
                        ? ": are the labels already shifted? This operator shifts"
                        : "");
  return std::get<0>(sequence_logps_op().call(logits, labels, ignore_index, average_log_prob));
}

/// Nothing of the head's size is kept when only the hidden states need a gradient.
static ForBackward for_backward(const at::Tensor& hidden, const at::Tensor& weight,
                                const OptionalTensor& bias) {
  if (!at::GradMode::is_enabled()) {
    return ForBackward::summary;
  }
  if (weight.requires_grad() || (bias && bias->requires_grad())) {
    return ForBackward::logit_grads;
  }
  return hidden.requires_grad() ? ForBackward::hidden_grad : ForBackward::summary;
}

LinearLogps linear_logps(const at::Tensor& given_hidden, const at::Tensor& given_weight,
                         const at::Tensor& labels, const LinearLogpsOptions& options) {
  const char* op = "linear_logps";
  const at::Tensor hidden = head_operand({op, "hidden", given_hidden});
  const at::Tensor weight =
      head_operand({op, "weight", given_weight}, ": a quantized head must be dequantized first");
  const OptionalTensor bias =
      options.bias ? OptionalTensor(head_operand({op, "bias", *options.bias})) : std::nullopt;
  const Argument h{op, "hidden", hidden};
  const Argument y{op, "labels", labels};
  check_rank(h, 2, 3, "(rows, hidden) or (batch, time, hidden)");
  check_head(op, hidden, weight, bias);
  check::strided(y);
  check::integer_dtype(y);
  check::same_device(y, h);
  check_row_shape(h, y);
  check_transform(op, hidden, options);
  const std::array<bool, 4> asked = parse_outputs(op, options.outputs);
  TORCH_CHECK_VALUE(asked[0] || !options.entropy_grad,
                    "selm::linear_logps: expected 'entropy_grad' to be false where 'outputs' does "
                    "not ask for 'entropy', got true");
  const std::array<double, 3> transform{options.temperature, options.logit_scale,
                                        options.softcap.value_or(0.0)};
  const std::vector<at::Tensor> out = linear_logps_op().call(
      hidden, weight, labels, bias, transform, options.ignore_index, asked, options.workspace_bytes,
      static_cast<std::int64_t>(for_backward(hidden, weight, bias)), options.entropy_grad);
  const auto output = [&](std::size_t k) { return asked[k] ? out[4 + k] : at::Tensor(); };
  return {out[0], output(0), output(1), output(2), output(3)};
}

at::Tensor implicit_rewards(const at::Tensor& policy_logps, const at::Tensor& ref_logps,
                            double beta) {
  const char* op = "implicit_rewards";
  translated([&] { validate_beta(op, beta); });
  return logratio_term(op, policy_logps, ref_logps, "", 0.0, beta);
}

at::Tensor exploration_bonus(const at::Tensor& policy_logps, const OptionalTensor& ref_logps,
                             const ExplorationOptions& options, std::optional<double> beta) {
  const char* op = "exploration_bonus";
  translated([&] {
    validate(op, options, "kind");
    validate_reference_use(op, options, beta.has_value(), ref_logps.has_value());
    if (beta) {
      validate_beta(op, *beta);
    }
  });
  return logratio_term(op, policy_logps, ref_logps, options.kind, options.alpha, beta.value_or(1.0),
                       options.logratio_clip.value_or(std::numeric_limits<double>::infinity()));
}

at::Tensor kl_estimate(const at::Tensor& policy_logps, const at::Tensor& ref_logps,
                       std::string_view kind) {
  const char* op = "kl_estimate";
  translated([&] { parse_kl_estimator(op, kind); });
  return logratio_term(op, policy_logps, ref_logps, kind, 0.0, 1.0);
}

const char* cpu_instruction_set() {
  return cpu::row_math().instruction_set;
}

namespace {

/// The dispatcher's schemas have no undefined tensors: an output that was not asked for is empty.
at::Tensor or_empty(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::empty({0}, like.options().requires_grad(false));
}

}  // namespace

TORCH_LIBRARY_IMPL(selm, CompositeImplicitAutograd, m) {
  m.impl("selective_log_softmax", selective_log_softmax);
  m.impl("sequence_logps", sequence_logps);
  m.impl("linear_logps", [](const at::Tensor& hidden, const at::Tensor& weight,
                            const at::Tensor& labels, const OptionalTensor& bias,
                            double temperature, double logit_scale, std::optional<double> softcap,
                            std::int64_t ignore_index,
                            const std::optional<std::vector<std::string>>& outputs,
                            bool entropy_grad, std::optional<std::int64_t> workspace_bytes) {
    const LinearLogps out =
        linear_logps(hidden, weight, labels,
                     {bias, temperature, logit_scale, softcap, ignore_index,
                      outputs.value_or(std::vector<std::string>{}), entropy_grad, workspace_bytes});
    return std::make_tuple(out.logps, or_empty(out.entropy, out.logps),
                           or_empty(out.log_sum_sq_probs, out.logps),
                           or_empty(out.mean_logits, out.logps), or_empty(out.is_top1, out.logps));
  });
  m.impl("implicit_rewards", implicit_rewards);
  m.impl("exploration_bonus", [](const at::Tensor& policy_logps, const OptionalTensor& ref_logps,
                                 double alpha, std::optional<double> beta, std::string_view kind,
                                 std::optional<double> logratio_clip) {
    return exploration_bonus(policy_logps, ref_logps, {alpha, std::string(kind), logratio_clip},
                             beta);
  });
  m.impl("kl_estimate",
         [](const at::Tensor& policy_logps, const at::Tensor& ref_logps, std::string_view kind) {
           return kl_estimate(policy_logps, ref_logps, kind);
         });
}

}  // namespace selm::ops
