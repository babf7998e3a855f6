#pragma once

#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "task.hpp"
#include "training.hpp"

/// @file
/// The command line.

inline constexpr const char* usage =
    "usage: libtorch_trainer [--quick] [--iterations N] [--alpha A] [--beta B] [--seed N]";

struct Options {
  std::int64_t iterations = 12;
  std::int64_t held_out = 500;  ///< prompts that are never trained on
  std::uint64_t seed = 1;
  Settings settings;
};

/// The number that is the whole of `text`; throws when it is not.
template <typename T>
T parse_number(const std::string& name, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw std::invalid_argument(name + " takes a number, got '" + std::string(text) + "'");
  }
  return value;
}

/// Throws std::invalid_argument for what it does not understand. Of two options that set the same
/// the later one counts.
inline Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--quick") {
      options.iterations = 3;
      options.settings.prompts = 256;
      continue;
    }
    const std::string_view value = ++i < argc ? argv[i] : "";
    if (name == "--iterations") {
      options.iterations = parse_number<std::int64_t>(name, value);
    } else if (name == "--alpha") {
      options.settings.alpha = parse_number<double>(name, value);
    } else if (name == "--beta") {
      options.settings.beta = parse_number<double>(name, value);
    } else if (name == "--seed") {
      options.seed = parse_number<std::uint64_t>(name, value);
    } else {
      throw std::invalid_argument("unknown option '" + name + "'");
    }
  }
  const std::int64_t most = (task::prompts - options.held_out) / options.settings.prompts;
  if (options.iterations < 1 || options.iterations > most) {
    throw std::invalid_argument("--iterations takes 1 to " + std::to_string(most) +
                                ": no prompt comes twice");
  }
  return options;
}
