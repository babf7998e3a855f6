#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

/// @file
/// The toy task: a prompt of five letters, and a judge who likes to see them sorted.

namespace task {

inline constexpr std::int64_t letters = 8;
inline constexpr std::int64_t separator = letters;  ///< token between prompt and reply
inline constexpr std::int64_t end = letters + 1;    ///< token that ends a reply
inline constexpr std::int64_t vocabulary = letters + 2;
inline constexpr std::int64_t prompt_length = 5;
inline constexpr std::int64_t max_reply_length = 7;  ///< the end token included
/// Prompts are numbered; letter i of a prompt is the i-th group of this many bits of its number.
inline constexpr std::int64_t bits_per_letter = 3;
inline constexpr std::int64_t prompts = std::int64_t{1} << (bits_per_letter * prompt_length);

/// Number of letters that two texts share, with multiplicity.
inline int shared_letters(std::string_view a, std::string_view b) {
  int shared = 0;
  for (char letter = 'a'; letter < 'a' + letters; ++letter) {
    shared += static_cast<int>(
        std::min(std::count(a.begin(), a.end(), letter), std::count(b.begin(), b.end(), letter)));
  }
  return shared;
}

/// The judge: 1 for the prompt's letters in order, less for each letter that is missing, added or
/// out of place, 0 for an empty reply.
inline double score(std::string_view prompt, std::string_view reply) {
  if (reply.empty()) {
    return 0.0;
  }
  int in_order = 1;
  for (std::size_t i = 1; i < reply.size(); ++i) {
    in_order += reply[i - 1] <= reply[i] ? 1 : 0;
  }
  const double order = static_cast<double>(in_order) / static_cast<double>(reply.size());
  const double overlap =
      2.0 * shared_letters(prompt, reply) / static_cast<double>(prompt.size() + reply.size());
  return 0.5 * (order + overlap);
}

}  // namespace task
