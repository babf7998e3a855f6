"""Functions of per-token log-probabilities: what lies between a model's output and a loss.

Shapes are ``(batch, time)``; ``mask`` is True where a token belongs to the response. Masked positions are
never read, whatever they hold. Sums over tokens are accumulated in float64 and rounded once.
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
        ValueError: Shapes or devices differ.
    """
    _require_tokens("masked_sum", token_logps=token_logps)
    _require_mask("masked_sum", mask, token_logps)
    return _sum(token_logps, mask)


def masked_mean(token_logps: Tensor, mask: Tensor) -> Tensor:
    """Average log-probability per token of each response, ``(batch,)``, 0 without tokens.

    Args:
        token_logps: As in :func:`masked_sum`.
        mask: As in :func:`masked_sum`.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ.
    """
    _require_tokens("masked_mean", token_logps=token_logps)
    _require_mask("masked_mean", mask, token_logps)
    return _mean(token_logps, mask)


def length_desensitized_logps(
    token_logps: Tensor, mask: Tensor, shared_lengths: Tensor, *, ld_alpha: float
) -> Tensor:
    """LD-DPO (arXiv 2409.06411): tokens beyond the length that a pair shares count ``ld_alpha`` each.

    Args:
        token_logps: As in :func:`masked_sum`.
        mask: As in :func:`masked_sum`.
        shared_lengths: Of each pair the smaller number of tokens, ``(batch,)``, int64; the same for its
            chosen and its rejected response.
        ld_alpha: Weight of the excess tokens, in [0, 1]; 1 is :func:`masked_sum`.

    Returns:
        Log-probabilities ``(batch,)``.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, or ``ld_alpha`` is out of its range.
    """
    op = "length_desensitized_logps"
    _require_tokens(op, token_logps=token_logps)
    _require_mask(op, mask, token_logps)
    _require_lengths(op, shared_lengths, token_logps)
    weight = check.number(op, "ld_alpha", ld_alpha)
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"selm::{op}: expected 'ld_alpha' to be in [0, 1], got {weight}")
    if weight == 1.0:
        return _sum(token_logps, mask)
    shared = mask & (mask.cumsum(dim=1) <= shared_lengths.unsqueeze(1))
    logps = _sum(token_logps, shared)
    # Left out rather than multiplied by 0: the excess may be infinite.
    return logps if weight == 0.0 else logps + weight * _sum(token_logps, mask & ~shared)


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
        ValueError: Shapes or devices differ.
    """
    op = "wpo_weights"
    _require_tokens(op, token_logps=token_logps, log_sum_sq_probs=log_sum_sq_probs)
    _require_mask(op, mask, token_logps)
    return _mean(token_logps - log_sum_sq_probs, mask).exp()


def token_rewards(
    policy_token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, *, beta: float
) -> Tensor:
    """Implicit reward of each token, ``beta * (policy - ref)`` (arXiv 2404.12358, eq. 9), 0 where masked.

    Their sum is the response's implicit reward.

    Args:
        policy_token_logps: As in :func:`masked_sum`. Carries the gradient.
        ref_token_logps: The same under the reference policy.
        mask: As in :func:`masked_sum`.
        beta: Inverse temperature, > 0.

    Returns:
        Rewards ``(batch, time)``.

    Raises:
        TypeError: Wrong type or dtype.
        ValueError: Shapes or devices differ, or beta is out of its range.
    """
    op = "token_rewards"
    _require_tokens(op, policy_token_logps=policy_token_logps, ref_token_logps=ref_token_logps)
    _require_mask(op, mask, policy_token_logps)
    scale = check.positive_number(op, "beta", beta)
    rewards = scale * (policy_token_logps - ref_token_logps)
    return torch.where(mask, rewards, torch.zeros_like(rewards))


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
        ValueError: Shapes or devices differ, or beta is out of its range.
    """
    rewards = token_rewards(policy_token_logps, ref_token_logps, mask, beta=beta)
    return rewards.cumsum(dim=1, dtype=torch.float64).to(rewards.dtype)


def _total(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values)).sum(dim=1, dtype=torch.float64)


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    return _total(values, mask).to(values.dtype)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (_total(values, mask) / mask.sum(dim=1).clamp_min(1)).to(values.dtype)


def _require_tokens(op: str, **values: Tensor) -> None:
    check.require_tensors(op, **values)
    first, reference = next(iter(values.items()))
    for name, value in values.items():
        check.require_float(op, name, value)
        if value.dim() != 2:
            raise ValueError(
                f"selm::{op}: expected '{name}' to have shape (batch, time), got {list(value.shape)}"
            )
        if value.dtype != reference.dtype:
            raise TypeError(
                f"selm::{op}: expected '{name}' to be {reference.dtype} (same as '{first}'), "
                f"got {value.dtype}"
            )
        _require_like(op, name, value, first, reference)


def _require_mask(op: str, mask: Tensor, tokens: Tensor) -> None:
    check.require_tensor(op, "mask", mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"selm::{op}: expected 'mask' to be bool, got {mask.dtype}")
    _require_like(op, "mask", mask, "the token log-probabilities", tokens)


def _require_lengths(op: str, lengths: Tensor, tokens: Tensor) -> None:
    check.require_tensor(op, "shared_lengths", lengths)
    if lengths.dtype != torch.int64:
        raise TypeError(f"selm::{op}: expected 'shared_lengths' to be int64, got {lengths.dtype}")
    _require_like(
        op, "shared_lengths", lengths, "the batch", tokens[:, 0] if tokens.size(1) else lengths
    )


def _require_like(op: str, name: str, value: Tensor, other: str, reference: Tensor) -> None:
    if value.shape != reference.shape:
        raise ValueError(
            f"selm::{op}: expected '{name}' to have shape {list(reference.shape)} (same as {other}), "
            f"got {list(value.shape)}"
        )
    if value.device != reference.device:
        raise ValueError(
            f"selm::{op}: expected '{name}' on {reference.device} (same as {other}), got {value.device}"
        )
