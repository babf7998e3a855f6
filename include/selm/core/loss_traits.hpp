#pragma once

/// @file
/// What is known about a loss beside its formula: the checks and the loops follow it.

namespace selm {

/// Which responses meet in a pair.
enum class Pairing {
  row,            ///< a row's own chosen and rejected
  ranked_pairs,   ///< the k-th smallest policy difference with the k-th smallest reference one
  ranked_ratios,  ///< the k-th smallest log-ratio of the chosen with that of the rejected
};

/// The lengths that a loss reads, in tokens.
enum class Lengths {
  none,
  chosen,
  both,
  mean_chosen,  ///< the batch's mean number of chosen tokens, in place of the row's own
};

/// An option that belongs to some losses only.
enum class LossOption { none, discopop_tau, dpop_lambda, length_margin, simpo_gamma };

/// The values of label_smoothing that a loss defines: [low, high], without an end that is open. 0
/// alone where it is not defined.
struct SmoothingRange {
  double low = 0.0;
  double high = 0.0;
  bool low_is_open = false;
  bool high_is_open = false;

  constexpr bool is_defined() const { return high > 0.0; }
  constexpr bool contains(double e) const {
    return (low_is_open ? e > low : e >= low) && (high_is_open ? e < high : e <= high);
  }
};

/// Built from a name and what differs from the ordinary: a loss of the reference as well, without
/// lengths, label smoothing, other f-divergences and options of its own.
struct LossTraits {
  const char* name;
  SmoothingRange smoothing = {};
  Pairing pairing = Pairing::row;
  Lengths lengths = Lengths::none;
  LossOption option = LossOption::none;
  bool takes_f_divergence = false;  ///< it is a function of the linked scores
  bool uses_reference = true;

  constexpr explicit LossTraits(const char* loss) : name(loss) {}

  constexpr LossTraits with(SmoothingRange range) const {
    LossTraits copy = *this;
    copy.smoothing = range;
    return copy;
  }
  constexpr LossTraits with(Pairing kind) const {
    LossTraits copy = *this;
    copy.pairing = kind;
    return copy;
  }
  constexpr LossTraits with(Lengths read) const {
    LossTraits copy = *this;
    copy.lengths = read;
    return copy;
  }
  constexpr LossTraits with(LossOption own) const {
    LossTraits copy = *this;
    copy.option = own;
    return copy;
  }
  /// Only for a loss that is infinite or at its limit where a linked score overflows. One that
  /// brings the score's exponential back into range, as log1p(score^2), cannot keep the promise.
  constexpr LossTraits with_f_divergence() const {
    LossTraits copy = *this;
    copy.takes_f_divergence = true;
    return copy;
  }
  constexpr LossTraits without_reference() const {
    LossTraits copy = *this;
    copy.uses_reference = false;
    return copy;
  }

  /// Whether it is a loss of averages over tokens.
  constexpr bool averages() const {
    return lengths == Lengths::both && option != LossOption::length_margin;
  }
  /// Whether its implicit rewards are such averages, as SimPO and ORPO define them.
  constexpr bool averages_rewards() const { return !uses_reference && averages(); }
  constexpr bool uses_chosen_lengths() const { return lengths != Lengths::none; }
  constexpr bool uses_rejected_lengths() const { return lengths == Lengths::both; }
};

/// The numbers that losses are made from.
template <typename T>
struct LossParameters {
  T beta;
  T label_smoothing;
  T discopop_tau;
  T dpop_lambda;
  T length_margin;
  T simpo_gamma;
};

}  // namespace selm
