#pragma once

#include <cstdint>

#include "selm/core/accumulation.hpp"
#include "selm/core/preference_batch.hpp"
#include "selm/core/row_view.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// The CPU back end: loops over the functors of `core`, parallel over rows. Values are checked by
/// the callers.

namespace selm::cpu {

/// value[i], grad[i] = term(policy[i], ref[i]); a null `ref` stands for zeros.
template <typename Storage, typename Term>
void logratio_term(const Term& term, const Storage* policy, const Storage* ref, Storage* value,
                   Storage* grad, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto f = term(static_cast<double>(policy[i]), ref == nullptr ? 0.0 : double(ref[i]));
    value[i] = static_cast<Storage>(f.value);
    grad[i] = static_cast<Storage>(f.grad);
  }
}

/// Per row: logps[i] and summary[3 i ..] = max, log_sum, one_minus_prob; zeros for ignored rows,
/// which are not read. Targets must have been checked. No softcap.
template <typename Storage>
void token_logps(const RowView<const Storage>& logits, const std::int64_t* targets,
                 std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                 const LogitTransform<accumulation_t<Storage>>& transform,
                 accumulation_t<Storage>* logps, accumulation_t<Storage>* summary);

/// d_logits = grad[i] * d logp / d logits; zeros for ignored rows.
/// `d_logits` may be `logits`.
template <typename Storage>
void token_logps_backward(const RowView<const Storage>& logits, const std::int64_t* targets,
                          std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                          const LogitTransform<accumulation_t<Storage>>& transform,
                          const accumulation_t<Storage>* summary,
                          const accumulation_t<Storage>* grad, const RowView<Storage>& d_logits);

}  // namespace selm::cpu
