"""Preference losses on sequence log-probabilities."""

from typing import NamedTuple

from torch import Tensor

from selm_core import _arguments as check
from selm_core._library import ops


class PreferenceLoss(NamedTuple):
    """What a preference loss returns, each of shape ``(batch,)`` and of the inputs' dtype."""

    losses: Tensor
    """Loss per pair, to be minimised; the only one that carries a gradient."""
    chosen_rewards: Tensor
    """Implicit rewards ``beta * (policy - ref)`` of the chosen responses, detached."""
    rejected_rewards: Tensor
    """Implicit rewards of the rejected responses, detached."""


class SELMLoss(NamedTuple):
    """What ``selm_loss`` returns, each of shape ``(batch,)`` and of the inputs' dtype."""

    losses: Tensor
    """``dpo_losses + exploration``, rounded once; the only one that carries a gradient."""
    dpo_losses: Tensor
    """The preference loss alone, detached."""
    exploration: Tensor
    """The exploration term alone, detached."""
    chosen_rewards: Tensor
    """Implicit rewards ``beta * (policy - ref)`` of the chosen responses, detached."""
    rejected_rewards: Tensor
    """Implicit rewards of the rejected responses, detached."""
    response_rewards: Tensor | None
    """Implicit rewards of the exploration responses, detached; None when there were none."""


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
) -> PreferenceLoss:
    """Direct preference optimisation and its pairwise relatives.

    With ``rho(y) = log pi(y|x) - log pi_ref(y|x)`` and ``delta = rho(chosen) - rho(rejected)``:

    =========== ========================================================= ====================
    loss_type   loss per pair                                             source
    =========== ========================================================= ====================
    ``sigmoid`` ``-log sigmoid(beta * delta)``; with label smoothing      arXiv 2305.18290,
                ``e``: ``(1 - e) * loss(delta) + e * loss(-delta)``       eq. 7
    ``hinge``   ``max(0, 1 - beta * delta)``                              arXiv 2305.10425
    ``ipo``     ``(rho(chosen) / chosen_length                            arXiv 2310.12036,
                - rho(rejected) / rejected_length - 1 / (2 beta)) ** 2``  eq. 17
    =========== ========================================================= ====================

    Args:
        policy_chosen_logps: Log-probabilities of the chosen responses under the policy, in nats, each
            summed over its tokens. Shape ``(batch,)``, float32 or float64.
        policy_rejected_logps: The same of the rejected responses.
        ref_chosen_logps: The same under the reference policy; must not require grad.
        ref_rejected_logps: The same of the rejected responses.
        beta: Inverse temperature of the implicit reward, > 0.
        loss_type: One of the table above.
        label_smoothing: Probability that a label is flipped, in [0, 0.5]; ``sigmoid`` only.
        chosen_lengths: Tokens per chosen response, shape ``(batch,)``, int64, >= 1; ``ipo`` only, which
            needs it.
        rejected_lengths: Tokens per rejected response.

    Returns:
        Losses and detached rewards per pair; nothing is reduced.

    Raises:
        TypeError: An argument has the wrong type or dtype (half precision included).
        ValueError: Shapes or devices differ, a number is out of its range, an option is given to a loss
            that does not use it, a reference requires grad, or (on the CPU) a log-probability is > 0.
        NotImplementedError: A second derivative is asked for.

    Example:
        >>> import torch, selm_core
        >>> policy = torch.tensor([-10.0], requires_grad=True), torch.tensor([-12.0])
        >>> ref = torch.tensor([-11.0]), torch.tensor([-11.5])
        >>> selm_core.dpo_loss(*policy, *ref, beta=0.1).losses
        tensor([0.6210], grad_fn=<...>)
    """
    op = "dpo_loss"
    check.require_tensors(
        op,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    check.optional_tensors(op, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    return PreferenceLoss(
        *ops.dpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            ref_chosen_logps,
            ref_rejected_logps,
            beta=check.number(op, "beta", beta),
            loss_type=check.string(op, "loss_type", loss_type),
            label_smoothing=check.number(op, "label_smoothing", label_smoothing),
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
        )
    )


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
) -> SELMLoss:
    """Preference loss plus an optimistic exploration term (SELM, arXiv 2405.19332, eq. 4.2).

    ``losses = dpo_loss(...) + term(response)``, where ``response`` is drawn from the current reference
    policy. The term lowers its likelihood and so moves the policy towards responses not tried yet:

    =============== ============================================================ =================
    exploration     term                                                         source
    =============== ============================================================ =================
    ``selm``        ``alpha * beta * (policy_response_logp - ref_response_logp)`` arXiv 2405.19332
    ``xpo``         ``alpha * policy_response_logp``                             arXiv 2405.21046
    =============== ============================================================ =================

    XPO's alpha is SELM's ``alpha * beta``: SELM's 1e-3 passed to ``xpo`` is a 100-fold overdose at
    beta 0.01. The term is unbounded below; watch the response's log-probability.

    Args:
        policy_chosen_logps: As in :func:`dpo_loss`, and so are the other ``chosen`` and ``rejected``.
        policy_rejected_logps: See :func:`dpo_loss`.
        policy_response_logps: Log-probabilities of the exploration responses under the policy, shape
            ``(batch,)``. With ``alpha=0`` both response arguments may be None.
        ref_chosen_logps: See :func:`dpo_loss`.
        ref_rejected_logps: See :func:`dpo_loss`.
        ref_response_logps: The exploration responses under the reference; must not require grad.
        alpha: Strength of the term; 0 gives :func:`dpo_loss` bit for bit, < 0 is pessimism. The paper
            uses 1e-3 (Zephyr) and 1e-4 (Llama-3) with beta 0.01.
        beta: Inverse temperature of the implicit reward, > 0.
        exploration: One of the table above.
        loss_type: See :func:`dpo_loss`.
        label_smoothing: See :func:`dpo_loss`.
        chosen_lengths: See :func:`dpo_loss`.
        rejected_lengths: See :func:`dpo_loss`.

    Returns:
        Losses, their two parts and the three responses' rewards, per pair; nothing is reduced.

    Raises:
        TypeError: See :func:`dpo_loss`.
        ValueError: See :func:`dpo_loss`; or alpha is not finite, or the response is missing.
        NotImplementedError: A second derivative is asked for.
    """
    op = "selm_loss"
    check.require_tensors(
        op,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    check.optional_tensors(
        op,
        policy_response_logps=policy_response_logps,
        ref_response_logps=ref_response_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    losses, dpo, term, chosen_rewards, rejected_rewards, response_rewards = ops.selm_loss(
        policy_chosen_logps,
        policy_rejected_logps,
        policy_response_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        ref_response_logps,
        alpha=check.number(op, "alpha", alpha),
        beta=check.number(op, "beta", beta),
        exploration=check.string(op, "exploration", exploration),
        loss_type=check.string(op, "loss_type", loss_type),
        label_smoothing=check.number(op, "label_smoothing", label_smoothing),
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return SELMLoss(
        losses,
        dpo,
        term,
        chosen_rewards,
        rejected_rewards,
        None if policy_response_logps is None else response_rewards,
    )
