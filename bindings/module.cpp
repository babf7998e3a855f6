#include <torch/csrc/utils/pybind.h>

#include <utility>
#include <variant>

#include "selm/core/loss_list.hpp"
#include "selm/torch/ops.hpp"

// `_core`: selm::ops on torch tensors, without the dispatcher's Python layer. Importing it loads
// libselm_torch, which registers torch.ops.selm.

namespace py = pybind11;
using OptionalTensor = std::optional<at::Tensor>;

namespace {

/// pybind11 alone turns c10's errors into RuntimeError; torch.ops maps them to the built-ins named
/// here.
void register_error_translator() {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(std::move(pointer));
    } catch (const c10::IndexError& error) {
      PyErr_SetString(PyExc_IndexError, error.what_without_backtrace());
    } catch (const c10::ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what_without_backtrace());
    } catch (const c10::TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what_without_backtrace());
    } catch (const c10::NotImplementedError& error) {
      PyErr_SetString(PyExc_NotImplementedError, error.what_without_backtrace());
    }
  });
}

template <typename Function>
auto without_gil(Function function) {
  const py::gil_scoped_release released;
  return function();
}

/// None for an output that was not asked for.
OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

using Names = std::optional<std::variant<std::string, std::vector<std::string>>>;
using Numbers = std::optional<std::vector<double>>;
using OptionalNumber = std::optional<double>;

/// One name, or a list of them with weights; None is the default.
selm::LossType loss_type_of(const Names& given, const Numbers& weights) {
  if (!given) {
    return "sigmoid";
  }
  const auto* one = std::get_if<std::string>(&*given);
  const auto names = one ? std::vector{*one} : std::get<std::vector<std::string>>(*given);
  if (weights && weights->size() != names.size()) {
    throw py::value_error("expected 'loss_weights' to hold one number per loss");
  }
  std::vector<selm::WeightedLoss> terms;
  for (std::size_t k = 0; k < names.size(); ++k) {
    terms.push_back({names[k], weights ? (*weights)[k] : 1.0});
  }
  return terms;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> as_tuple(const selm::ops::PreferenceLoss& out) {
  return {out.losses, out.chosen_rewards, out.rejected_rewards};
}

/// The keyword arguments that every reference-based loss shares.
#define SELM_LOSS_OPTIONS                                                                \
  py::arg("loss_type") = py::none(), py::arg("loss_weights") = py::none(),               \
  py::arg("label_smoothing") = 0.0, py::arg("f_divergence_type") = "reverse_kl",         \
  py::arg("f_alpha_divergence_coef") = py::none(), py::arg("discopop_tau") = py::none(), \
  py::arg("dpop_lambda") = py::none(), py::arg("length_margin") = py::none(),            \
  py::arg("chosen_lengths") = py::none(), py::arg("rejected_lengths") = py::none()

void bind_losses(py::module_& m) {
  m.def(
      "dpo_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
         const at::Tensor& ref_chosen, const at::Tensor& ref_rejected, double beta,
         const Names& loss_type, const Numbers& loss_weights, double label_smoothing,
         const std::string& f_divergence_type, OptionalNumber f_alpha_divergence_coef,
         OptionalNumber discopop_tau, OptionalNumber dpop_lambda, OptionalNumber length_margin,
         const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths) {
        const selm::PreferenceOptions options{loss_type_of(loss_type, loss_weights),
                                              beta,
                                              label_smoothing,
                                              f_divergence_type,
                                              f_alpha_divergence_coef,
                                              discopop_tau,
                                              dpop_lambda,
                                              length_margin};
        return without_gil([&] {
          return as_tuple(selm::ops::dpo_loss(policy_chosen, policy_rejected, ref_chosen,
                                              ref_rejected, options, chosen_lengths,
                                              rejected_lengths));
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"), py::arg("ref_chosen_logps"),
      py::arg("ref_rejected_logps"), py::kw_only(), py::arg("beta") = 0.1, SELM_LOSS_OPTIONS);
  m.def(
      "selm_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
         const OptionalTensor& policy_response, const at::Tensor& ref_chosen,
         const at::Tensor& ref_rejected, const OptionalTensor& ref_response, double alpha,
         double beta, const std::string& exploration, OptionalNumber logratio_clip,
         const Names& loss_type, const Numbers& loss_weights, double label_smoothing,
         const std::string& f_divergence_type, OptionalNumber f_alpha_divergence_coef,
         OptionalNumber discopop_tau, OptionalNumber dpop_lambda, OptionalNumber length_margin,
         const OptionalTensor& chosen_lengths, const OptionalTensor& rejected_lengths) {
        const selm::PreferenceOptions options{loss_type_of(loss_type, loss_weights),
                                              beta,
                                              label_smoothing,
                                              f_divergence_type,
                                              f_alpha_divergence_coef,
                                              discopop_tau,
                                              dpop_lambda,
                                              length_margin};
        return without_gil([&] {
          const auto out =
              selm::ops::selm_loss(policy_chosen, policy_rejected, policy_response, ref_chosen,
                                   ref_rejected, ref_response, {alpha, exploration, logratio_clip},
                                   options, chosen_lengths, rejected_lengths);
          return std::make_tuple(out.losses, out.dpo_losses, out.exploration, out.chosen_rewards,
                                 out.rejected_rewards, optional(out.response_rewards));
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"),
      py::arg("policy_response_logps").none(true), py::arg("ref_chosen_logps"),
      py::arg("ref_rejected_logps"), py::arg("ref_response_logps").none(true), py::kw_only(),
      py::arg("alpha"), py::arg("beta"), py::arg("exploration") = "selm",
      py::arg("logratio_clip") = py::none(), SELM_LOSS_OPTIONS);
}

/// Whether one of the named losses reads the chosen responses' lengths, and the rejected ones'.
std::pair<bool, bool> uses_lengths(const std::vector<std::string>& loss_type) {
  std::pair<bool, bool> used{false, false};
  for (const std::string& name : loss_type) {
    if (const selm::LossTraits* loss = selm::find_loss(name)) {
      used.first = used.first || loss->uses_chosen_lengths();
      used.second = used.second || loss->uses_rejected_lengths();
    }
  }
  return used;
}

void bind_policy_losses(py::module_& m) {
  m.def(
      "cpo_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected, double beta,
         const std::string& loss_type, double label_smoothing, const OptionalTensor& chosen_lengths,
         const OptionalTensor& rejected_lengths) {
        return without_gil([&] {
          return as_tuple(selm::ops::cpo_loss(policy_chosen, policy_rejected,
                                              {loss_type, beta, label_smoothing}, chosen_lengths,
                                              rejected_lengths));
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"), py::kw_only(),
      py::arg("beta") = 0.1, py::arg("loss_type") = "sigmoid", py::arg("label_smoothing") = 0.0,
      py::arg("chosen_lengths") = py::none(), py::arg("rejected_lengths") = py::none());
  m.def(
      "simpo_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
         const at::Tensor& chosen_lengths, const at::Tensor& rejected_lengths, double beta,
         double simpo_gamma, double label_smoothing) {
        return without_gil([&] {
          return as_tuple(selm::ops::simpo_loss(policy_chosen, policy_rejected, chosen_lengths,
                                                rejected_lengths, beta, simpo_gamma,
                                                label_smoothing));
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"), py::arg("chosen_lengths"),
      py::arg("rejected_lengths"), py::kw_only(), py::arg("beta") = 0.1,
      py::arg("simpo_gamma") = 0.5, py::arg("label_smoothing") = 0.0);
  m.def(
      "orpo_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
         const at::Tensor& chosen_lengths, const at::Tensor& rejected_lengths, double beta) {
        return without_gil([&] {
          return as_tuple(selm::ops::orpo_loss(policy_chosen, policy_rejected, chosen_lengths,
                                               rejected_lengths, beta));
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"), py::arg("chosen_lengths"),
      py::arg("rejected_lengths"), py::kw_only(), py::arg("beta") = 0.1);
  m.def(
      "kto_loss",
      [](const at::Tensor& policy_logps, const at::Tensor& ref_logps, const at::Tensor& desirable,
         const OptionalTensor& kl, double beta, double desirable_weight, double undesirable_weight,
         const std::string& loss_type) {
        return without_gil([&] {
          const auto out = selm::ops::kto_loss(policy_logps, ref_logps, desirable, kl, beta,
                                               desirable_weight, undesirable_weight, loss_type);
          return std::make_tuple(out.losses, out.rewards);
        });
      },
      py::arg("policy_logps"), py::arg("ref_logps"), py::arg("desirable"), py::arg("kl").none(true),
      py::kw_only(), py::arg("beta") = 0.1, py::arg("desirable_weight") = 1.0,
      py::arg("undesirable_weight") = 1.0, py::arg("loss_type") = "kto");
}

void bind_logps(py::module_& m) {
  m.def(
      "selective_log_softmax",
      [](const at::Tensor& logits, const at::Tensor& index, double temperature,
         std::int64_t ignore_index) {
        return without_gil([&] {
          return selm::ops::selective_log_softmax(logits, index, temperature, ignore_index);
        });
      },
      py::arg("logits"), py::arg("index"), py::kw_only(), py::arg("temperature") = 1.0,
      py::arg("ignore_index") = -100);
  m.def(
      "sequence_logps",
      [](const at::Tensor& logits, const at::Tensor& labels, std::int64_t ignore_index,
         bool average_log_prob) {
        return without_gil([&] {
          return selm::ops::sequence_logps(logits, labels, ignore_index, average_log_prob);
        });
      },
      py::arg("logits"), py::arg("labels"), py::kw_only(), py::arg("ignore_index") = -100,
      py::arg("average_log_prob") = false);
  m.def(
      "linear_logps",
      [](const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
         const OptionalTensor& bias, double temperature, double logit_scale,
         std::optional<double> softcap, std::int64_t ignore_index,
         const std::vector<std::string>& outputs, bool entropy_grad,
         std::optional<std::int64_t> workspace_bytes) {
        return without_gil([&] {
          const auto out =
              selm::ops::linear_logps(hidden, weight, labels,
                                      {bias, temperature, logit_scale, softcap, ignore_index,
                                       outputs, entropy_grad, workspace_bytes});
          return std::make_tuple(out.logps, optional(out.entropy), optional(out.log_sum_sq_probs),
                                 optional(out.mean_logits), optional(out.is_top1));
        });
      },
      py::arg("hidden"), py::arg("weight"), py::arg("labels"), py::kw_only(),
      py::arg("bias") = py::none(), py::arg("temperature") = 1.0, py::arg("logit_scale") = 1.0,
      py::arg("softcap") = py::none(), py::arg("ignore_index") = -100,
      py::arg("outputs") = std::vector<std::string>{}, py::arg("entropy_grad") = false,
      py::arg("workspace_bytes") = py::none());
}

void bind_rewards(py::module_& m) {
  m.def(
      "implicit_rewards",
      [](const at::Tensor& policy_logps, const at::Tensor& ref_logps, double beta) {
        return without_gil(
            [&] { return selm::ops::implicit_rewards(policy_logps, ref_logps, beta); });
      },
      py::arg("policy_logps"), py::arg("ref_logps"), py::kw_only(), py::arg("beta"));
  m.def(
      "exploration_bonus",
      [](const at::Tensor& policy_logps, const OptionalTensor& ref_logps, double alpha,
         std::optional<double> beta, const std::string& kind, OptionalNumber logratio_clip) {
        return without_gil([&] {
          return selm::ops::exploration_bonus(policy_logps, ref_logps, {alpha, kind, logratio_clip},
                                              beta);
        });
      },
      py::arg("policy_logps"), py::arg("ref_logps").none(true), py::kw_only(), py::arg("alpha"),
      py::arg("beta") = py::none(), py::arg("kind") = "selm",
      py::arg("logratio_clip") = py::none());
  m.def(
      "kl_estimate",
      [](const at::Tensor& policy_logps, const at::Tensor& ref_logps, const std::string& kind) {
        return without_gil([&] { return selm::ops::kl_estimate(policy_logps, ref_logps, kind); });
      },
      py::arg("policy_logps"), py::arg("ref_logps"), py::kw_only(), py::arg("kind") = "k3");
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "selm::ops on torch tensors; selm_core documents and checks the same functions.";
  register_error_translator();
  bind_losses(m);
  bind_policy_losses(m);
  bind_logps(m);
  bind_rewards(m);
  m.def("uses_lengths", &uses_lengths, py::arg("loss_type"),
        "Whether these losses read chosen_lengths, and rejected_lengths.");
  m.def("cpu_instruction_set", &selm::ops::cpu_instruction_set,
        "Instruction set that the CPU kernels use on this machine.");
}
