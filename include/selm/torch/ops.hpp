#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "selm/core/options.hpp"

/// @file
/// The LibTorch operators, differentiable, on CPU and CUDA. The same functions stand behind
/// `torch.ops.selm.*`. They do not reduce: every loss has shape (batch,).
///
/// Errors are c10::TypeError, ValueError, IndexError and NotImplementedError, and name the
/// operation, the argument, what was expected and what came. Second derivatives raise
/// NotImplementedError.

#if defined(_WIN32)
#error "selm::torch is built and tested on Linux only."
#endif
/// Exported from libselm_torch, whose other symbols are hidden.
#define SELM_TORCH_API __attribute__((visibility("default")))

namespace selm::ops {

/// All tensors have shape (batch,). Only `losses` carries a gradient.
struct PreferenceLoss {
  at::Tensor losses;
  at::Tensor chosen_rewards;    ///< beta * (policy - ref), detached
  at::Tensor rejected_rewards;  ///< detached
};

/// All tensors have shape (batch,). Only `losses` carries a gradient; the others are its detached
/// parts.
struct SelmLoss {
  at::Tensor losses;       ///< dpo_losses + exploration, rounded once
  at::Tensor dpo_losses;   ///< the preference loss alone
  at::Tensor exploration;  ///< the term added to it
  at::Tensor chosen_rewards;
  at::Tensor rejected_rewards;
  at::Tensor response_rewards;  ///< undefined when there was no response
};

/// Both tensors have shape (batch,). Only `losses` carries a gradient.
struct UnpairedPreferenceLoss {
  at::Tensor losses;
  at::Tensor rewards;  ///< beta * (policy - ref), detached
};

/// Preference loss of (chosen, rejected) pairs (DPO, arXiv 2305.18290, and its relatives; the list
/// is in selm/core/loss_list.hpp), or a weighted sum of several.
/// @param policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps
///   summed log-probabilities in nats, (batch,), float32 or float64; the reference's without
///   gradient
/// @param options  the loss, beta and what belongs to single losses
/// @param chosen_lengths, rejected_lengths  tokens per response, (batch,), int64; for losses that
///   read them and only for those
SELM_TORCH_API PreferenceLoss dpo_loss(const at::Tensor& policy_chosen_logps,
                                       const at::Tensor& policy_rejected_logps,
                                       const at::Tensor& ref_chosen_logps,
                                       const at::Tensor& ref_rejected_logps,
                                       const PreferenceOptions& options = {},
                                       const std::optional<at::Tensor>& chosen_lengths = {},
                                       const std::optional<at::Tensor>& rejected_lengths = {});

/// Preference loss + exploration term (SELM, arXiv 2405.19332, eq. 4.2). `response` is drawn from
/// the current reference policy. Its log-probabilities may both be absent if alpha = 0.
SELM_TORCH_API SelmLoss selm_loss(
    const at::Tensor& policy_chosen_logps, const at::Tensor& policy_rejected_logps,
    const std::optional<at::Tensor>& policy_response_logps, const at::Tensor& ref_chosen_logps,
    const at::Tensor& ref_rejected_logps, const std::optional<at::Tensor>& ref_response_logps,
    const ExplorationOptions& exploration, const PreferenceOptions& options = {},
    const std::optional<at::Tensor>& chosen_lengths = {},
    const std::optional<at::Tensor>& rejected_lengths = {});

/// CPO's preference term (arXiv 2401.08417, eq. 3): "sigmoid", "hinge" or, with lengths, "ipo" of
/// the policy's log-probabilities alone. Rewards are beta * policy.
SELM_TORCH_API PreferenceLoss cpo_loss(const at::Tensor& policy_chosen_logps,
                                       const at::Tensor& policy_rejected_logps,
                                       const PreferenceOptions& options = {},
                                       const std::optional<at::Tensor>& chosen_lengths = {},
                                       const std::optional<at::Tensor>& rejected_lengths = {});

/// SimPO (arXiv 2405.14734, eq. 6): -log sigmoid(beta * (chosen / length - rejected / length) -
/// simpo_gamma). Rewards are beta * policy / length.
SELM_TORCH_API PreferenceLoss simpo_loss(const at::Tensor& policy_chosen_logps,
                                         const at::Tensor& policy_rejected_logps,
                                         const at::Tensor& chosen_lengths,
                                         const at::Tensor& rejected_lengths, double beta = 0.1,
                                         double simpo_gamma = 0.5, double label_smoothing = 0.0);

/// ORPO's odds-ratio term (arXiv 2403.07691, eq. 7), which is added to a likelihood loss: -beta *
/// log sigmoid(difference of the log-odds per token). Rewards are beta * policy / length.
SELM_TORCH_API PreferenceLoss orpo_loss(const at::Tensor& policy_chosen_logps,
                                        const at::Tensor& policy_rejected_logps,
                                        const at::Tensor& chosen_lengths,
                                        const at::Tensor& rejected_lengths, double beta = 0.1);

/// KTO (arXiv 2402.01306, eq. 8) of single responses.
/// @param policy_logps, ref_logps  summed log-probabilities in nats, (batch,), float32 or float64
/// @param desirable  (batch,), bool
/// @param kl  the baseline in nats, one number of the log-probabilities' type without gradient, for
///   loss_type "kto"; none for "apo_zero_unpaired"
/// @param beta  inverse temperature of the implicit reward, > 0
/// @param desirable_weight, undesirable_weight  factors of the two kinds of responses, >= 0
/// @param loss_type  "kto" or "apo_zero_unpaired"
SELM_TORCH_API UnpairedPreferenceLoss
kto_loss(const at::Tensor& policy_logps, const at::Tensor& ref_logps, const at::Tensor& desirable,
         const std::optional<at::Tensor>& kl, double beta = 0.1, double desirable_weight = 1.0,
         double undesirable_weight = 1.0, std::string_view loss_type = "kto");

/// log softmax(logits / temperature)[index]: (rows, vocab) or (batch, time, vocab) logits of any
/// floating type -> float32 (float64 for float64) of the index's shape; 0 where index ==
/// ignore_index. Rows may be strided; a last dimension that is not contiguous is copied.
SELM_TORCH_API at::Tensor selective_log_softmax(const at::Tensor& logits, const at::Tensor& index,
                                                double temperature = 1.0,
                                                std::int64_t ignore_index = -100);

/// Log-probability of each sequence: logits (batch, time, vocab), unshifted labels (batch, time) ->
/// (batch,). Position t of the logits predicts label t + 1; the shift costs no copy. A sequence
/// with every label ignored has sum and average 0.
SELM_TORCH_API at::Tensor sequence_logps(const at::Tensor& logits, const at::Tensor& labels,
                                         std::int64_t ignore_index = -100,
                                         bool average_log_prob = false);

/// Options of linear_logps: z = softcap * tanh(logit_scale * (h W^T + bias) / softcap) /
/// temperature.
struct LinearLogpsOptions {
  std::optional<at::Tensor> bias = {};  ///< (vocab,), type of the weight
  double temperature = 1.0;
  double logit_scale = 1.0;
  std::optional<double> softcap = {};
  std::int64_t ignore_index = -100;
  /// any of "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"
  std::vector<std::string> outputs = {};
  /// the entropy carries a gradient; where one comes, backward computes all logits a second time
  bool entropy_grad = false;
  /// bytes for logits and for what is kept of them for the backward pass, which computes the rest a
  /// second time; at least one row of the vocabulary (two are taken in any case). Default: 1 GiB.
  std::optional<std::int64_t> workspace_bytes = {};
};

/// Tensors of the labels' shape. `logps` carries a gradient, and `entropy` with `entropy_grad`; the
/// others are for logging. Undefined unless asked for.
struct LinearLogps {
  at::Tensor logps;             ///< nats, 0 where the label is ignored
  at::Tensor entropy;           ///< nats
  at::Tensor log_sum_sq_probs;  ///< log of the sum of squared probabilities
  at::Tensor mean_logits;       ///< mean of z over the vocabulary
  at::Tensor is_top1;           ///< bool: the label has the largest logit, the first one on a tie
};

/// Log-probabilities of labels from hidden states (rows, hidden) or (batch, time, hidden), head
/// weight (vocab, hidden) and labels (rows,) or (batch, time), without logits for all rows at once:
/// ignored rows are dropped before the matrix product, the rest goes tile by tile. float32 result
/// (float64 for float64 inputs); logits are accumulated in float32 whatever the input type. Under
/// autocast hidden, weight and bias are cast to its type.
SELM_TORCH_API LinearLogps linear_logps(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& labels,
                                        const LinearLogpsOptions& options = {});

/// Implicit rewards beta * (policy - ref), any shape (arXiv 2305.18290, eq. 5, without log Z).
SELM_TORCH_API at::Tensor implicit_rewards(const at::Tensor& policy_logps,
                                           const at::Tensor& ref_logps, double beta);

/// The exploration term that is added to a loss, any shape. With rho = policy_logps - ref_logps:
/// "selm" (arXiv 2405.19332, eq. 4.2) is alpha * beta * rho, "popo" (arXiv 2502.00666) alpha *
/// (sigmoid(beta * rho) - 1/2) / beta, "xpo" (arXiv 2405.21046) alpha * policy_logps, which takes
/// no beta and, unless it is clipped, no ref_logps.
SELM_TORCH_API at::Tensor exploration_bonus(const at::Tensor& policy_logps,
                                            const std::optional<at::Tensor>& ref_logps,
                                            const ExplorationOptions& options,
                                            std::optional<double> beta = {});

/// Estimates of KL(policy || ref) from samples of the policy, any shape: with rho = policy_logps -
/// ref_logps, "k1" is rho, "k2" rho^2 / 2, "k3" exp(-rho) - 1 + rho (J. Schulman, "Approximating KL
/// divergence", 2020).
SELM_TORCH_API at::Tensor kl_estimate(const at::Tensor& policy_logps, const at::Tensor& ref_logps,
                                      std::string_view kind = "k3");

/// Instruction set of the CPU kernels: "avx512", "avx2" or "baseline", the fastest that this
/// machine has. The environment variable SELM_CPU_INSTRUCTION_SET names another one; it is read at
/// the first use, and a name that this machine does not know is a ValueError.
SELM_TORCH_API const char* cpu_instruction_set();

}  // namespace selm::ops
