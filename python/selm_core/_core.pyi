from collections.abc import Sequence

from torch import Tensor

def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
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
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]: ...
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
    outputs: Sequence[str] = (),
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
) -> Tensor: ...
def kl_estimate(policy_logps: Tensor, ref_logps: Tensor, *, kind: str = "k3") -> Tensor: ...
def cpu_instruction_set() -> str: ...
