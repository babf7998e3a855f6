#include <torch/library.h>

// Every schema, and nothing else. The public operators check their arguments and call a private
// one; the private ones have a kernel per device, a meta kernel and an autograd function.

TORCH_LIBRARY(selm, m) {
  m.def(
      "dpo_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, Tensor ref_chosen_logps, "
      "Tensor ref_rejected_logps, *, float beta=0.1, str loss_type='sigmoid', "
      "float label_smoothing=0.0, Tensor? chosen_lengths=None, Tensor? rejected_lengths=None) -> "
      "(Tensor losses, Tensor chosen_rewards, Tensor rejected_rewards)");
  m.def(
      "selm_loss(Tensor policy_chosen_logps, Tensor policy_rejected_logps, "
      "Tensor? policy_response_logps, Tensor ref_chosen_logps, Tensor ref_rejected_logps, "
      "Tensor? ref_response_logps, *, float alpha, float beta, str exploration='selm', "
      "str loss_type='sigmoid', float label_smoothing=0.0, Tensor? chosen_lengths=None, "
      "Tensor? rejected_lengths=None) -> (Tensor losses, Tensor dpo_losses, Tensor exploration, "
      "Tensor chosen_rewards, Tensor rejected_rewards, Tensor response_rewards)");
  m.def(
      "selective_log_softmax(Tensor logits, Tensor index, *, float temperature=1.0, "
      "int ignore_index=-100) -> Tensor");
  m.def(
      "sequence_logps(Tensor logits, Tensor labels, *, int ignore_index=-100, "
      "bool average_log_prob=False) -> Tensor");
  m.def(
      "linear_logps(Tensor hidden, Tensor weight, Tensor labels, *, Tensor? bias=None, "
      "float temperature=1.0, float logit_scale=1.0, float? softcap=None, int ignore_index=-100, "
      "str[]? outputs=None, int? workspace_bytes=None) -> (Tensor logps, Tensor entropy, "
      "Tensor log_sum_sq_probs, Tensor mean_logits, Tensor is_top1)");
  m.def("implicit_rewards(Tensor policy_logps, Tensor ref_logps, *, float beta) -> Tensor");
  m.def(
      "exploration_bonus(Tensor policy_logps, Tensor? ref_logps, *, float alpha, "
      "float? beta=None, str kind='selm') -> Tensor");
  m.def("kl_estimate(Tensor policy_logps, Tensor ref_logps, *, str kind='k3') -> Tensor");

  // losses, dpo_losses, exploration, chosen_rewards, rejected_rewards, d_chosen, d_rejected and,
  // with a response, response_rewards, d_response
  m.def(
      "_preference_loss(str op, Tensor policy_chosen, Tensor policy_rejected, "
      "Tensor? policy_response, Tensor ref_chosen, Tensor ref_rejected, Tensor? ref_response, "
      "Tensor? chosen_lengths, Tensor? rejected_lengths, float alpha, str exploration, float beta, "
      "str loss_type, float label_smoothing) -> Tensor[]");
  // op: the public operator, which names the function; kind: its variant. Value and derivative.
  m.def(
      "_logratio_term(str op, Tensor policy_logps, Tensor? ref_logps, str kind, float alpha, "
      "float beta) -> (Tensor, Tensor)");
  // logps and summary (rows, 3): largest logit, log-sum, 1 - probability
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
  // logps, summary, d logps / d hidden (empty unless asked for), and the four optional outputs
  m.def(
      "_linear_logps(Tensor hidden, Tensor weight, Tensor labels, Tensor? bias, "
      "float[3] transform, int ignore_index, bool[4] outputs, int? workspace_bytes, "
      "bool hidden_grad) -> Tensor[]");
  m.def(
      "_linear_logps_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor labels, "
      "Tensor? bias, Tensor summary, float[3] transform, int ignore_index, int? workspace_bytes, "
      "bool[3] needed) -> (Tensor, Tensor, Tensor)");
}
