"""Preference losses of the policy's log-probabilities alone, and of single labelled responses."""

from typing import NamedTuple

from torch import Tensor

from selm_core import _arguments as check
from selm_core._library import ops
from selm_core.losses import PreferenceLoss


class UnpairedPreferenceLoss(NamedTuple):
    """What :func:`kto_loss` returns, each of shape ``(batch,)`` and of the inputs' dtype."""

    losses: Tensor
    """Loss per response, to be minimised; the only one that carries a gradient."""
    rewards: Tensor
    """Implicit rewards ``beta * (policy - ref)``, detached."""


def cpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> PreferenceLoss:
    """CPO's preference term (arXiv 2401.08417, eq. 3): DPO's losses without a reference policy.

    ``loss_type`` is ``"sigmoid"``, ``"hinge"`` or ``"ipo"``, each as in :func:`selm_core.dpo_loss` with
    the reference's log-probabilities 0. CPO adds a likelihood term: its weight times
    ``-policy_chosen_logps.sum() / chosen_lengths.sum()``.

    Args:
        policy_chosen_logps: Log-probabilities of the chosen responses under the policy, in nats, each
            summed over its tokens. Shape ``(batch,)``, float32 or float64.
        policy_rejected_logps: The same of the rejected responses.
        beta: Temperature, > 0.
        loss_type: See above.
        label_smoothing: Probability that a label is flipped, in [0, 0.5]; ``sigmoid`` only.
        chosen_lengths: Tokens per chosen response, ``(batch,)``, int64; ``ipo`` only, which averages.
        rejected_lengths: Tokens per rejected response.

    Returns:
        Losses, and the rewards ``beta * policy`` detached; nothing is reduced.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes or devices differ, an option is out of its range or not used.

    Example:
        >>> import torch, selm_core
        >>> selm_core.cpo_loss(torch.tensor([-10.0]), torch.tensor([-12.0]), beta=0.1).losses
        tensor([0.5981])
    """
    op = "cpo_loss"
    check.require_tensors(
        op, policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps
    )
    check.optional_tensors(op, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    return PreferenceLoss(
        *ops.cpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            beta=check.number(op, "beta", beta),
            loss_type=check.string(op, "loss_type", loss_type),
            label_smoothing=check.number(op, "label_smoothing", label_smoothing),
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
        )
    )


def simpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 0.1,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """SimPO (arXiv 2405.14734, eq. 6): ``-log sigmoid(beta * (w / |w| - l / |l|) - simpo_gamma)``.

    The defaults are TRL's; the paper uses beta 2 to 2.5 and simpo_gamma 0.3 to 1.6.

    Args:
        policy_chosen_logps: w, as in :func:`cpo_loss`: summed, not averaged.
        policy_rejected_logps: l, the same of the rejected responses.
        chosen_lengths: Tokens ``|w|`` per chosen response, ``(batch,)``, int64, >= 1.
        rejected_lengths: Tokens ``|l|`` per rejected response.
        beta: Scale of the average log-probability, > 0.
        simpo_gamma: Target margin, finite.
        label_smoothing: Probability that a label is flipped, in [0, 0.5].

    Returns:
        Losses, and the rewards ``beta * policy / length`` detached; nothing is reduced.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes or devices differ, or an option is out of its range.

    Example:
        >>> import torch, selm_core
        >>> chosen, rejected = torch.tensor([-10.0]), torch.tensor([-12.0])
        >>> lengths = torch.tensor([8]), torch.tensor([10])
        >>> selm_core.simpo_loss(chosen, rejected, *lengths, beta=2.0, simpo_gamma=0.5).losses
        tensor([1.0375])
    """
    op = "simpo_loss"
    check.require_tensors(
        op,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return PreferenceLoss(
        *ops.simpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            chosen_lengths,
            rejected_lengths,
            beta=check.number(op, "beta", beta),
            simpo_gamma=check.number(op, "simpo_gamma", simpo_gamma),
            label_smoothing=check.number(op, "label_smoothing", label_smoothing),
        )
    )


def orpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 0.1,
) -> PreferenceLoss:
    """ORPO's odds-ratio term (arXiv 2403.07691, eq. 7), which is added to a likelihood loss.

    ``-beta * log sigmoid(log odds(w) - log odds(l))`` with ``odds = p / (1 - p)`` of each response's
    probability per token, ``log p = policy / length``.

    Args:
        policy_chosen_logps: As in :func:`cpo_loss`: summed, not averaged.
        policy_rejected_logps: The same of the rejected responses.
        chosen_lengths: Tokens per chosen response, ``(batch,)``, int64, >= 1.
        rejected_lengths: Tokens per rejected response.
        beta: Weight of the term (the paper's lambda), > 0.

    Returns:
        Losses, and the rewards ``beta * policy / length`` detached; nothing is reduced.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes or devices differ, or beta is out of its range.

    Example:
        >>> import torch, selm_core
        >>> chosen, rejected = torch.tensor([-10.0]), torch.tensor([-12.0])
        >>> lengths = torch.tensor([8]), torch.tensor([10])
        >>> selm_core.orpo_loss(chosen, rejected, *lengths, beta=0.1).losses
        tensor([0.0729])
    """
    op = "orpo_loss"
    check.require_tensors(
        op,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return PreferenceLoss(
        *ops.orpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            chosen_lengths,
            rejected_lengths,
            beta=check.number(op, "beta", beta),
        )
    )


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
) -> UnpairedPreferenceLoss:
    """KTO (arXiv 2402.01306, eq. 8): responses that are desirable or not, without pairs.

    ``kto``: ``desirable_weight * (1 - sigmoid(beta * (rho - kl)))`` for a desirable response,
    ``undesirable_weight * (1 - sigmoid(beta * (kl - rho)))`` for an undesirable one.
    ``apo_zero_unpaired`` (arXiv 2408.06266, eq. 7) is the same with kl = 0.

    Args:
        policy_logps: Log-probabilities of the responses under the policy, in nats, each summed over its
            tokens. Shape ``(batch,)``, float32 or float64.
        ref_logps: The same under the reference policy; must not require grad.
        desirable: Whether each response is desirable, ``(batch,)``, bool.
        kl: The baseline in nats for ``kto``: one number (shape ``()``) of the same dtype without gradient,
            usually the batch's mean log-ratio of mismatched responses, at least 0. None for
            ``apo_zero_unpaired``.
        beta: Inverse temperature of the implicit reward, > 0.
        desirable_weight: Weight of desirable responses, >= 0.
        undesirable_weight: Weight of undesirable responses, >= 0.
        loss_type: ``"kto"`` or ``"apo_zero_unpaired"``.

    Returns:
        Losses and detached rewards per response; nothing is reduced.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes or devices differ, or an option is out of its range or not used.

    Example:
        >>> import torch, selm_core
        >>> policy, ref = torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -11.5])
        >>> desirable = torch.tensor([True, False])
        >>> selm_core.kto_loss(policy, ref, desirable, torch.tensor(0.2), beta=0.1).losses
        tensor([0.4800, 0.4825])
    """
    op = "kto_loss"
    check.require_tensors(op, policy_logps=policy_logps, ref_logps=ref_logps, desirable=desirable)
    check.optional_tensors(op, kl=kl)
    return UnpairedPreferenceLoss(
        *ops.kto_loss(
            policy_logps,
            ref_logps,
            desirable,
            kl,
            beta=check.number(op, "beta", beta),
            desirable_weight=check.number(op, "desirable_weight", desirable_weight),
            undesirable_weight=check.number(op, "undesirable_weight", undesirable_weight),
            loss_type=check.string(op, "loss_type", loss_type),
        )
    )
