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
    logratio_clip: float | None = None,
) -> Tensor:
    """The exploration term of one response, which is ADDED to a loss that is minimised.

    ``selm`` (arXiv 2405.19332, eq. 4.2): ``alpha * beta * rho`` with ``rho = policy_logps - ref_logps``.
    ``xpo`` (arXiv 2405.21046): ``alpha * policy_logps``; it takes no beta and, unless it is clipped, no
    ref_logps, and its alpha is SELM's ``alpha * beta``. ``popo`` (arXiv 2502.00666):
    ``alpha * (sigmoid(beta * rho) - 1/2) / beta``, bounded. alpha = 0 gives exactly 0.

    Args:
        policy_logps: Log-probabilities of the exploration responses under the policy in nats, any shape,
            float32 or float64. Carries the gradient.
        ref_logps: The same under the reference policy; None for ``xpo`` that is not clipped.
        alpha: Strength; finite. Negative values are pessimism.
        beta: Inverse temperature for ``selm`` and ``popo``, None for ``xpo``.
        kind: ``"selm"``, ``"xpo"`` or ``"popo"``.
        logratio_clip: Where rho leaves [-logratio_clip, logratio_clip], the term is constant and its
            gradient 0; > 0. None is no limit.

    Returns:
        The term, of the inputs' shape and dtype.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: An argument is missing or not used by the kind, or out of range.

    Example:
        >>> import torch, selm_core
        >>> policy, ref = torch.tensor([-9.0]), torch.tensor([-9.5])
        >>> selm_core.exploration_bonus(policy, ref, alpha=1e-3, beta=0.1)
        tensor([5.0000e-05])
    """
    op = "exploration_bonus"
    check.require_tensors(op, policy_logps=policy_logps)
    check.optional_tensors(op, ref_logps=ref_logps)
    bonus: Tensor = ops.exploration_bonus(
        policy_logps,
        ref_logps,
        alpha=check.number(op, "alpha", alpha),
        beta=check.optional_number(op, "beta", beta),
        kind=check.string(op, "kind", kind),
        logratio_clip=check.optional_number(op, "logratio_clip", logratio_clip),
    )
    return bonus


def implicit_reward_difference(logps: Tensor, other_logps: Tensor, *, beta: float) -> Tensor:
    """How much higher one policy's implicit reward is than another's: ``beta * (logps - other_logps)``.

    Both policies have the same reference, which cancels (arXiv 2405.19332, Fig. 4).

    Args:
        logps: Log-probabilities of responses under one policy in nats, any shape, float32 or float64.
            Carries the gradient.
        other_logps: The same under the other policy; must not require grad.
        beta: Inverse temperature, > 0.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, beta out of range, a log-probability above 0, or
            ``other_logps`` requires grad.
    """
    op = "implicit_reward_difference"
    check.require_alike(op, logps=logps, other_logps=other_logps)
    check.positive_number(op, "beta", beta)
    check.require_no_grad(op, "other_logps", other_logps)
    check.require_logps(op, "logps", logps)
    check.require_logps(op, "other_logps", other_logps)
    return implicit_rewards(logps, other_logps, beta=beta)


def log_partition(ref_logps: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """Log Z(x) of prompts whose responses are all known (arXiv 2305.18290, eq. 4).

    ``log sum_y exp(ref_logps[y] + rewards[y] / beta)`` over the last dimension.

    Args:
        ref_logps: Reference log-probabilities of all responses, ``(..., responses)``.
        rewards: Their rewards, of the same shape.
        beta: Inverse temperature, > 0.

    Returns:
        Shape ``(...)``.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, beta out of range, no response, or a log-probability above 0.
    """
    op = "log_partition"
    check.require_alike(op, ref_logps=ref_logps, rewards=rewards)
    scale = check.positive_number(op, "beta", beta)
    if ref_logps.dim() == 0 or ref_logps.size(-1) == 0:
        raise ValueError(
            f"selm::{op}: expected 'ref_logps' to hold at least one response, "
            f"got {check.describe(ref_logps)}"
        )
    check.require_logps(op, "ref_logps", ref_logps)
    total = (ref_logps.double() + rewards.double() / scale).logsumexp(-1)
    return total.to(ref_logps.dtype)


def policy_logps_from_rewards(
    rewards: Tensor, ref_logps: Tensor, *, beta: float, log_partition: Tensor | float
) -> Tensor:
    """The policy whose implicit rewards these are: ``ref_logps + rewards / beta - log_partition``.

    Normalised with :func:`log_partition` of the same prompts, and the inverse of
    :func:`implicit_rewards` with 0 (arXiv 2305.18290, eq. 4).

    Args:
        rewards: Rewards of responses, any shape, float32 or float64.
        ref_logps: Their log-probabilities under the reference policy, of the same shape.
        beta: Inverse temperature, > 0.
        log_partition: Log Z of each response's prompt: a finite number, or a tensor of the rewards' shape
            (or without its last dimension, where that counts the responses to a prompt).

    Returns:
        Log-probabilities of the rewards' shape.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, a number out of range, or a log-probability above 0.
    """
    op = "policy_logps_from_rewards"
    check.require_alike(op, rewards=rewards, ref_logps=ref_logps)
    scale = check.positive_number(op, "beta", beta)
    shift: Tensor | float
    if isinstance(log_partition, Tensor):
        name, like = "log_partition", " (same as 'rewards')"
        check.require_dtype(op, name, log_partition, rewards.dtype, like)
        check.require_device(op, name, log_partition, rewards.device, like)
        same = log_partition.shape == rewards.shape
        if not same and log_partition.shape != rewards.shape[:-1]:
            raise ValueError(
                f"selm::{op}: expected '{name}' to have shape {list(rewards.shape)}{like} or "
                f"{list(rewards.shape[:-1])}, got {check.describe(log_partition)}"
            )
        shift = log_partition.double() if same else log_partition.double().unsqueeze(-1)
    else:
        shift = check.finite_number(op, "log_partition", log_partition)
    check.require_logps(op, "ref_logps", ref_logps)
    return (ref_logps.double() + (rewards.double() / scale - shift)).to(rewards.dtype)


def center_rewards(rewards: Tensor, prompts: Tensor) -> Tensor:
    """Rewards less the mean of their prompt's: free of the prompt's constant ``beta * log Z``.

    Args:
        rewards: One reward per response, ``(batch,)``, float32 or float64. Carries the gradient.
        prompts: Number of each response's prompt, ``(batch,)``, int64, at least 0.

    Returns:
        Centred rewards ``(batch,)``.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, or a prompt's number is negative.
    """
    op = "center_rewards"
    check.require_tensors(op, rewards=rewards, prompts=prompts)
    check.require_float(op, "rewards", rewards)
    if rewards.dim() != 1:
        raise ValueError(
            f"selm::{op}: expected 'rewards' to have shape (batch,), got {check.describe(rewards)}"
        )
    check.require_dtype(op, "prompts", prompts, torch.int64)
    check.require_device(op, "prompts", prompts, rewards.device, " (same as 'rewards')")
    check.require_shape(op, "prompts", prompts, rewards.shape, " (same as 'rewards')")
    check.require_values(op, "prompts", prompts, prompts < 0, "to hold numbers >= 0")
    unique: tuple[Tensor, Tensor, Tensor] = torch.unique(
        prompts, return_inverse=True, return_counts=True
    )
    numbers, group, counts = unique
    wide = rewards.double()
    sums = wide.new_zeros(int(numbers.numel())).index_add(0, group, wide)
    return (wide - (sums / counts)[group]).to(rewards.dtype)


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


def reward_margins(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """``chosen_rewards - rejected_rewards``, float32 or float64, any shape, the same for both.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: The shapes or devices differ (nothing is broadcast).
    """
    check.require_alike(
        "reward_margins", chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards
    )
    return chosen_rewards - rejected_rewards


def reward_accuracies(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """1 where the chosen response has the higher reward, else 0 (also on a tie); float32.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: The shapes or devices differ (nothing is broadcast).
    """
    check.require_alike(
        "reward_accuracies", chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards
    )
    return (chosen_rewards > rejected_rewards).to(torch.float32)
