#include "bind_eigen.hpp"
#include "numpy_arrays.hpp"
#include "selm/host/token_level.hpp"

namespace selm::python {
namespace {

/// One value per token.
template <typename T>
NumpyArray<T> per_token(const Argument& argument) {
  NumpyArray<T> array = same_dtype<T>(argument, argument.name);
  if (array.ndim() != 2) {
    throw argument.error(ErrorCode::value, "to have shape (batch, time)", text(shape_of(array)));
  }
  return array;
}

/// Which places are tokens, in the shape of the first array.
NumpyArray<bool> mask_like(const Argument& argument, const Argument& first, const Shape& shape) {
  NumpyArray<bool> array = argument.as<bool>("to be bool");
  require_shape(argument, array, first.name, shape);
  return array;
}

/// Calls `function(token_logps, mask)`, which returns one value per response.
template <typename Function>
py::array of_responses(const char* operation, py::handle token_logps, py::handle mask,
                       Function&& function) {
  const Argument first{operation, "token_logps", token_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto logps = per_token<T>(first);
    const auto tokens = mask_like({operation, "mask", mask}, first, shape_of(logps));
    return to_numpy(without_gil([&] { return function(rows(logps), rows(tokens)); }));
  });
}

py::array masked_sum(py::handle token_logps, py::handle mask) {
  return of_responses("masked_sum", token_logps, mask, [](const auto& logps, const auto& tokens) {
    return selm::masked_sum(logps, tokens);
  });
}

py::array masked_mean(py::handle token_logps, py::handle mask) {
  return of_responses("masked_mean", token_logps, mask, [](const auto& logps, const auto& tokens) {
    return selm::masked_mean(logps, tokens);
  });
}

py::array length_desensitized_logps(py::handle token_logps, py::handle mask,
                                    py::handle shared_lengths, double ld_alpha) {
  constexpr const char* operation = "length_desensitized_logps";
  const Argument lengths{operation, "shared_lengths", shared_lengths};
  const auto shared = required_lengths(lengths);
  return of_responses(operation, token_logps, mask, [&](const auto& logps, const auto& tokens) {
    return selm::length_desensitized_logps(logps, tokens, flat(shared), ld_alpha);
  });
}

py::array wpo_weights(py::handle token_logps, py::handle log_sum_sq_probs, py::handle mask) {
  const Argument first{"wpo_weights", "token_logps", token_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto logps = per_token<T>(first);
    const Shape shape = shape_of(logps);
    const auto squares =
        like<T>(Argument{"wpo_weights", "log_sum_sq_probs", log_sum_sq_probs}, first.name, shape);
    const auto tokens = mask_like({"wpo_weights", "mask", mask}, first, shape);
    return to_numpy(
        without_gil([&] { return selm::wpo_weights(rows(logps), rows(squares), rows(tokens)); }));
  });
}

/// Calls `function(policy, ref, mask)`, which returns one value per token.
template <typename Function>
py::array of_tokens(const char* operation, py::handle policy_token_logps,
                    py::handle ref_token_logps, py::handle mask, Function&& function) {
  const Argument first{operation, "policy_token_logps", policy_token_logps};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto policy = per_token<T>(first);
    const Shape shape = shape_of(policy);
    const auto ref =
        like<T>(Argument{operation, "ref_token_logps", ref_token_logps}, first.name, shape);
    const auto tokens = mask_like({operation, "mask", mask}, first, shape);
    return to_numpy(without_gil([&] { return function(rows(policy), rows(ref), rows(tokens)); }),
                    shape);
  });
}

py::array token_rewards(py::handle policy_token_logps, py::handle ref_token_logps, py::handle mask,
                        double beta) {
  return of_tokens("token_rewards", policy_token_logps, ref_token_logps, mask,
                   [&](const auto& policy, const auto& ref, const auto& tokens) {
                     return selm::token_rewards(policy, ref, tokens, beta);
                   });
}

py::array prefix_rewards(py::handle policy_token_logps, py::handle ref_token_logps, py::handle mask,
                         double beta) {
  return of_tokens("prefix_rewards", policy_token_logps, ref_token_logps, mask,
                   [&](const auto& policy, const auto& ref, const auto& tokens) {
                     return selm::prefix_rewards(policy, ref, tokens, beta);
                   });
}

py::array center_rewards(py::handle rewards, py::handle prompts) {
  const Argument first{"center_rewards", "rewards", rewards};
  const Argument second{"center_rewards", "prompts", prompts};
  return with_storage_of(first, [&](auto zero) {
    using T = decltype(zero);
    const auto values = per_pair<T>(first, first.name);
    const auto numbers = required_lengths(second);
    require_shape(second, numbers, first.name, shape_of(values));
    return to_numpy(without_gil([&] { return selm::center_rewards(flat(values), flat(numbers)); }));
  });
}

}  // namespace

void bind_token_level(py::module_& m) {
  m.def("masked_sum", &masked_sum);
  m.def("masked_mean", &masked_mean);
  m.def("length_desensitized_logps", &length_desensitized_logps);
  m.def("wpo_weights", &wpo_weights);
  m.def("token_rewards", &token_rewards);
  m.def("prefix_rewards", &prefix_rewards);
  m.def("center_rewards", &center_rewards);
}

}  // namespace selm::python
