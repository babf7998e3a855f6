#include "bind_eigen.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "numpy_arrays.hpp"
#include "selm/selm.hpp"

// `_numpy`: the Eigen functions on NumPy arrays, without torch. selm_core/numpy.py documents them.

namespace selm::python {
namespace {

/// Of the labels' shape: one row of logits per label.
void check_logits(const Argument& logits, const py::array& values, py::ssize_t least_rank,
                  const Argument& index, const py::array& targets) {
  if (values.ndim() < least_rank || values.ndim() > 3) {
    throw logits.error(ErrorCode::value,
                       least_rank == 3 ? "to have shape (batch, time, vocab)"
                                       : "to have shape (rows, vocab) or (batch, time, vocab)",
                       text(shape_of(values)));
  }
  Shape expected = shape_of(values);
  expected.pop_back();
  const Shape got = shape_of(targets);
  if (got != expected) {
    const bool shifted =
        got.size() == 2 && expected.size() == 2 && std::abs(got[1] - expected[1]) == 1;
    throw index.error(
        ErrorCode::value,
        fmt::format("to have shape {} (as 'logits' without the vocabulary)", text(expected)),
        text(got) + (shifted ? " (already shifted?)" : ""));
  }
}

/// Python's `_loss_options.LossOptions` with beta in front.
using LossOptions = std::tuple<double, std::vector<std::string>, std::optional<std::vector<double>>,
                               double, std::string, std::optional<double>, std::optional<double>,
                               std::optional<double>, std::optional<double>>;

PreferenceOptions to_options(const LossOptions& given) {
  const auto& [beta, names, weights, label_smoothing, f_divergence_type, f_alpha_divergence_coef,
               discopop_tau, dpop_lambda, length_margin] = given;
  std::vector<WeightedLoss> terms;
  for (std::size_t k = 0; k < names.size(); ++k) {
    terms.push_back({names[k], weights ? weights->at(k) : 1.0});
  }
  return {std::move(terms),        beta,         label_smoothing, f_divergence_type,
          f_alpha_divergence_coef, discopop_tau, dpop_lambda,     length_margin};
}

template <typename T>
py::tuple to_tuple(PreferenceLoss<T>&& out) {
  return py::make_tuple(to_numpy(std::move(out.losses)), to_numpy(std::move(out.chosen_rewards)),
                        to_numpy(std::move(out.rejected_rewards)),
                        to_numpy(std::move(out.grad_chosen_logps)),
                        to_numpy(std::move(out.grad_rejected_logps)));
}

py::tuple dpo_loss(py::handle policy_chosen_logps, py::handle policy_rejected_logps,
                   py::handle ref_chosen_logps, py::handle ref_rejected_logps,
                   const LossOptions& options, py::handle chosen_lengths,
                   py::handle rejected_lengths) {
  const auto argument = [](const char* name, py::handle value) {
    return Argument{"dpo_loss", name, value};
  };
  const Argument first = argument("policy_chosen_logps", policy_chosen_logps);
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto policy_chosen = per_pair<T>(first);
    const auto policy_rejected =
        per_pair<T>(argument("policy_rejected_logps", policy_rejected_logps));
    const auto ref_chosen = per_pair<T>(argument("ref_chosen_logps", ref_chosen_logps));
    const auto ref_rejected = per_pair<T>(argument("ref_rejected_logps", ref_rejected_logps));
    const auto chosen = optional_lengths(argument("chosen_lengths", chosen_lengths));
    const auto rejected = optional_lengths(argument("rejected_lengths", rejected_lengths));
    return to_tuple(without_gil([&] {
      return selm::dpo_loss(flat(policy_chosen), flat(policy_rejected), flat(ref_chosen),
                            flat(ref_rejected), to_options(options), flat(chosen), flat(rejected));
    }));
  });
}

py::tuple selm_loss(py::handle policy_chosen_logps, py::handle policy_rejected_logps,
                    py::handle policy_response_logps, py::handle ref_chosen_logps,
                    py::handle ref_rejected_logps, py::handle ref_response_logps, double alpha,
                    const std::string& exploration, std::optional<double> logratio_clip,
                    const LossOptions& options, py::handle chosen_lengths,
                    py::handle rejected_lengths) {
  const auto argument = [](const char* name, py::handle value) {
    return Argument{"selm_loss", name, value};
  };
  const Argument first = argument("policy_chosen_logps", policy_chosen_logps);
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto policy_chosen = per_pair<T>(first);
    const auto policy_rejected =
        per_pair<T>(argument("policy_rejected_logps", policy_rejected_logps));
    const auto policy_response =
        optional_per_pair<T>(argument("policy_response_logps", policy_response_logps));
    const auto ref_chosen = per_pair<T>(argument("ref_chosen_logps", ref_chosen_logps));
    const auto ref_rejected = per_pair<T>(argument("ref_rejected_logps", ref_rejected_logps));
    const auto ref_response =
        optional_per_pair<T>(argument("ref_response_logps", ref_response_logps));
    const auto chosen = optional_lengths(argument("chosen_lengths", chosen_lengths));
    const auto rejected = optional_lengths(argument("rejected_lengths", rejected_lengths));
    auto out = without_gil([&] {
      return selm::selm_loss(flat(policy_chosen), flat(policy_rejected), flat(policy_response),
                             flat(ref_chosen), flat(ref_rejected), flat(ref_response),
                             {alpha, exploration, logratio_clip}, to_options(options), flat(chosen),
                             flat(rejected));
    });
    const auto if_response = [&](Array1<T>&& values) {
      return policy_response ? py::object(to_numpy(std::move(values))) : py::none();
    };
    return py::make_tuple(
        to_numpy(std::move(out.losses)), to_numpy(std::move(out.dpo_losses)),
        to_numpy(std::move(out.exploration)), to_numpy(std::move(out.chosen_rewards)),
        to_numpy(std::move(out.rejected_rewards)), if_response(std::move(out.response_rewards)),
        to_numpy(std::move(out.grad_chosen_logps)), to_numpy(std::move(out.grad_rejected_logps)),
        if_response(std::move(out.grad_response_logps)));
  });
}

/// Calls `loss(chosen, rejected)` with the two policy arrays of a loss without a reference.
template <typename Loss>
py::tuple policy_loss(const char* operation, py::handle policy_chosen_logps,
                      py::handle policy_rejected_logps, Loss&& loss) {
  const Argument first{operation, "policy_chosen_logps", policy_chosen_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto chosen = per_pair<T>(first);
    const auto rejected =
        per_pair<T>(Argument{operation, "policy_rejected_logps", policy_rejected_logps});
    return to_tuple(without_gil([&] { return loss(flat(chosen), flat(rejected)); }));
  });
}

py::tuple cpo_loss(py::handle policy_chosen_logps, py::handle policy_rejected_logps, double beta,
                   const std::string& loss_type, double label_smoothing, py::handle chosen_lengths,
                   py::handle rejected_lengths) {
  const auto w = optional_lengths(Argument{"cpo_loss", "chosen_lengths", chosen_lengths});
  const auto l = optional_lengths(Argument{"cpo_loss", "rejected_lengths", rejected_lengths});
  return policy_loss("cpo_loss", policy_chosen_logps, policy_rejected_logps,
                     [&](const auto& chosen, const auto& rejected) {
                       return selm::cpo_loss(chosen, rejected, {loss_type, beta, label_smoothing},
                                             flat(w), flat(l));
                     });
}

py::tuple simpo_loss(py::handle policy_chosen_logps, py::handle policy_rejected_logps,
                     py::handle chosen_lengths, py::handle rejected_lengths, double beta,
                     double simpo_gamma, double label_smoothing) {
  const auto w = required_lengths(Argument{"simpo_loss", "chosen_lengths", chosen_lengths});
  const auto l = required_lengths(Argument{"simpo_loss", "rejected_lengths", rejected_lengths});
  return policy_loss("simpo_loss", policy_chosen_logps, policy_rejected_logps,
                     [&](const auto& chosen, const auto& rejected) {
                       return selm::simpo_loss(chosen, rejected, flat(w), flat(l), beta,
                                               simpo_gamma, label_smoothing);
                     });
}

py::tuple orpo_loss(py::handle policy_chosen_logps, py::handle policy_rejected_logps,
                    py::handle chosen_lengths, py::handle rejected_lengths, double beta) {
  const auto w = required_lengths(Argument{"orpo_loss", "chosen_lengths", chosen_lengths});
  const auto l = required_lengths(Argument{"orpo_loss", "rejected_lengths", rejected_lengths});
  return policy_loss("orpo_loss", policy_chosen_logps, policy_rejected_logps,
                     [&](const auto& chosen, const auto& rejected) {
                       return selm::orpo_loss(chosen, rejected, flat(w), flat(l), beta);
                     });
}

py::tuple kto_loss(py::handle policy_logps, py::handle ref_logps, py::handle desirable,
                   std::optional<double> kl, double beta, double desirable_weight,
                   double undesirable_weight, const std::string& loss_type) {
  const Argument first{"kto_loss", "policy_logps", policy_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto policy = per_pair<T>(first, "policy_logps");
    const auto ref = per_pair<T>(Argument{"kto_loss", "ref_logps", ref_logps}, "policy_logps");
    const auto labels = Argument{"kto_loss", "desirable", desirable}.as<bool>("to be bool");
    auto out = without_gil([&] {
      return selm::kto_loss(flat(policy), flat(ref), flat(labels), kl, beta, desirable_weight,
                            undesirable_weight, loss_type);
    });
    return py::make_tuple(to_numpy(std::move(out.losses)), to_numpy(std::move(out.rewards)),
                          to_numpy(std::move(out.grad_policy_logps)));
  });
}

py::array selective_log_softmax(py::handle logits, py::handle index, double temperature,
                                std::int64_t ignore_index) {
  const Argument first{"selective_log_softmax", "logits", logits};
  const Argument second{"selective_log_softmax", "index", index};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto values = same_dtype<T>(first, "logits");
    const auto targets = labels(second);
    check_logits(first, values, 2, second, targets);
    return to_numpy(without_gil([&] {
                      return selm::selective_log_softmax(rows(values), flat(targets), temperature,
                                                         ignore_index);
                    }),
                    shape_of(targets));
  });
}

py::array selective_log_softmax_grad(py::handle grad_logps, py::handle logits, py::handle index,
                                     double temperature, std::int64_t ignore_index) {
  constexpr const char* operation = "selective_log_softmax_grad";
  const Argument first{operation, "logits", logits};
  const Argument second{operation, "index", index};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto values = same_dtype<T>(first, "logits");
    const auto targets = labels(second);
    check_logits(first, values, 2, second, targets);
    const auto upstream =
        like<T>(Argument{operation, "grad_logps", grad_logps}, "index", shape_of(targets));
    return to_numpy(without_gil([&] {
                      return selm::selective_log_softmax_grad(
                          flat(upstream), rows(values), flat(targets), temperature, ignore_index);
                    }),
                    shape_of(values));
  });
}

Eigen::Map<const Array2<std::int64_t>> matrix(const NumpyArray<std::int64_t>& labels) {
  return {labels.data(), labels.shape(0), labels.shape(1)};
}

py::array sequence_logps(py::handle logits, py::handle labels_argument, std::int64_t ignore_index,
                         bool average_log_prob) {
  const Argument first{"sequence_logps", "logits", logits};
  const Argument second{"sequence_logps", "labels", labels_argument};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto values = same_dtype<T>(first, "logits");
    const auto targets = labels(second);
    check_logits(first, values, 3, second, targets);
    return to_numpy(without_gil([&] {
      return selm::sequence_logps(rows(values), matrix(targets), ignore_index, average_log_prob);
    }));
  });
}

py::array sequence_logps_grad(py::handle grad_logps, py::handle logits, py::handle labels_argument,
                              std::int64_t ignore_index, bool average_log_prob) {
  constexpr const char* operation = "sequence_logps_grad";
  const Argument first{operation, "logits", logits};
  const Argument second{operation, "labels", labels_argument};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto values = same_dtype<T>(first, "logits");
    const auto targets = labels(second);
    check_logits(first, values, 3, second, targets);
    const auto upstream = per_pair<T>(Argument{operation, "grad_logps", grad_logps}, "logits");
    return to_numpy(without_gil([&] {
                      return selm::sequence_logps_grad(flat(upstream), rows(values),
                                                       matrix(targets), ignore_index,
                                                       average_log_prob);
                    }),
                    shape_of(values));
  });
}

}  // namespace

PYBIND11_MODULE(_numpy, m) {
  m.doc() = "selm's Eigen functions on NumPy arrays; selm_core.numpy documents them.";
  register_error_translator();
  m.def("dpo_loss", &dpo_loss);
  m.def("selm_loss", &selm_loss);
  m.def("cpo_loss", &cpo_loss);
  m.def("simpo_loss", &simpo_loss);
  m.def("orpo_loss", &orpo_loss);
  m.def("kto_loss", &kto_loss);
  bind_rewards(m);
  bind_token_level(m);
  m.def("selective_log_softmax", &selective_log_softmax);
  m.def("selective_log_softmax_grad", &selective_log_softmax_grad);
  m.def("sequence_logps", &sequence_logps);
  m.def("sequence_logps_grad", &sequence_logps_grad);
}

}  // namespace selm::python
