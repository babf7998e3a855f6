from collections.abc import Sequence

from torch import Tensor

def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    loss_type: str | Sequence[str] | None = None,
    loss_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float | None = None,
    discopop_tau: float | None = None,
    dpop_lambda: float | None = None,
    length_margin: float | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...
def selm_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    policy_response_logps: Tensor | None,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    ref_response_logps: Tensor | None,
    *,
    alpha: float,
    beta: float,
    exploration: str = "selm",
    logratio_clip: float | None = None,
    loss_type: str | Sequence[str] | None = None,
    loss_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float | None = None,
    discopop_tau: float | None = None,
    dpop_lambda: float | None = None,
    length_margin: float | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]: ...
def cpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...
def simpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 0.1,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]: ...
def orpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]: ...
def kto_loss(
    policy_logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    kl: Tensor | None,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
) -> tuple[Tensor, Tensor]: ...
def selective_log_softmax(
    logits: Tensor, index: Tensor, *, temperature: float = 1.0, ignore_index: int = -100
) -> Tensor: ...
def sequence_logps(
    logits: Tensor, labels: Tensor, *, ignore_index: int = -100, average_log_prob: bool = False
) -> Tensor: ...
def linear_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    outputs: Sequence[str] = [],
    entropy_grad: bool = False,
    workspace_bytes: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]: ...
def implicit_rewards(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor: ...
def exploration_bonus(
    policy_logps: Tensor,
    ref_logps: Tensor | None,
    *,
    alpha: float,
    beta: float | None = None,
    kind: str = "selm",
    logratio_clip: float | None = None,
) -> Tensor: ...
def kl_estimate(policy_logps: Tensor, ref_logps: Tensor, *, kind: str = "k3") -> Tensor: ...
def uses_lengths(loss_type: Sequence[str]) -> tuple[bool, bool]: ...
def cpu_instruction_set() -> str: ...
