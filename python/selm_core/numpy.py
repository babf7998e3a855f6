"""The operators on NumPy arrays, without torch: values and gradients from the same C++ formulas.

NumPy has no automatic differentiation, so every function that has a gradient returns it, or has a
``*_grad`` beside it. Arrays are float32 or float64, all of one call the same, and are never
converted; results have their dtype. Arrays that are not contiguous are copied; masked arrays
(``numpy.ma``) are refused. Inputs are never changed. The GIL is released while a call computes.

Every function raises TypeError for a wrong type or dtype, ValueError for wrong shapes (nothing is
broadcast), options out of range or not used, and log-probabilities above 0, and IndexError for a
token outside the vocabulary.

Example:
    >>> import numpy as np
    >>> import selm_core.numpy as selm
    >>> out = selm.dpo_loss(*np.array([[-10.0], [-12.0], [-11.0], [-11.5]]), beta=0.1)
    >>> out.losses, out.grad_chosen_logps
    (array([0.62095705]), array([-0.04625702]))
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from selm_core import _numpy
from selm_core import _scalars as check
from selm_core._numpy_losses import (
    cpo_loss,
    dpo_loss,
    kto_loss,
    orpo_loss,
    selm_loss,
    simpo_loss,
)
from selm_core._numpy_results import (
    ExplorationBonus,
    Floats,
    KLEstimate,
    PreferenceLoss,
    SELMLoss,
    UnpairedPreferenceLoss,
)
from selm_core._numpy_token_level import (
    length_desensitized_logps,
    masked_mean,
    masked_sum,
    prefix_rewards,
    token_rewards,
    wpo_weights,
)

Labels: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.int32]

__all__ = [
    "ExplorationBonus",
    "KLEstimate",
    "PreferenceLoss",
    "SELMLoss",
    "UnpairedPreferenceLoss",
    "center_rewards",
    "cpo_loss",
    "dpo_loss",
    "exploration_bonus",
    "implicit_reward_difference",
    "implicit_rewards",
    "kl_estimate",
    "kto_loss",
    "length_desensitized_logps",
    "log_partition",
    "masked_mean",
    "masked_sum",
    "orpo_loss",
    "policy_logps_from_rewards",
    "prefix_rewards",
    "reward_accuracies",
    "reward_margins",
    "selective_log_softmax",
    "selective_log_softmax_grad",
    "selm_loss",
    "sequence_logps",
    "sequence_logps_grad",
    "simpo_loss",
    "token_rewards",
    "wpo_weights",
]


def exploration_bonus(
    policy_logps: Floats,
    ref_logps: Floats | None,
    *,
    alpha: float,
    beta: float | None = None,
    kind: str = "selm",
    logratio_clip: float | None = None,
) -> ExplorationBonus:
    """The exploration term of one response, which is ADDED to a loss that is minimised.

    Args:
        policy_logps: Log-probabilities of the exploration responses under the policy, any shape.
        ref_logps: The same under the reference policy; None for ``xpo`` that is not clipped.
        alpha: Strength, finite; < 0 is pessimism.
        beta: Inverse temperature for ``selm`` and ``popo``, None for ``xpo``.
        kind: With ``rho = policy_logps - ref_logps``: ``"selm"``: ``alpha * beta * rho`` (arXiv
            2405.19332, eq. 4.2). ``"xpo"``: ``alpha * policy_logps`` (arXiv 2405.21046). ``"popo"``:
            ``alpha * (sigmoid(beta * rho) - 1/2) / beta`` (arXiv 2502.00666).
        logratio_clip: Where rho leaves [-logratio_clip, logratio_clip], the term is constant and its
            gradient 0; > 0.
    """
    op = "exploration_bonus"
    return ExplorationBonus(
        *_numpy.exploration_bonus(
            policy_logps,
            ref_logps,
            check.number(op, "alpha", alpha),
            check.optional_number(op, "beta", beta),
            check.string(op, "kind", kind),
            check.optional_number(op, "logratio_clip", logratio_clip),
        )
    )


def implicit_rewards(policy_logps: Floats, ref_logps: Floats, *, beta: float) -> Floats:
    """``beta * (policy_logps - ref_logps)`` (arXiv 2305.18290, eq. 5, without log Z), any shape.

    Its derivative with respect to ``policy_logps`` is ``beta``.
    """
    return _numpy.implicit_rewards(
        policy_logps, ref_logps, check.number("implicit_rewards", "beta", beta)
    )


def implicit_reward_difference(logps: Floats, other_logps: Floats, *, beta: float) -> Floats:
    """How much higher one policy's implicit reward is than another's: ``beta * (logps - other_logps)``.

    Both have the same reference, which cancels (arXiv 2405.19332, Fig. 4). Any shape; the derivative by
    ``logps`` is ``beta``.
    """
    op = "implicit_reward_difference"
    return _numpy.implicit_reward_difference(logps, other_logps, check.number(op, "beta", beta))


def center_rewards(rewards: Floats, prompts: npt.NDArray[np.int64]) -> Floats:
    """Rewards less the mean of their prompt's: free of the prompt's constant ``beta * log Z``.

    With ``n`` responses to a prompt, the derivative by a reward of the same prompt is ``1 - 1 / n`` for
    its own result and ``-1 / n`` for the others.

    Args:
        rewards: One reward per response, ``(batch,)``.
        prompts: Number of each response's prompt, ``(batch,)``, int64, at least 0.
    """
    return _numpy.center_rewards(rewards, prompts)


def reward_margins(chosen_rewards: Floats, rejected_rewards: Floats) -> Floats:
    """``chosen_rewards - rejected_rewards``, any shape, the same for both."""
    return _numpy.reward_margins(chosen_rewards, rejected_rewards)


def reward_accuracies(chosen_rewards: Floats, rejected_rewards: Floats) -> Floats:
    """1 where the chosen response has the higher reward, else 0 (also on a tie), any shape."""
    return _numpy.reward_accuracies(chosen_rewards, rejected_rewards)


def log_partition(ref_logps: Floats, rewards: Floats, *, beta: float) -> Floats:
    """Log Z(x) of prompts: log of the sum of ``exp(ref_logps + rewards / beta)`` over the last axis.

    Args:
        ref_logps: Reference log-probabilities of ALL responses to each prompt, at least one,
            ``(..., responses)``.
        rewards: Their rewards, same shape.
        beta: Inverse temperature, > 0.

    Returns:
        Shape ``(...)``.
    """
    op = "log_partition"
    return _numpy.log_partition(ref_logps, rewards, check.number(op, "beta", beta))


def policy_logps_from_rewards(
    rewards: Floats, ref_logps: Floats, *, beta: float, log_partition: Floats | float
) -> Floats:
    """The policy whose implicit rewards these are (arXiv 2305.18290, eq. 4), any shape.

    ``ref_logps + rewards / beta - log_partition``: normalised with :func:`log_partition` of the
    same prompts, and the inverse of :func:`implicit_rewards` with 0.

    Args:
        rewards: Rewards of responses.
        ref_logps: Their log-probabilities under the reference policy, same shape.
        beta: Inverse temperature, > 0.
        log_partition: Log Z of each response's prompt: a finite number, or an array of the rewards' shape
            (or without its last axis, where that counts the responses to a prompt).
    """
    op = "policy_logps_from_rewards"
    is_array = isinstance(log_partition, np.ndarray)
    shift = log_partition if is_array else check.number(op, "log_partition", log_partition)
    return _numpy.policy_logps_from_rewards(
        rewards,
        ref_logps,
        check.number(op, "beta", beta),
        shift,
    )


def kl_estimate(policy_logps: Floats, ref_logps: Floats, *, kind: str = "k3") -> KLEstimate:
    """Estimates of KL(policy || reference), one from each sample of the policy.

    Args:
        policy_logps: Log-probabilities under the policy, any shape.
        ref_logps: The same under the reference policy.
        kind: With ``rho = policy_logps - ref_logps``: ``"k1"`` is ``rho``, ``"k2"`` is
            ``rho**2 / 2``, ``"k3"`` is ``exp(-rho) - 1 + rho`` (J. Schulman, "Approximating KL
            divergence", 2020).
    """
    return KLEstimate(
        *_numpy.kl_estimate(policy_logps, ref_logps, check.string("kl_estimate", "kind", kind))
    )


def selective_log_softmax(
    logits: Floats, index: Labels, *, temperature: float = 1.0, ignore_index: int = -100
) -> Floats:
    """``log_softmax(logits / temperature)`` at ``index``.

    Args:
        logits: ``(rows, vocab)`` or ``(batch, tokens, vocab)``.
        index: Token of each row, shape ``logits.shape[:-1]``, int64 or int32, aligned with the
            logits (nothing is shifted).
        temperature: Divides the logits, > 0.
        ignore_index: Rows with this index get 0, whatever they hold. It may be a valid token.

    Returns:
        Log-probabilities in nats, of the index's shape, <= 0. A row with a NaN or +inf logit, or
        with every logit -inf, is NaN; other rows are not affected.
    """
    op = "selective_log_softmax"
    return _numpy.selective_log_softmax(
        logits,
        index,
        check.number(op, "temperature", temperature),
        check.integer(op, "ignore_index", ignore_index),
    )


def selective_log_softmax_grad(
    grad_logps: Floats,
    logits: Floats,
    index: Labels,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> Floats:
    """Gradient of ``sum(grad_logps * selective_log_softmax(logits, index))`` by the logits.

    Args:
        grad_logps: Upstream gradient, of the index's shape.
        logits: See :func:`selective_log_softmax`, and so are the other arguments.
        index: See :func:`selective_log_softmax`.
        temperature: See :func:`selective_log_softmax`.
        ignore_index: See :func:`selective_log_softmax`; these rows get exactly 0.

    Returns:
        Of the logits' shape.
    """
    op = "selective_log_softmax_grad"
    return _numpy.selective_log_softmax_grad(
        grad_logps,
        logits,
        index,
        check.number(op, "temperature", temperature),
        check.integer(op, "ignore_index", ignore_index),
    )


def sequence_logps(
    logits: Floats, labels: Labels, *, ignore_index: int = -100, average_log_prob: bool = False
) -> Floats:
    """Log-probability of each sequence under a causal model.

    Args:
        logits: The model's output ``(batch, tokens, vocab)``, not shifted.
        labels: Tokens ``(batch, tokens)``, not shifted, int64 or int32; position t of the logits is
            scored against label t + 1.
        ignore_index: Label of tokens that do not count (prompt and padding).
        average_log_prob: Average over the scored tokens instead of summing; 0 where there is none.

    Returns:
        ``(batch,)`` in nats, summed in float64.
    """
    op = "sequence_logps"
    return _numpy.sequence_logps(
        logits,
        labels,
        check.integer(op, "ignore_index", ignore_index),
        check.boolean(op, "average_log_prob", average_log_prob),
    )


def sequence_logps_grad(
    grad_logps: Floats,
    logits: Floats,
    labels: Labels,
    *,
    ignore_index: int = -100,
    average_log_prob: bool = False,
) -> Floats:
    """Gradient of ``sum(grad_logps * sequence_logps(logits, labels))`` by the logits.

    Args:
        grad_logps: Upstream gradient, ``(batch,)``.
        logits: See :func:`sequence_logps`, and so are the other arguments.
        labels: See :func:`sequence_logps`.
        ignore_index: See :func:`sequence_logps`; positions without a scored token get exactly 0.
        average_log_prob: See :func:`sequence_logps`.

    Returns:
        Of the logits' shape.
    """
    op = "sequence_logps_grad"
    return _numpy.sequence_logps_grad(
        grad_logps,
        logits,
        labels,
        check.integer(op, "ignore_index", ignore_index),
        check.boolean(op, "average_log_prob", average_log_prob),
    )
