"""Rewards, exploration bonus and divergence estimates from log-probabilities."""

import torch
from torch import Tensor

from selm_core import _arguments as check
from selm_core._library import ops


def implicit_rewards(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """Implicit reward ``beta * (policy_logps - ref_logps)`` (arXiv 2305.18290, eq. 5, without log Z).

    Args:
        policy_logps: Log-probabilities under the policy in nats, any shape, float32 or float64. Carries
            the gradient.
        ref_logps: The same under the reference policy; must not require grad.
        beta: Inverse temperature, > 0.

    Returns:
        Rewards of the inputs' shape and dtype.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, beta out of range, or the reference requires grad.
    """
    op = "implicit_rewards"
    check.require_tensors(op, policy_logps=policy_logps, ref_logps=ref_logps)
    rewards: Tensor = ops.implicit_rewards(
        policy_logps, ref_logps, beta=check.number(op, "beta", beta)
    )
    return rewards


def exploration_bonus(
    policy_logps: Tensor,
    ref_logps: Tensor | None,
    *,
    alpha: float,
    beta: float | None = None,
    kind: str = "selm",
) -> Tensor:
    """The exploration term of one response, which is ADDED to a loss that is minimised.

    ``selm`` (arXiv 2405.19332, eq. 4.2): ``alpha * beta * (policy_logps - ref_logps)``. ``xpo``
    (arXiv 2405.21046): ``alpha * policy_logps``; it takes no ref_logps and no beta, and its alpha is
    SELM's ``alpha * beta``. alpha = 0 gives exactly 0.

    Args:
        policy_logps: Log-probabilities of the exploration responses under the policy in nats, any shape,
            float32 or float64. Carries the gradient.
        ref_logps: The same under the reference policy for ``selm``, None for ``xpo``.
        alpha: Strength; finite. Negative values are pessimism.
        beta: Inverse temperature for ``selm``, None for ``xpo``.
        kind: ``"selm"`` or ``"xpo"``.

    Returns:
        The term, of the inputs' shape and dtype.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: An argument is missing or not used by the kind, or out of range.
    """
    op = "exploration_bonus"
    check.require_tensors(op, policy_logps=policy_logps)
    check.optional_tensors(op, ref_logps=ref_logps)
    bonus: Tensor = ops.exploration_bonus(
        policy_logps,
        ref_logps,
        alpha=check.number(op, "alpha", alpha),
        beta=None if beta is None else check.number(op, "beta", beta),
        kind=check.string(op, "kind", kind),
    )
    return bonus


def kl_estimate(policy_logps: Tensor, ref_logps: Tensor, *, kind: str = "k3") -> Tensor:
    """Estimate of KL(policy || reference) from samples of the policy.

    With ``rho = policy_logps - ref_logps``: ``k1 = rho``, ``k2 = rho**2 / 2``, ``k3 = exp(-rho) - 1 + rho``
    (J. Schulman, "Approximating KL divergence", 2020).

    Args:
        policy_logps: Log-probabilities under the policy in nats, any shape, float32 or float64. Carries
            the gradient.
        ref_logps: The same under the reference policy; must not require grad.
        kind: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
        One estimate per element.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, an unknown kind, or the reference requires grad.
    """
    op = "kl_estimate"
    check.require_tensors(op, policy_logps=policy_logps, ref_logps=ref_logps)
    estimate: Tensor = ops.kl_estimate(policy_logps, ref_logps, kind=check.string(op, "kind", kind))
    return estimate


def _check_rewards(op: str, chosen_rewards: Tensor, rejected_rewards: Tensor) -> None:
    """Nothing is broadcast or promoted, and half precision is for storage, not for rewards."""
    check.require_tensors(op, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    if chosen_rewards.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"selm::{op}: expected 'chosen_rewards' to be float32 or float64, "
            f"got {_name(chosen_rewards.dtype)}"
        )
    expected = f"selm::{op}: expected 'rejected_rewards' to"
    same = "(same as 'chosen_rewards')"
    if rejected_rewards.dtype != chosen_rewards.dtype:
        raise TypeError(
            f"{expected} be {_name(chosen_rewards.dtype)} {same}, got {_name(rejected_rewards.dtype)}"
        )
    if rejected_rewards.device != chosen_rewards.device:
        raise ValueError(
            f"{expected} be on {chosen_rewards.device} {same}, got {rejected_rewards.device}"
        )
    if rejected_rewards.shape != chosen_rewards.shape:
        raise ValueError(
            f"{expected} have shape {list(chosen_rewards.shape)} {same}, "
            f"got {list(rejected_rewards.shape)}"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def reward_margins(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """``chosen_rewards - rejected_rewards``, float32 or float64, any shape, the same for both.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: The shapes or devices differ (nothing is broadcast).
    """
    _check_rewards("reward_margins", chosen_rewards, rejected_rewards)
    return chosen_rewards - rejected_rewards


def reward_accuracies(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """1 where the chosen response has the higher reward, else 0 (also on a tie); float32.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: The shapes or devices differ (nothing is broadcast).
    """
    _check_rewards("reward_accuracies", chosen_rewards, rejected_rewards)
    return (chosen_rewards > rejected_rewards).to(torch.float32)
