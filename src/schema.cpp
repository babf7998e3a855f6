#include <torch/library.h>

// Every schema, and nothing else. The public operators check their arguments and call a private
// one; the private ones have a kernel per device, a meta kernel and an autograd function.

// Options of the preference losses; None for those of single losses that are left out.
#define SELM_LOSS_OPTIONS                                                          \
  "str[]? loss_type=None, float[]? loss_weights=None, float label_smoothing=0.0, " \
  "str f_divergence_type='reverse_kl', float? f_alpha_divergence_coef=None, "      \
  "float? discopop_tau=None, float? dpop_lambda=None, float? length_margin=None, " \
  "Tensor? chosen_lengths=None, Tensor? rejected_lengths=None"

TORCH_LIBRARY(selm, m) {
  m.def(
      "dpo_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, Tensor ref_chosen_logps, "
      "Tensor ref_rejected_logps, *, float beta=0.1, " SELM_LOSS_OPTIONS
      ") -> (Tensor losses, Tensor chosen_rewards, Tensor rejected_rewards)");
  m.def(
      "selm_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, "
      "Tensor? policy_response_logps, Tensor ref_chosen_logps, Tensor ref_rejected_logps, "
      "Tensor? ref_response_logps, *, float alpha, float beta, str exploration='selm', "
      "float? logratio_clip=None, " SELM_LOSS_OPTIONS
      ") -> (Tensor losses, Tensor dpo_losses, Tensor exploration, "
      "Tensor chosen_rewards, Tensor rejected_rewards, Tensor response_rewards)");
  m.def(
      "cpo_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, *, float beta=0.1, "
      "str loss_type='sigmoid', float label_smoothing=0.0, Tensor? chosen_lengths=None, "
      "Tensor? rejected_lengths=None) -> "
      "(Tensor losses, Tensor chosen_rewards, Tensor rejected_rewards)");
  m.def(
      "simpo_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, "
      "Tensor chosen_lengths, Tensor rejected_lengths, *, float beta=0.1, float simpo_gamma=0.5, "
      "float label_smoothing=0.0) -> "
      "(Tensor losses, Tensor chosen_rewards, Tensor rejected_rewards)");
  m.def(
      "orpo_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, "
      "Tensor chosen_lengths, Tensor rejected_lengths, *, float beta=0.1) -> "
      "(Tensor losses, Tensor chosen_rewards, Tensor rejected_rewards)");
  m.def(
      "kto_loss(Tensor policy_logps, Tensor ref_logps, Tensor desirable, Tensor? kl, *, "
      "float beta=0.1, float desirable_weight=1.0, float undesirable_weight=1.0, "
      "str loss_type='kto') -> (Tensor losses, Tensor rewards)");
  m.def(
      "selective_log_softmax(Tensor logits, Tensor index, *, float temperature=1.0, "
      "int ignore_index=-100) -> Tensor");
  m.def(
      "sequence_logps(Tensor logits, Tensor labels, *, int ignore_index=-100, "
      "bool average_log_prob=False) -> Tensor");
  m.def(
      "linear_logps(Tensor hidden, Tensor weight, Tensor labels, *, Tensor? bias=None, "
      "float temperature=1.0, float logit_scale=1.0, float? softcap=None, int ignore_index=-100, "
      "str[]? outputs=None, bool entropy_grad=False, int? workspace_bytes=None) -> (Tensor logps, "
      "Tensor entropy, "
      "Tensor log_sum_sq_probs, Tensor mean_logits, Tensor is_top1)");
  m.def("implicit_rewards(Tensor policy_logps, Tensor ref_logps, *, float beta) -> Tensor");
  m.def(
      "exploration_bonus(Tensor policy_logps, Tensor? ref_logps, *, float alpha, "
      "float? beta=None, str kind='selm', float? logratio_clip=None) -> Tensor");
  m.def("kl_estimate(Tensor policy_logps, Tensor ref_logps, *, str kind='k3') -> Tensor");

  // losses, dpo_losses, exploration, chosen_rewards, rejected_rewards, d_chosen, d_rejected and,
  // with a response, response_rewards, d_response
  m.def(
      "_preference_loss(str op, Tensor policy_chosen, Tensor policy_rejected, "
      "Tensor? policy_response, Tensor? ref_chosen, Tensor? ref_rejected, Tensor? ref_response, "
      "Tensor? chosen_lengths, Tensor? rejected_lengths, str[] names, float[] numbers) -> "
      "Tensor[]");
  // For losses that rank the batch, each of which belongs to several rows: the derivatives of
  // (upstream * losses).sum(), d_chosen, d_rejected and d_response (empty without one)
  m.def(
      "_preference_loss_backward(Tensor upstream, str op, Tensor policy_chosen, "
      "Tensor policy_rejected, Tensor? policy_response, Tensor? ref_chosen, Tensor? ref_rejected, "
      "Tensor? ref_response, Tensor? chosen_lengths, Tensor? rejected_lengths, str[] names, "
      "float[] numbers) -> (Tensor, Tensor, Tensor)");
  // losses, rewards, d losses / d policy_logps
  m.def(
      "_unpaired_loss(Tensor policy_logps, Tensor ref_logps, Tensor desirable, Tensor? kl, "
      "float beta, float desirable_weight, float undesirable_weight) -> (Tensor, Tensor, Tensor)");
  // op: the public operator, which names the function; kind: its variant. Value and derivative.
  m.def(
      "_logratio_term(str op, Tensor policy_logps, Tensor? ref_logps, str kind, float alpha, "
      "float beta, float logratio_clip) -> (Tensor, Tensor)");
  // logps and summary (rows, 3): a logit among the largest, log-sum, 1 - probability
  m.def(
      "_token_logps(Tensor logits, Tensor index, float temperature, int ignore_index) -> "
      "(Tensor, Tensor)");
  m.def(
      "_token_logps_backward(Tensor grad, Tensor logits, Tensor index, Tensor summary, "
      "float temperature, int ignore_index) -> Tensor");
  m.def(
      "_sequence_logps(Tensor logits, Tensor labels, int ignore_index, bool average_log_prob) -> "
      "(Tensor, Tensor)");
  m.def(
      "_sequence_logps_backward(Tensor grad, Tensor logits, Tensor labels, Tensor summary, "
      "int ignore_index, bool average_log_prob) -> Tensor");
  // logps, summary, d logps / d hidden (empty unless asked for), what logit gradients are made of
  // (a byte in front of memory of any size), and the four optional outputs. The backward pass takes
  // that memory away unless the graph is kept, and does without it where it is gone.
  m.def(
      "_linear_logps(Tensor hidden, Tensor weight, Tensor labels, Tensor? bias, "
      "float[3] transform, int ignore_index, bool[4] outputs, int? workspace_bytes, "
      "int for_backward, bool entropy_grad) -> Tensor[]");
  m.def(
      "_linear_logps_backward(Tensor? grad, Tensor? entropy_grad, Tensor hidden, Tensor weight, "
      "Tensor labels, Tensor? bias, Tensor summary, Tensor entropy, Tensor kept, "
      "float[3] transform, int ignore_index, int? workspace_bytes, bool[3] needed) -> "
      "(Tensor, Tensor, Tensor)");
}
