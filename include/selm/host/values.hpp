#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string_view>

#include "selm/core/pair_rows.hpp"
#include "selm/host/error.hpp"

/// @file
/// Checks that read values. Only the host makes them: on a GPU a bad value gives NaN in its own
/// row, because a check would have to wait for the device.

namespace selm {

/// Throws for a log-probability above 0, with room for rounding. NaN and -inf pass. `place` is
/// where it stands in its array.
template <typename T>
void check_logp(std::string_view operation, std::string_view argument, T logp, std::int64_t place) {
  if (logp > T(1e-3)) {
    throw Error(ErrorCode::value, operation, argument, "to hold log-probabilities <= 0",
                fmt::format("{} at [{}]", logp, place));
  }
}

/// `check_logp` of every value.
template <typename T>
void check_logps(std::string_view operation, std::string_view argument, const T* logps,
                 std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    check_logp(operation, argument, logps[i], i);
  }
}

/// Throws for a number below `least`.
inline void check_at_least(std::string_view operation, std::string_view argument,
                           std::string_view expected, const std::int64_t* numbers,
                           std::int64_t count, std::int64_t least) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (numbers[i] < least) {
      throw Error(ErrorCode::value, operation, argument, expected,
                  fmt::format("{} at [{}]", numbers[i], i));
    }
  }
}

/// Throws for a length below 1.
inline void check_lengths(std::string_view operation, std::string_view argument,
                          const std::int64_t* lengths, std::int64_t count) {
  check_at_least(operation, argument, "to hold lengths >= 1", lengths, count, 1);
}

/// Checks every array of a batch; null arrays pass.
template <typename T>
void check_values(std::string_view operation, const PreferenceInputs<T>& in, std::int64_t batch) {
  const auto logps = [&](std::string_view argument, const T* values) {
    check_logps(operation, argument, values, values == nullptr ? 0 : batch);
  };
  logps("policy_chosen_logps", in.policy_chosen);
  logps("policy_rejected_logps", in.policy_rejected);
  logps("policy_response_logps", in.policy_response);
  logps("ref_chosen_logps", in.ref_chosen);
  logps("ref_rejected_logps", in.ref_rejected);
  logps("ref_response_logps", in.ref_response);
  const auto lengths = [&](std::string_view argument, const std::int64_t* values) {
    check_lengths(operation, argument, values, values == nullptr ? 0 : batch);
  };
  lengths("chosen_lengths", in.chosen_lengths);
  lengths("rejected_lengths", in.rejected_lengths);
}

/// Throws unless `target` is `ignore_index` or a token id in [0, vocab). `position()` says where it
/// stands in the caller's array, as in "[2, 7]".
template <typename Position>
void check_target(std::string_view operation, std::string_view argument, std::int64_t target,
                  std::int64_t vocab, std::int64_t ignore_index, const Position& position) {
  if (target != ignore_index && (target < 0 || target >= vocab)) {
    throw Error(ErrorCode::index, operation, argument,
                fmt::format("to hold {} (ignored) or a token id below the vocabulary size {}",
                            ignore_index, vocab),
                fmt::format("{} at {}", target, position()));
  }
}

}  // namespace selm
