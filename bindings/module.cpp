#include <torch/csrc/utils/pybind.h>

#include <utility>

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

void bind_losses(py::module_& m) {
  m.def(
      "dpo_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
         const at::Tensor& ref_chosen, const at::Tensor& ref_rejected, double beta,
         const std::string& loss_type, double label_smoothing, const OptionalTensor& chosen_lengths,
         const OptionalTensor& rejected_lengths) {
        return without_gil([&] {
          const auto out = selm::ops::dpo_loss(policy_chosen, policy_rejected, ref_chosen,
                                               ref_rejected, {loss_type, beta, label_smoothing},
                                               chosen_lengths, rejected_lengths);
          return std::make_tuple(out.losses, out.chosen_rewards, out.rejected_rewards);
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"), py::arg("ref_chosen_logps"),
      py::arg("ref_rejected_logps"), py::kw_only(), py::arg("beta") = 0.1,
      py::arg("loss_type") = "sigmoid", py::arg("label_smoothing") = 0.0,
      py::arg("chosen_lengths") = py::none(), py::arg("rejected_lengths") = py::none());
  m.def(
      "selm_loss",
      [](const at::Tensor& policy_chosen, const at::Tensor& policy_rejected,
         const OptionalTensor& policy_response, const at::Tensor& ref_chosen,
         const at::Tensor& ref_rejected, const OptionalTensor& ref_response, double alpha,
         double beta, const std::string& exploration, const std::string& loss_type,
         double label_smoothing, const OptionalTensor& chosen_lengths,
         const OptionalTensor& rejected_lengths) {
        return without_gil([&] {
          const auto out = selm::ops::selm_loss(
              policy_chosen, policy_rejected, policy_response, ref_chosen, ref_rejected,
              ref_response, {alpha, exploration}, {loss_type, beta, label_smoothing},
              chosen_lengths, rejected_lengths);
          return std::make_tuple(out.losses, out.dpo_losses, out.exploration, out.chosen_rewards,
                                 out.rejected_rewards, optional(out.response_rewards));
        });
      },
      py::arg("policy_chosen_logps"), py::arg("policy_rejected_logps"),
      py::arg("policy_response_logps").none(true), py::arg("ref_chosen_logps"),
      py::arg("ref_rejected_logps"), py::arg("ref_response_logps").none(true), py::kw_only(),
      py::arg("alpha"), py::arg("beta"), py::arg("exploration") = "selm",
      py::arg("loss_type") = "sigmoid", py::arg("label_smoothing") = 0.0,
      py::arg("chosen_lengths") = py::none(), py::arg("rejected_lengths") = py::none());
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
         const std::vector<std::string>& outputs, std::optional<std::int64_t> workspace_bytes) {
        return without_gil([&] {
          const auto out = selm::ops::linear_logps(
              hidden, weight, labels,
              {bias, temperature, logit_scale, softcap, ignore_index, outputs, workspace_bytes});
          return std::make_tuple(out.logps, optional(out.entropy), optional(out.log_sum_sq_probs),
                                 optional(out.mean_logits), optional(out.is_top1));
        });
      },
      py::arg("hidden"), py::arg("weight"), py::arg("labels"), py::kw_only(),
      py::arg("bias") = py::none(), py::arg("temperature") = 1.0, py::arg("logit_scale") = 1.0,
      py::arg("softcap") = py::none(), py::arg("ignore_index") = -100,
      py::arg("outputs") = std::vector<std::string>{}, py::arg("workspace_bytes") = py::none());
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
         std::optional<double> beta, const std::string& kind) {
        return without_gil([&] {
          return selm::ops::exploration_bonus(policy_logps, ref_logps, {alpha, kind}, beta);
        });
      },
      py::arg("policy_logps"), py::arg("ref_logps").none(true), py::kw_only(), py::arg("alpha"),
      py::arg("beta") = py::none(), py::arg("kind") = "selm");
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
  bind_logps(m);
  bind_rewards(m);
  m.def("cpu_instruction_set", &selm::ops::cpu_instruction_set,
        "Instruction set that the CPU kernels use on this machine.");
}
