"""Token and sequence log-probabilities, from logits or from hidden states."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from selm_core import _arguments as check
from selm_core._library import ops


class LinearLogps(NamedTuple):
    """What :func:`linear_logps` returns, each of the labels' shape; None where not asked for."""

    logps: Tensor
    """Log-probability of each label in nats, 0 where ignored; carries the gradient."""
    entropy: Tensor | None
    """Entropy of each position's distribution in nats, float32; carries a gradient with ``entropy_grad``."""
    log_sum_sq_probs: Tensor | None
    """Log of the sum of squared probabilities (WPO, arXiv 2406.11827), float32, detached."""
    mean_logits: Tensor | None
    """Mean logit over the vocabulary, float32, detached."""
    is_top1: Tensor | None
    """Whether the label has the largest logit (the first one on a tie), bool."""


def selective_log_softmax(
    logits: Tensor, index: Tensor, *, temperature: float = 1.0, ignore_index: int = -100
) -> Tensor:
    """``log_softmax(logits / temperature)`` at ``index``, without the full log-softmax.

    Args:
        logits: ``(rows, vocab)`` or ``(batch, time, vocab)``; float32, float64, float16 or bfloat16. Any
            strides; only a last dimension that is not contiguous is copied.
        index: Token of each row, shape ``logits.shape[:-1]``, int64 or int32, aligned with the logits
            (nothing is shifted).
        temperature: Divides the logits, > 0.
        ignore_index: Rows with this index get 0 and no gradient, whatever they hold. It may be a valid
            token id.

    Returns:
        Log-probabilities in nats, of the index's shape, float32 (float64 for float64 logits), <= 0. A row
        with a NaN or +inf logit, or with every logit -inf, is NaN; other rows are not affected.

    Raises:
        TypeError: Wrong dtypes.
        ValueError: Wrong shapes, devices differ, or temperature out of range.
        IndexError: On the CPU, an index outside the vocabulary. On CUDA its row is NaN.
        NotImplementedError: A second derivative is asked for.

    Example:
        >>> import torch, selm_core
        >>> logits = torch.zeros(1, 4)  # four tokens, equally likely
        >>> selm_core.selective_log_softmax(logits, torch.tensor([2]))
        tensor([-1.3863])
    """
    op = "selective_log_softmax"
    check.require_tensors(op, logits=logits, index=index)
    logps: Tensor = ops.selective_log_softmax(
        logits,
        index,
        temperature=check.number(op, "temperature", temperature),
        ignore_index=check.integer(op, "ignore_index", ignore_index),
    )
    return logps


def sequence_logps(
    logits: Tensor, labels: Tensor, *, ignore_index: int = -100, average_log_prob: bool = False
) -> Tensor:
    """Log-probability of each sequence under a causal model.

    Args:
        logits: The model's output ``(batch, time, vocab)``, not shifted; float32, float64, float16 or
            bfloat16.
        labels: Token ids ``(batch, time)``, not shifted, int64 or int32; ``ignore_index`` for prompt and
            padding. Position t of the logits is scored against label t + 1.
        ignore_index: Label of tokens that do not count.
        average_log_prob: Average over the scored tokens instead of summing. A sequence without any
            scored token has sum and average 0.

    Returns:
        ``(batch,)`` in nats, float32 (float64 for float64 logits), summed in float64.

    Raises:
        TypeError: Wrong dtypes.
        ValueError: Wrong shapes (also when an input was shifted already), or devices differ.
        IndexError: On the CPU, a label outside the vocabulary. On CUDA its sequence is NaN.
        NotImplementedError: A second derivative is asked for.

    Example:
        >>> import torch, selm_core
        >>> logits = torch.zeros(1, 3, 4)  # as a model returns them for three tokens
        >>> labels = torch.tensor([[-100, 2, 1]])  # a prompt of one token, a response of two
        >>> selm_core.sequence_logps(logits, labels)
        tensor([-2.7726])
    """
    op = "sequence_logps"
    check.require_tensors(op, logits=logits, labels=labels)
    logps: Tensor = ops.sequence_logps(
        logits,
        labels,
        ignore_index=check.integer(op, "ignore_index", ignore_index),
        average_log_prob=check.boolean(op, "average_log_prob", average_log_prob),
    )
    return logps


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
    entropy_grad: bool = False,
    workspace_bytes: int | None = None,
) -> LinearLogps:
    """Log-probabilities of labels from hidden states and the language-model head.

    Logits are ``z = softcap * tanh(logit_scale * (hidden @ weight.T + bias) / softcap) / temperature``
    (no tanh without softcap). They never exist for all rows at once: ignored rows are dropped before the
    matrix product and the rest goes part by part. Gradients flow to hidden, weight and bias, each only
    where needed; with a frozen head nothing of the vocabulary's size is kept for the backward pass.

    Args:
        hidden: ``(rows, hidden)`` or ``(batch, time, hidden)``; float32, float64, float16 or bfloat16.
        weight: ``(vocab, hidden)``, dtype of ``hidden``. Under autocast all three are cast.
        labels: ``(rows,)`` or ``(batch, time)``, int64 or int32, aligned with ``hidden``: the caller
            shifts.
        bias: ``(vocab,)``, dtype of ``hidden``.
        temperature: > 0.
        logit_scale: > 0.
        softcap: > 0.
        ignore_index: Positions with this label get 0 everywhere and no gradient.
        outputs: Any of ``"entropy"``, ``"log_sum_sq_probs"``, ``"mean_logits"``, ``"is_top1"``.
        entropy_grad: Whether the entropy carries a gradient, as an entropy bonus needs it. Where one comes,
            the backward pass computes all logits a second time.
        workspace_bytes: Memory for logits, and for what the forward pass keeps of them for the backward
            pass; what does not fit is computed a second time. At least one row of the vocabulary in
            float32 (float64 for float64 inputs); two rows are taken in any case. Default 1 GiB.

    Returns:
        Per-position results; ``logps`` is float32 (float64 for float64 inputs). Logits are accumulated in
        float32 whatever the dtype of the inputs.

    Raises:
        TypeError: Wrong or different dtypes.
        ValueError: Wrong shapes, an empty (sharded) weight, devices differ, or a number out of range.
        IndexError: On the CPU, a label outside the vocabulary. On CUDA its position is NaN.
        NotImplementedError: A second derivative is asked for, or a tensor is a DTensor: only the caller
            knows whether the ranks hold equal rows, or different ones, as under FSDP, whose gradients
            ``full_tensor(grad_placements=[Partial("avg")])`` averages. Inside of the forward pass of a
            module that FSDP2 wraps, its own parameters are gathered already.

    Example:
        >>> import torch, selm_core
        >>> hidden, weight = torch.zeros(2, 8), torch.zeros(4, 8)  # two positions, four tokens
        >>> labels = torch.tensor([3, -100])
        >>> selm_core.linear_logps(hidden, weight, labels, outputs=["entropy"])[:2]
        (tensor([-1.3863,  0.0000]), tensor([1.3863, 0.0000]))
    """
    op = "linear_logps"
    check.require_tensors(op, hidden=hidden, weight=weight, labels=labels)
    check.optional_tensors(op, bias=bias)
    check.local_tensors(op, hidden=hidden, weight=weight, labels=labels, bias=bias)
    asked = check.strings(op, "outputs", outputs)
    logps, *extra = ops.linear_logps(
        hidden,
        weight,
        labels,
        bias=bias,
        temperature=check.number(op, "temperature", temperature),
        logit_scale=check.number(op, "logit_scale", logit_scale),
        softcap=None if softcap is None else check.number(op, "softcap", softcap),
        ignore_index=check.integer(op, "ignore_index", ignore_index),
        outputs=asked,
        entropy_grad=check.boolean(op, "entropy_grad", entropy_grad),
        workspace_bytes=None
        if workspace_bytes is None
        else check.integer(op, "workspace_bytes", workspace_bytes),
    )
    names = LinearLogps._fields[1:]
    return LinearLogps(
        logps, *(t if name in asked else None for name, t in zip(names, extra, strict=True))
    )
