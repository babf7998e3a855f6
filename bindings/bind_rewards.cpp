#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "bind_eigen.hpp"
#include "numpy_arrays.hpp"
#include "selm/host/divergence.hpp"
#include "selm/host/exploration.hpp"
#include "selm/host/rewards.hpp"

namespace selm::python {
namespace {

/// Calls `function(policy, ref)` on the values of two arrays of one shape; its result keeps the
/// shape. `names` are theirs.
template <typename Function>
auto elementwise(const char* operation, std::pair<const char*, const char*> names,
                 py::handle first_value, py::handle second_value, Function&& function) {
  const Argument first{operation, names.first, first_value};
  const Argument second{operation, names.second, second_value};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto a = same_dtype<T>(first, names.first);
    const auto b = like<T>(second, names.first, shape_of(a));
    return function(flat(a), flat(b), shape_of(a));
  });
}

py::array implicit_rewards(py::handle policy_logps, py::handle ref_logps, double beta) {
  return elementwise("implicit_rewards", {"policy_logps", "ref_logps"}, policy_logps, ref_logps,
                     [&](const auto& policy, const auto& ref, const Shape& shape) {
                       return to_numpy(
                           without_gil([&] { return selm::implicit_rewards(policy, ref, beta); }),
                           shape);
                     });
}

py::array implicit_reward_difference(py::handle logps, py::handle other_logps, double beta) {
  return elementwise("implicit_reward_difference", {"logps", "other_logps"}, logps, other_logps,
                     [&](const auto& ours, const auto& other, const Shape& shape) {
                       return to_numpy(without_gil([&] {
                                         return selm::implicit_reward_difference(ours, other, beta);
                                       }),
                                       shape);
                     });
}

py::array reward_margins(py::handle chosen_rewards, py::handle rejected_rewards) {
  return elementwise("reward_margins", {"chosen_rewards", "rejected_rewards"}, chosen_rewards,
                     rejected_rewards,
                     [](const auto& chosen, const auto& rejected, const Shape& shape) {
                       return to_numpy(selm::reward_margins(chosen, rejected), shape);
                     });
}

py::array reward_accuracies(py::handle chosen_rewards, py::handle rejected_rewards) {
  return elementwise("reward_accuracies", {"chosen_rewards", "rejected_rewards"}, chosen_rewards,
                     rejected_rewards,
                     [](const auto& chosen, const auto& rejected, const Shape& shape) {
                       return to_numpy(selm::reward_accuracies(chosen, rejected), shape);
                     });
}

py::tuple kl_estimate(py::handle policy_logps, py::handle ref_logps, const std::string& kind) {
  return elementwise("kl_estimate", {"policy_logps", "ref_logps"}, policy_logps, ref_logps,
                     [&](const auto& policy, const auto& ref, const Shape& shape) {
                       auto out = without_gil([&] { return selm::kl_estimate(policy, ref, kind); });
                       return py::make_tuple(to_numpy(std::move(out.estimates), shape),
                                             to_numpy(std::move(out.grad_policy_logps), shape));
                     });
}

py::tuple exploration_bonus(py::handle policy_logps, py::handle ref_logps, double alpha,
                            std::optional<double> beta, const std::string& kind,
                            std::optional<double> logratio_clip) {
  const Argument first{"exploration_bonus", "policy_logps", policy_logps};
  const Argument second{"exploration_bonus", "ref_logps", ref_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto policy = same_dtype<T>(first, "policy_logps");
    std::optional<NumpyArray<T>> ref;
    if (second.given()) {
      ref = like<T>(second, "policy_logps", shape_of(policy));
    }
    auto out = without_gil([&] {
      return selm::exploration_bonus(flat(policy), flat(ref), {alpha, kind, logratio_clip}, beta);
    });
    return py::make_tuple(to_numpy(std::move(out.bonus), shape_of(policy)),
                          to_numpy(std::move(out.grad_policy_logps), shape_of(policy)));
  });
}

py::array log_partition(py::handle ref_logps, py::handle rewards, double beta) {
  const Argument first{"log_partition", "ref_logps", ref_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto ref = same_dtype<T>(first, "ref_logps");
    const auto reward =
        like<T>(Argument{"log_partition", "rewards", rewards}, "ref_logps", shape_of(ref));
    Shape shape = shape_of(ref);
    if (shape.empty() || shape.back() == 0) {
      throw first.error(ErrorCode::value, "to hold at least one response", text(shape));
    }
    shape.pop_back();
    return to_numpy(without_gil([&] { return selm::log_partition(rows(ref), rows(reward), beta); }),
                    shape);
  });
}

/// log Z of each response's prompt, from an array of the rewards' shape or without its last
/// dimension.
template <typename T>
Array1<T> log_partition_of_responses(const Argument& argument, const Shape& shape) {
  const auto given = same_dtype<T>(argument, "rewards");
  if (shape_of(given) == shape) {
    return flat(given);
  }
  const Shape prompts(shape.begin(), shape.empty() ? shape.begin() : shape.end() - 1);
  if (shape.empty() || shape_of(given) != prompts) {
    throw argument.error(
        ErrorCode::value,
        fmt::format("to have shape {} (same as 'rewards') or {}", text(shape), text(prompts)),
        text(shape_of(given)));
  }
  const Array2<T> repeated = flat(given).replicate(1, shape.back());
  return Eigen::Map<const Array1<T>>(repeated.data(), repeated.size());
}

py::array policy_logps_from_rewards(py::handle rewards, py::handle ref_logps, double beta,
                                    py::handle log_partition) {
  const Argument shift{"policy_logps_from_rewards", "log_partition", log_partition};
  return elementwise(
      "policy_logps_from_rewards", {"rewards", "ref_logps"}, rewards, ref_logps,
      [&](const auto& reward, const auto& ref, const Shape& shape) {
        using T = typename std::decay_t<decltype(reward)>::Scalar;
        if (py::isinstance<py::float_>(log_partition)) {
          const double number = log_partition.cast<double>();
          return to_numpy(without_gil([&] {
                            return selm::policy_logps_from_rewards(reward, ref, beta, number);
                          }),
                          shape);
        }
        const Array1<T> numbers = log_partition_of_responses<T>(shift, shape);
        return to_numpy(without_gil([&] {
                          return selm::policy_logps_from_rewards(reward, ref, beta, numbers);
                        }),
                        shape);
      });
}

}  // namespace

void bind_rewards(py::module_& m) {
  m.def("implicit_rewards", &implicit_rewards);
  m.def("implicit_reward_difference", &implicit_reward_difference);
  m.def("reward_margins", &reward_margins);
  m.def("reward_accuracies", &reward_accuracies);
  m.def("kl_estimate", &kl_estimate);
  m.def("exploration_bonus", &exploration_bonus);
  m.def("log_partition", &log_partition);
  m.def("policy_logps_from_rewards", &policy_logps_from_rewards);
}

}  // namespace selm::python
