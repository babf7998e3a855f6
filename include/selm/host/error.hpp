#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

/// @file
/// The error of the torch-free API.

namespace selm {

/// What kind of mistake the caller made; Python sees the built-in exception of the same name.
enum class ErrorCode { type, value, index, not_implemented };

/// A refused argument. The message names the operation, the argument, what was expected and what
/// came: "selm::dpo_loss: expected 'beta' to be a finite number > 0, got -1".
class Error : public std::runtime_error {
 public:
  /// `expected` follows the argument's name in the message, as in "to be a finite number > 0".
  Error(ErrorCode code, std::string_view operation, std::string_view argument,
        std::string_view expected, std::string_view got)
      : std::runtime_error(
            fmt::format("selm::{}: expected '{}' {}, got {}", operation, argument, expected, got)),
        code_(code),
        argument_(argument) {}

  ErrorCode code() const noexcept { return code_; }
  const std::string& argument() const noexcept { return argument_; }

 private:
  ErrorCode code_;
  std::string argument_;
};

}  // namespace selm
