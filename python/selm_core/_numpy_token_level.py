"""Functions of per-token log-probabilities on NumPy arrays; `selm_core.numpy` offers them."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from selm_core import _numpy
from selm_core import _scalars as check
from selm_core._numpy_results import Floats

Mask: TypeAlias = npt.NDArray[np.bool_]


def masked_sum(token_logps: Floats, mask: Mask) -> Floats:
    """Log-probability of each response, the sum over its tokens; its derivative by each of them is 1.

    Args:
        token_logps: Log-probabilities of the tokens in nats, ``(batch, time)``.
        mask: Which tokens count, ``(batch, time)``, bool. Others are never read, whatever they hold.

    Returns:
        ``(batch,)``, 0 for a response without tokens.
    """
    return _numpy.masked_sum(token_logps, mask)


def masked_mean(token_logps: Floats, mask: Mask) -> Floats:
    """Average log-probability per token of each response, ``(batch,)``, 0 without tokens.

    Its derivative by each of ``n`` tokens is ``1 / n``.

    Args:
        token_logps: As in :func:`masked_sum`.
        mask: As in :func:`masked_sum`.
    """
    return _numpy.masked_mean(token_logps, mask)


def length_desensitized_logps(
    token_logps: Floats, mask: Mask, shared_lengths: npt.NDArray[np.int64], *, ld_alpha: float
) -> Floats:
    """LD-DPO (arXiv 2409.06411): tokens beyond the length that a pair shares count ``ld_alpha`` each.

    The derivative by a token is 1 up to that length, and ``ld_alpha`` beyond.

    Args:
        token_logps: As in :func:`masked_sum`.
        mask: As in :func:`masked_sum`.
        shared_lengths: Of each pair the smaller number of tokens, ``(batch,)``, int64, at least 0; the
            same for its chosen and its rejected response.
        ld_alpha: Weight of the excess tokens, in [0, 1]; 1 is :func:`masked_sum`.

    Returns:
        Log-probabilities ``(batch,)``.
    """
    op = "length_desensitized_logps"
    return _numpy.length_desensitized_logps(
        token_logps, mask, shared_lengths, check.number(op, "ld_alpha", ld_alpha)
    )


def wpo_weights(token_logps: Floats, log_sum_sq_probs: Floats, mask: Mask) -> Floats:
    """Weight of each response in WPO (arXiv 2406.11827, eq. 2), a constant of the loss it multiplies.

    The exponential of the mean of ``token_logps - log_sum_sq_probs``. The weight of a pair is the
    product of its two.

    Args:
        token_logps: As in :func:`masked_sum`.
        log_sum_sq_probs: Log of the sum of squared probabilities over the vocabulary at each position,
            ``(batch, time)``.
        mask: As in :func:`masked_sum`.

    Returns:
        Weights ``(batch,)``, 1 for a response without tokens.
    """
    return _numpy.wpo_weights(token_logps, log_sum_sq_probs, mask)


def token_rewards(
    policy_token_logps: Floats, ref_token_logps: Floats, mask: Mask, *, beta: float
) -> Floats:
    """Implicit reward of each token, ``beta * (policy - ref)`` (arXiv 2404.12358, eq. 9), 0 where masked.

    The derivative by a policy's token is ``beta``.

    Args:
        policy_token_logps: As in :func:`masked_sum`.
        ref_token_logps: The same under the reference policy.
        mask: As in :func:`masked_sum`.
        beta: Inverse temperature, > 0.

    Returns:
        Rewards ``(batch, time)``.
    """
    op = "token_rewards"
    scale = check.number(op, "beta", beta)
    return _numpy.token_rewards(policy_token_logps, ref_token_logps, mask, scale)


def prefix_rewards(
    policy_token_logps: Floats, ref_token_logps: Floats, mask: Mask, *, beta: float
) -> Floats:
    """Implicit reward of the response up to and with each token: prefix sums of :func:`token_rewards`.

    Args:
        policy_token_logps: As in :func:`token_rewards`.
        ref_token_logps: As in :func:`token_rewards`.
        mask: As in :func:`token_rewards`.
        beta: As in :func:`token_rewards`.

    Returns:
        ``(batch, time)``; the last column is the whole response's implicit reward.
    """
    op = "prefix_rewards"
    scale = check.number(op, "beta", beta)
    return _numpy.prefix_rewards(policy_token_logps, ref_token_logps, mask, scale)
