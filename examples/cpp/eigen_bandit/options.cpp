#include "options.hpp"

#include <fmt/format.h>

#include <charconv>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace bandit {

namespace {

template <typename T>
T parse_number(std::string_view name, std::string_view text, T smallest) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < smallest) {
    throw std::invalid_argument(
        fmt::format("{} takes a whole number >= {}, got '{}'", name, smallest, text));
  }
  return value;
}

}  // namespace

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--bandits") {
      options.bandits = parse_number(name, value, 1);
    } else if (name == "--rounds") {
      options.rounds = parse_number(name, value, 1);
    } else if (name == "--seed") {
      options.seed = parse_number(name, value, std::uint64_t{0});
    } else {
      throw std::invalid_argument(fmt::format("unknown option '{}'", name));
    }
  }
  return options;
}

}  // namespace bandit
