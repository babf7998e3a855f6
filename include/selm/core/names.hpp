#pragma once

#include <array>
#include <cstddef>
#include <string_view>

/// @file
/// Look-up in the lists of what callers choose by name.

namespace selm {

/// The entry with that `name`, or nullptr.
template <typename Entry, std::size_t size>
const Entry* find_entry(const std::array<Entry, size>& entries, std::string_view name) {
  for (const Entry& entry : entries) {
    if (name == entry.name) {
      return &entry;
    }
  }
  return nullptr;
}

}  // namespace selm
