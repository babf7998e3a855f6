"""Functions of per-token log-probabilities: what lies between a model's output and a loss.

Shapes are ``(batch, time)``; ``mask`` is True where a token belongs to the response, and there
log-probabilities are at most 0. Masked positions are never read, whatever they hold. All arithmetic is in
float64 and rounded once.
"""

import torch
from torch import Tensor

from selm_core import _arguments as check


def masked_sum(token_logps: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each response: the sum over its tokens.

    Args:
        token_logps: Log-probabilities of the tokens in nats, ``(batch, time)``, float32 or float64.
        mask: Which tokens count, ``(batch, time)``, bool.

    Returns:
        ``(batch,)``, 0 for a response without tokens.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, or a log-probability is above 0.
    """
    _require_tokens("masked_sum", mask, token_logps=token_logps)
    return _total(token_logps, mask).to(token_logps.dtype)


def masked_mean(token_logps: Tensor, mask: Tensor) -> Tensor:
    """Average log-probability per token of each response, ``(batch,)``, 0 without tokens.

    Args:
        token_logps: As in :func:`masked_sum`.
        mask: As in :func:`masked_sum`.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, or a log-probability is above 0.
    """
    _require_tokens("masked_mean", mask, token_logps=token_logps)
    return _mean(token_logps, mask).to(token_logps.dtype)


def length_desensitized_logps(
    token_logps: Tensor, mask: Tensor, shared_lengths: Tensor, *, ld_alpha: float
) -> Tensor:
    """LD-DPO (arXiv 2409.06411): tokens beyond the length that a pair shares count ``ld_alpha`` each.

    Args:
        token_logps: As in :func:`masked_sum`.
        mask: As in :func:`masked_sum`.
        shared_lengths: Of each pair the smaller number of tokens, ``(batch,)``, int64, at least 0; the same
            for its chosen and its rejected response.
        ld_alpha: Weight of the excess tokens, in [0, 1]; 1 is :func:`masked_sum`.

    Returns:
        Log-probabilities ``(batch,)``.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, ``ld_alpha`` is out of its range, a length is negative, or a
            log-probability above 0.
    """
    op = "length_desensitized_logps"
    _require_tokens(op, mask, token_logps=token_logps)
    name, batch = "shared_lengths", " (the batch of 'token_logps')"
    check.require_tensor(op, name, shared_lengths)
    check.require_dtype(op, name, shared_lengths, torch.int64)
    check.require_device(op, name, shared_lengths, token_logps.device, " (same as 'token_logps')")
    check.require_shape(op, name, shared_lengths, token_logps.shape[:1], batch)
    weight = check.number(op, "ld_alpha", ld_alpha)
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"selm::{op}: expected 'ld_alpha' to be in [0, 1], got {weight}")
    check.require_values(op, name, shared_lengths, shared_lengths < 0, "to hold lengths >= 0")
    shared = mask & (mask.cumsum(dim=1) <= shared_lengths.unsqueeze(1))
    logps = _total(token_logps, shared)
    if weight != 0.0:  # left out rather than multiplied by 0: the excess may be infinite
        logps = logps + weight * _total(token_logps, mask & ~shared)
    return logps.to(token_logps.dtype)


@torch.no_grad()
def wpo_weights(token_logps: Tensor, log_sum_sq_probs: Tensor, mask: Tensor) -> Tensor:
    """Weight of each response in weighted preference optimisation (WPO, arXiv 2406.11827, eq. 2).

    The exponential of the mean of ``token_logps - log_sum_sq_probs``: how likely the current policy
    would produce it, compared with what the policy produces anyway. The weight of a pair is the product
    of its two; it multiplies the pair's loss. No gradient flows through it.

    Args:
        token_logps: As in :func:`masked_sum`.
        log_sum_sq_probs: Log of the sum of squared probabilities over the vocabulary at each position,
            ``(batch, time)``, from :func:`linear_logps`.
        mask: As in :func:`masked_sum`.

    Returns:
        Weights ``(batch,)``, without gradient; 1 for a response without tokens.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, or a log-probability is above 0.
    """
    op = "wpo_weights"
    _require_tokens(op, mask, token_logps=token_logps, log_sum_sq_probs=log_sum_sq_probs)
    differences = token_logps.double() - log_sum_sq_probs.double()
    return _mean(differences, mask).exp().to(token_logps.dtype)


def token_rewards(
    policy_token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, *, beta: float
) -> Tensor:
    """Implicit reward of each token, ``beta * (policy - ref)`` (arXiv 2404.12358, eq. 9), 0 where masked.

    Their sum is the response's implicit reward.

    Args:
        policy_token_logps: As in :func:`masked_sum`. Carries the gradient.
        ref_token_logps: The same under the reference policy; must not require grad.
        mask: As in :func:`masked_sum`.
        beta: Inverse temperature, > 0.

    Returns:
        Rewards ``(batch, time)``.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, beta is out of its range, a log-probability is above 0, or
            ``ref_token_logps`` requires grad.
    """
    rewards = _token_rewards("token_rewards", policy_token_logps, ref_token_logps, mask, beta)
    return rewards.to(policy_token_logps.dtype)


def prefix_rewards(
    policy_token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, *, beta: float
) -> Tensor:
    """Implicit reward of the response up to and with each token: prefix sums of :func:`token_rewards`.

    Args:
        policy_token_logps: As in :func:`token_rewards`.
        ref_token_logps: As in :func:`token_rewards`.
        mask: As in :func:`token_rewards`.
        beta: As in :func:`token_rewards`.

    Returns:
        ``(batch, time)``; the last column is the whole response's implicit reward.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, beta is out of its range, a log-probability is above 0, or
            ``ref_token_logps`` requires grad.
    """
    rewards = _token_rewards("prefix_rewards", policy_token_logps, ref_token_logps, mask, beta)
    return rewards.cumsum(dim=1).to(policy_token_logps.dtype)


def _token_rewards(op: str, policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    """In float64."""
    _require_tokens(op, mask, policy_token_logps=policy, ref_token_logps=ref)
    check.require_no_grad(op, "ref_token_logps", ref)
    scale = check.positive_number(op, "beta", beta)
    rewards = scale * (policy.double() - ref.double())
    return torch.where(mask, rewards, torch.zeros_like(rewards))


def _total(values: Tensor, mask: Tensor) -> Tensor:
    """In float64."""
    return torch.where(mask, values, torch.zeros_like(values)).sum(dim=1, dtype=torch.float64)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """In float64."""
    return _total(values, mask) / mask.sum(dim=1).clamp_min(1)


def _require_tokens(op: str, mask: Tensor, **values: Tensor) -> None:
    check.require_alike(op, **values)
    first, tokens = next(iter(values.items()))
    if tokens.dim() != 2:
        raise ValueError(
            f"selm::{op}: expected '{first}' to have shape (batch, time), got {check.describe(tokens)}"
        )
    check.require_tensor(op, "mask", mask)
    check.require_dtype(op, "mask", mask, torch.bool)
    check.require_device(op, "mask", mask, tokens.device, f" (same as '{first}')")
    check.require_shape(op, "mask", mask, tokens.shape, f" (same as '{first}')")
    for name, logps in values.items():
        check.require_logps(op, name, logps, mask)
