"""Log-probabilities of labels from hidden states: ours and the others', each as its library computes them.

A method takes `(hidden, weight, labels)` with padding. What it returns has one log-probability for each label
(or one loss, where a library has nothing else), and a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import selm_core
import torch
import torch.nn.functional as F  # noqa: N812
from bench_inputs import BETA, IGNORED
from torch import Tensor

Score = Callable[[Tensor, Tensor, Tensor], Tensor]

OURS, LEAN = "selm_core", "selm_core, lean"


@dataclass(frozen=True)
class Method:
    """`per_token`: whether `score` returns log-probabilities; if not, it returns the hinge loss of the batch,
    whose gradient with respect to the log-probabilities is `Batch.upstream`."""

    score: Score
    per_token: bool = True


def methods(device: torch.device) -> dict[str, Method | str]:
    """By name; a text says why a method is not there."""
    peers = {name: available(make, device) for name, make in PEERS.items()}
    return {OURS: Method(ours)} | peers


def available(make: Callable[[torch.device], Method | str], device: torch.device) -> Method | str:
    """The method, or why it cannot be had."""
    try:
        return make(device)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except ImportError as error:
        return f"the installed {error.name} lacks what it needs"


def first_line(error: Exception) -> str:
    """Of its message, with its type."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def ours(
    hidden: Tensor, weight: Tensor, labels: Tensor, workspace_bytes: int | None = None
) -> Tensor:
    """The operator."""
    return selm_core.linear_logps(hidden, weight, labels, workspace_bytes=workspace_bytes).logps


def lean(workspace_bytes: int) -> Method:
    """The operator with less memory."""
    return Method(partial(ours, workspace_bytes=workspace_bytes))


def gathered(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Plain torch, with logits of the operands' type."""
    logps = (hidden @ weight.T).float().log_softmax(-1)
    logps = logps.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return logps.masked_fill(labels == IGNORED, 0.0)


def compiled(device: torch.device) -> Method:
    """torch.compile of the same."""
    return Method(torch.compile(gathered, dynamic=True))


def trl_eager(device: torch.device) -> Method:
    """As TRL's trainers do it where they hold the logits."""
    from trl.trainer.utils import selective_log_softmax

    def score(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        logps = selective_log_softmax(hidden @ weight.T, labels.clamp(min=0))
        return logps.masked_fill(labels == IGNORED, 0.0)

    return Method(score)


def trl_fused(device: torch.device) -> Method:
    """As TRL's fused head calls its function: on a CPU it scores every position."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.kernels.chunked_logprob import _use_triton
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    def apply(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        more = None, labels, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",)
        logps: Tensor = ChunkedLogProbFunction.apply(hidden, weight, *more)[0]
        return logps

    def every(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        logps = apply(hidden.flatten(0, 1), weight, labels.clamp(min=0).flatten())
        return logps.view(labels.shape).masked_fill(labels == IGNORED, 0.0)

    def valid(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        mask = labels != IGNORED
        logps = apply(hidden[mask], weight, labels[mask])
        return logps.new_zeros(labels.shape).masked_scatter(mask, logps)

    return Method(valid if _use_triton(device) else every)


def liger(device: torch.device) -> Method:
    """Its cross-entropy of each token, which needs Triton; on a CPU its preference head. That returns a loss
    alone, and the hinge loss is the one whose gradient does not depend on the log-probabilities."""
    if device.type == "cpu":
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        head = LigerFusedLinearDPOLoss(beta=BETA, loss_type="hinge", use_ref_model=False)

        def loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
            hinge: Tensor = head(weight, hidden, labels)[0]
            return hinge

        return Method(loss, per_token=False)
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    entropy = LigerFusedLinearCrossEntropyLoss(reduction="none")

    def score(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        nll: Tensor = entropy(weight, hidden.flatten(0, 1), labels.flatten())
        return -nll.view(labels.shape)

    return Method(score)


def cut_cross_entropy(implementation: str, device: torch.device) -> Method | str:
    """Apple's; its Triton kernels need a GPU."""
    if implementation == "cce" and device.type == "cpu":
        return "not on a CPU"
    from cut_cross_entropy import linear_cross_entropy

    def score(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        nll: Tensor = linear_cross_entropy(
            hidden, weight, labels, reduction="none", impl=implementation
        )
        return -nll

    return Method(score)


def quack(device: torch.device) -> Method | str:
    """Its cross-entropy kernel on logits. Its chunked function returns a sum alone, whose gradient is
    another one."""
    if device.type == "cpu":
        return "not on a CPU"
    from quack.linear_cross_entropy import linear_cross_entropy_func

    def score(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        nll: Tensor = linear_cross_entropy_func(
            hidden.flatten(0, 1), weight, None, labels.flatten(), reduction="none"
        )
        return -nll.view(labels.shape)

    return Method(score)


def torch_linear(chunks: int, device: torch.device) -> Method:
    """torch's own, in chunks of rows: left alone it would choose chunks of a few rows for heads like these,
    which takes many times as long."""
    from torch.nn import LinearCrossEntropyOptions

    def score(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        rows = math.ceil(labels.numel() / chunks)
        options = LinearCrossEntropyOptions(batch_chunk_size=rows, acc_policy="accurate")
        nll = F.linear_cross_entropy(
            hidden.flatten(0, 1),
            weight,
            labels.flatten(),
            reduction="none",
            options=options if chunks > 1 else None,
        )
        return -nll.view(labels.shape)

    return Method(score)


PEERS: dict[str, Callable[[torch.device], Method | str]] = {
    "TRL eager": trl_eager,
    "TRL fused": trl_fused,
    "Liger": liger,
    "cut-cross-entropy (torch_compile)": partial(cut_cross_entropy, "torch_compile"),
    "cut-cross-entropy (cce)": partial(cut_cross_entropy, "cce"),
    "QuACK": quack,
    "torch linear_cross_entropy": partial(torch_linear, 1),
    "torch linear_cross_entropy, 4 chunks": partial(torch_linear, 4),
    "torch.compile of eager": compiled,
}
