#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "selm/core/row_view.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// Log-probabilities of tokens and sequences from vocabulary logits, on Eigen arrays. Logits are
/// [rows, vocab], row-major; labels are int64. A position whose label is `ignore_index` has
/// log-probability 0 and gradient exactly 0, whatever its logits hold. Gradients are products with
/// an upstream gradient, because the Jacobian of a row is as large as the row.

namespace selm {

/// [rows]
using Labels1Ref = Array1Ref<std::int64_t>;

/// [batch, tokens]
using Labels2Ref = Array2Ref<std::int64_t>;

namespace detail {

inline constexpr Eigen::Index vocab_block = 1024;

/// Sum over every token of a row but `target`. A block is summed by SIMD and the blocks are merged
/// in order. It is a copy, padded with tokens of no weight, so that the result depends neither on
/// where the row lies in memory nor on the SIMD width.
template <typename T>
LogSumExp<double> sum_of_others(const T* logits, Eigen::Index vocab, Eigen::Index target,
                                const LogitTransform<double>& transform) {
  constexpr double masked = -std::numeric_limits<double>::infinity();
  LogSumExp<double> total;
  Eigen::Array<double, vocab_block, 1> block;
  for (Eigen::Index start = 0; start < vocab; start += vocab_block) {
    const Eigen::Index count = std::min(vocab_block, vocab - start);
    block.head(count) = Eigen::Map<const Array1<T>>(logits + start, count).template cast<double>();
    block.tail(vocab_block - count) = masked;
    if (start <= target && target < start + count) {
      block[target - start] = masked;
    }
    const double max = block.template maxCoeff<Eigen::PropagateNaN>();
    if (max == masked) {
      continue;
    }
    block = block.unaryExpr([&](double s) { return transform(s, max); });
    total = merge(total, LogSumExp<double>{max, block.exp().sum()}, transform);
  }
  return total;
}

template <typename T>
TokenLogp<double> evaluate_token(const T* logits, Eigen::Index vocab, Eigen::Index target,
                                 const LogitTransform<double>& transform) {
  return token_logp(sum_of_others(logits, vocab, target, transform),
                    static_cast<double>(logits[target]), transform);
}

/// grad[v] = upstream * d logp / d logits[v].
template <typename T>
void write_token_grad(double upstream, const T* logits, Eigen::Index vocab, Eigen::Index target,
                      const LogitTransform<double>& transform, T* grad) {
  const TokenLogp<double> row = evaluate_token(logits, vocab, target, transform);
  for (Eigen::Index v = 0; v < vocab; ++v) {
    const double s = logits[v];
    grad[v] = static_cast<T>(upstream * (v == target ? target_logp_grad(s, row, transform)
                                                     : token_logp_grad(s, row, transform)));
  }
}

template <typename T>
RowView<const T> rows_of(const Array2Ref<T>& logits) {
  return contiguous_rows(logits.data(), logits.outerStride());
}

inline LogitTransform<double> temperature_transform(double temperature) {
  return LogitTransform<double>::make(temperature, 1.0, 0.0);
}

inline void check_vocab(std::string_view operation, Eigen::Index rows, Eigen::Index vocab) {
  if (rows > 0 && vocab == 0) {
    throw Error(ErrorCode::value, operation, "logits", "to have a vocabulary of at least 1 token",
                fmt::format("shape [{}, 0]", rows));
  }
}

template <typename T>
void check_selection(std::string_view operation, const Array2Ref<T>& logits,
                     const Labels1Ref& index, double temperature, std::int64_t ignore_index) {
  validate_temperature<double>(operation, temperature);
  check_vocab(operation, logits.rows(), logits.cols());
  if (index.size() != logits.rows()) {
    throw Error(ErrorCode::value, operation, "index",
                fmt::format("to have shape [{}] (rows of 'logits')", logits.rows()),
                fmt::format("[{}]", index.size()));
  }
  for (Eigen::Index i = 0; i < index.size(); ++i) {
    check_target(operation, "index", index[i], logits.cols(), ignore_index,
                 [&] { return fmt::format("[{}]", i); });
  }
}

template <typename T>
void check_sequences(std::string_view operation, const Array2Ref<T>& logits,
                     const Labels2Ref& labels, std::int64_t ignore_index) {
  check_vocab(operation, logits.rows(), logits.cols());
  if (logits.rows() != labels.size()) {
    const bool shifted = logits.rows() == labels.rows() * (labels.cols() - 1);
    throw Error(ErrorCode::value, operation, "logits",
                fmt::format("to have one row per label, {} * {}", labels.rows(), labels.cols()),
                fmt::format("{} rows{}", logits.rows(),
                            shifted ? " (already shifted? the shift happens inside)" : ""));
  }
  for (Eigen::Index b = 0; b < labels.rows(); ++b) {
    for (Eigen::Index t = 1; t < labels.cols(); ++t) {
      check_target(operation, "labels", labels(b, t), logits.cols(), ignore_index,
                   [&] { return fmt::format("[{}, {}]", b, t); });
    }
  }
}

/// Calls `visit(row, target)` for each position of sequence `b` whose next token carries loss, and
/// returns their number.
template <typename Visitor>
Eigen::Index visit_scored(const Labels2Ref& labels, Eigen::Index b, std::int64_t ignore_index,
                          Visitor&& visit) {
  Eigen::Index count = 0;
  for (Eigen::Index t = 0; t + 1 < labels.cols(); ++t) {
    if (labels(b, t + 1) != ignore_index) {
      visit(b * labels.cols() + t, static_cast<Eigen::Index>(labels(b, t + 1)));
      ++count;
    }
  }
  return count;
}

}  // namespace detail

/// log softmax(logits / temperature)[index], [rows]. `index` is aligned with `logits`.
template <typename Logits>
Array1<ScalarOf<Logits>> selective_log_softmax(const Eigen::ArrayBase<Logits>& logits,
                                               const Labels1Ref& index, double temperature = 1.0,
                                               std::int64_t ignore_index = -100) {
  using T = ScalarOf<Logits>;
  const Array2Ref<T> matrix(logits.derived());
  detail::check_selection<T>("selective_log_softmax", matrix, index, temperature, ignore_index);
  const RowView<const T> rows = detail::rows_of<T>(matrix);
  const LogitTransform<double> transform = detail::temperature_transform(temperature);
  Array1<T> logps = Array1<T>::Zero(matrix.rows());
  for (Eigen::Index i = 0; i < matrix.rows(); ++i) {
    if (index[i] != ignore_index) {
      logps[i] =
          static_cast<T>(detail::evaluate_token(rows[i], matrix.cols(), index[i], transform).logp);
    }
  }
  return logps;
}

/// Gradient with respect to `logits`, [rows, vocab], of the sum of grad_logps * logps.
template <typename Logits>
Array2<ScalarOf<Logits>> selective_log_softmax_grad(const Array1Ref<ScalarOf<Logits>>& grad_logps,
                                                    const Eigen::ArrayBase<Logits>& logits,
                                                    const Labels1Ref& index,
                                                    double temperature = 1.0,
                                                    std::int64_t ignore_index = -100) {
  using T = ScalarOf<Logits>;
  constexpr std::string_view operation = "selective_log_softmax_grad";
  const Array2Ref<T> matrix(logits.derived());
  detail::check_selection<T>(operation, matrix, index, temperature, ignore_index);
  detail::check_same_size(operation, "grad_logps", grad_logps.size(), "index", index.size());
  const RowView<const T> rows = detail::rows_of<T>(matrix);
  const LogitTransform<double> transform = detail::temperature_transform(temperature);
  Array2<T> grad = Array2<T>::Zero(matrix.rows(), matrix.cols());
  for (Eigen::Index i = 0; i < matrix.rows(); ++i) {
    if (index[i] != ignore_index) {
      detail::write_token_grad(grad_logps[i], rows[i], matrix.cols(), index[i], transform,
                               &grad(i, 0));
    }
  }
  return grad;
}

/// Sum over a sequence of log pi(token | tokens before it), [batch]. `labels` [batch, tokens] holds
/// the tokens unshifted, as data sets have them; row b * tokens + t of `logits` predicts
/// labels(b, t + 1). With `average_log_prob` the sum is divided by the number of scored tokens;
/// where there is none the result is 0.
template <typename Logits>
Array1<ScalarOf<Logits>> sequence_logps(const Eigen::ArrayBase<Logits>& logits,
                                        const Labels2Ref& labels, std::int64_t ignore_index = -100,
                                        bool average_log_prob = false) {
  using T = ScalarOf<Logits>;
  const Array2Ref<T> matrix(logits.derived());
  detail::check_sequences<T>("sequence_logps", matrix, labels, ignore_index);
  const RowView<const T> rows = detail::rows_of<T>(matrix);
  const LogitTransform<double> transform = detail::temperature_transform(1.0);
  Array1<T> logps(labels.rows());
  for (Eigen::Index b = 0; b < labels.rows(); ++b) {
    double sum = 0.0;
    const Eigen::Index count =
        detail::visit_scored(labels, b, ignore_index, [&](Eigen::Index row, Eigen::Index target) {
          sum += detail::evaluate_token(rows[row], matrix.cols(), target, transform).logp;
        });
    const bool divide = average_log_prob && count > 0;
    logps[b] = static_cast<T>(divide ? sum / static_cast<double>(count) : sum);
  }
  return logps;
}

/// Gradient with respect to `logits`, [batch * tokens, vocab], of the sum of grad_logps * logps.
template <typename Logits>
Array2<ScalarOf<Logits>> sequence_logps_grad(const Array1Ref<ScalarOf<Logits>>& grad_logps,
                                             const Eigen::ArrayBase<Logits>& logits,
                                             const Labels2Ref& labels,
                                             std::int64_t ignore_index = -100,
                                             bool average_log_prob = false) {
  using T = ScalarOf<Logits>;
  constexpr std::string_view operation = "sequence_logps_grad";
  const Array2Ref<T> matrix(logits.derived());
  detail::check_sequences<T>(operation, matrix, labels, ignore_index);
  if (grad_logps.size() != labels.rows()) {
    throw Error(ErrorCode::value, operation, "grad_logps",
                fmt::format("to have shape [{}] (sequences of 'labels')", labels.rows()),
                fmt::format("[{}]", grad_logps.size()));
  }
  const RowView<const T> rows = detail::rows_of<T>(matrix);
  const LogitTransform<double> transform = detail::temperature_transform(1.0);
  Array2<T> grad = Array2<T>::Zero(matrix.rows(), matrix.cols());
  for (Eigen::Index b = 0; b < labels.rows(); ++b) {
    const auto ignore = [](Eigen::Index, Eigen::Index) {};
    const Eigen::Index count = detail::visit_scored(labels, b, ignore_index, ignore);
    const double scale = average_log_prob ? static_cast<double>(count) : 1.0;
    detail::visit_scored(labels, b, ignore_index, [&](Eigen::Index row, Eigen::Index target) {
      detail::write_token_grad(grad_logps[b] / scale, rows[row], matrix.cols(), target, transform,
                               &grad(row, 0));
    });
  }
  return grad;
}

}  // namespace selm
