#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "selm/core/accumulation.hpp"
#include "selm/core/options.hpp"
#include "selm/core/preference.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/row_view.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/core/unpaired.hpp"
#include "selm/cuda/storage.hpp"

/// @file
/// The CUDA back end for callers compiled by any C++17 compiler. Pointers inside the arguments are
/// to device memory of the current device. Every function queues its work on `stream`, neither
/// synchronises nor changes the device, and returns the status of the launch. Arguments that cannot
/// be right (a negative size, a null pointer that is needed, an unknown name) give
/// cudaErrorInvalidValue, and nothing is launched. A size of 0 does nothing and succeeds.
///
/// Nothing is atomic: the same call gives the same bits. A row's bits depend on its values and on
/// its offset from a 16-byte boundary, not on the other rows.

namespace selm::cuda {

/// The loss and the exploration term that the options name, on `batch` pairs: one
/// `Preference::evaluate_row` each. Ranges of the options are the caller's to check
/// (selm/host/loss_options.hpp). A loss over the batch needs the members of `in` that are made of
/// it. Storage: float, double; arithmetic is double.
template <typename Storage>
cudaError_t preference(const PreferenceOptions& options, const ExplorationOptions& exploration,
                       const PreferenceInputs<Storage>& in, const PreferenceOutputs<Storage>& out,
                       std::int64_t batch, cudaStream_t stream);

/// One `evaluate_unpaired_row` for each of `batch` responses. Storage: float, double.
template <typename Storage>
cudaError_t unpaired(const UnpairedLoss<double>& loss, const UnpairedInputs<Storage>& in,
                     const UnpairedOutputs<Storage>& out, std::int64_t batch, cudaStream_t stream);

/// value[i], grad[i] = term(policy[i], ref[i]); a null `ref` stands for zeros. Term:
/// ImplicitReward<double>, ExplorationTerm<double>, KlEstimate<double>. Storage: float, double;
/// arithmetic is double.
template <typename Storage, typename Term>
cudaError_t logratio_term(const Term& term, const Storage* policy, const Storage* ref,
                          Storage* value, Storage* grad, std::int64_t count, cudaStream_t stream);

/// logps[i] = log softmax(z(row i))[targets[i]], in nats, with one read of the logits and a second
/// one only for statistics. Storage: float, double, __half, __nv_bfloat16.
///
/// A row whose target is `ignore_index` is not read: log-probability and statistics are 0 (false).
/// A target outside [0, vocab), which is never used as an index, makes its row NaN (false).
/// `summary`, of `rows` x 3 values (max, log_sum, one_minus_prob of TokenLogp), is what
/// `token_logps_backward` needs; null if there will be none.
template <typename Storage>
cudaError_t token_logps(const RowView<const Storage>& logits, const std::int64_t* targets,
                        std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                        const LogitTransform<accumulation_t<Storage>>& transform,
                        accumulation_t<Storage>* logps, accumulation_t<Storage>* summary,
                        const RowStatisticsOutputs& statistics, cudaStream_t stream);

/// The same with, in the same pass, d_logits[i][v] = scale * d logps[i] / d logits[i][v]: 0 in
/// ignored rows, NaN in rows whose target is out of range. `scale`, a power of two, is for a
/// `Gradient` of less range. Null data of `d_logits`: not wanted; all other results have the same
/// bits as with rows of gradients that are aligned to 16 bytes. `d_logits` does not overlap
/// `logits`.
///
/// The logits are read once, also for statistics, where a row fits the shared memory of a block or,
/// on sm_90 and later, of a cluster of up to 8 blocks (about 460,000 float logits on an H100). Fast
/// where rows of both are aligned to 16 bytes. (Storage, Gradient): (float, float), (float,
/// __half), (float, __nv_bfloat16), (double, double).
template <typename Storage, typename Gradient>
cudaError_t token_logps_with_grad(const RowView<const Storage>& logits, const std::int64_t* targets,
                                  std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                                  const LogitTransform<accumulation_t<Storage>>& transform,
                                  accumulation_t<Storage> scale, accumulation_t<Storage>* logps,
                                  accumulation_t<Storage>* summary,
                                  const RowStatisticsOutputs& statistics,
                                  const RowView<Gradient>& d_logits, cudaStream_t stream);

/// d_logits[i][v] = grad[i] * d logps[i] / d logits[i][v] for the `width` vocabulary entries from
/// `first` on, to which column 0 belongs; exactly 0 in ignored rows, whatever they hold, and NaN in
/// rows whose target is out of range. A null `grad` stands for ones. `d_logits` may be `logits`
/// itself, but not overlap it otherwise. Fastest where the rows of both begin at the same offset
/// from a 16-byte boundary. (Storage, Gradient): twice the same one of `token_logps`, (float,
/// __half), (float, __nv_bfloat16).
template <typename Storage, typename Gradient>
cudaError_t token_logps_backward(const RowView<const Storage>& logits, const std::int64_t* targets,
                                 std::int64_t rows, std::int64_t first, std::int64_t width,
                                 std::int64_t ignore_index,
                                 const LogitTransform<accumulation_t<Storage>>& transform,
                                 const accumulation_t<Storage>* summary,
                                 const accumulation_t<Storage>* grad,
                                 const RowView<Gradient>& d_logits, cudaStream_t stream);

}  // namespace selm::cuda
