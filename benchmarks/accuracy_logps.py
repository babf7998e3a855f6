"""Log-probabilities of tokens and of whole responses, from logits and from hidden states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import selm_core
import torch
from accuracy_peers import installed
from mpmath import mp, mpf
from torch import Tensor

DIGITS = 40  # a confident token's log-probability is small beside its logit


@dataclass(frozen=True)
class Logits:
    """Of single tokens: `(rows, vocab)`, `(rows,)`."""

    logits: Tensor
    labels: Tensor

    def exact(self) -> list[mpf]:
        with mp.workdps(DIGITS):
            return [
                exact_logp(row, label)
                for row, label in zip(self.logits.tolist(), self.labels.tolist(), strict=True)
            ]


def exact_logp(row: list[float], label: int) -> mpf:
    """log softmax(row)[label]; half-precision logits are few different numbers."""
    weights = (count * mp.exp(mpf(x)) for x, count in Counter(row).items())
    return mpf(row[label]) - mp.log(mp.fsum(weights))


def sampled_tokens(rows: int, vocab: int, dtype: torch.dtype) -> Logits:
    """Tokens drawn from the distribution, as a policy's own responses are."""
    generator = torch.Generator().manual_seed(19)
    logits = (4.0 * torch.randn(rows, vocab, generator=generator)).to(dtype)
    return Logits(logits, drawn(logits, generator))


def confident_tokens(rows: int, vocab: int, dtype: torch.dtype) -> Logits:
    """Tokens whose probability is nearly 1: log-probabilities down to some -1e-10."""
    case = sampled_tokens(rows, vocab, dtype)
    tops = torch.linspace(22.0, 48.0, rows).to(dtype)
    return Logits(case.logits.scatter(1, case.labels.unsqueeze(1), tops.unsqueeze(1)), case.labels)


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(logits.double().softmax(-1), 1, generator=generator).squeeze(1)


@dataclass(frozen=True)
class Responses:
    """Hidden states `(batch, time, width)` before a head `(vocab, width)`, and the next tokens."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor

    def logits(self) -> Tensor:
        """As a model returns them: in its own type."""
        return self.hidden @ self.weight.T

    def exact_from_logits(self) -> Tensor:
        """In float64, on the model's own rounded logits."""
        return float64_logps(self.logits().double(), self.labels)

    def exact(self) -> Tensor:
        """In float64, on the same hidden states and head."""
        return float64_logps(self.hidden.double() @ self.weight.double().T, self.labels)


def float64_logps(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Size:
    batch: int
    time: int
    width: int
    vocab: int


def sampled_responses(size: Size, dtype: torch.dtype) -> Responses:
    """Logits with a standard deviation of 4, tokens drawn from them."""
    generator = torch.Generator().manual_seed(23)
    hidden = torch.randn(size.batch, size.time, size.width, generator=generator).to(dtype)
    weight = 4.0 * size.width**-0.5 * torch.randn(size.vocab, size.width, generator=generator)
    weight = weight.to(dtype)
    rows = hidden.flatten(0, 1).float() @ weight.float().T
    return Responses(hidden, weight, drawn(rows, generator).view(hidden.shape[:2]))


# ---------------------------------------------------------------------------------------------
# The libraries. A token function takes (logits, labels), a head function (hidden, weight, labels).

TokenFunction = Callable[[Tensor, Tensor], Tensor]
HeadFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def eager_float32_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    return eager_tokens(logits.float(), labels)


def trl_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Its loop takes a batch of sequences."""
    from trl.trainer.utils import selective_log_softmax

    rows = logits if logits.ndim == 3 else logits.unsqueeze(0)
    found: Tensor = selective_log_softmax(rows, labels.view(rows.shape[:2]))
    return found.view(labels.shape)


def our_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """The model's output is not shifted: the first label is not scored, nor the last logits."""
    start = labels.new_zeros(labels.shape[0], 1)
    end = logits.new_zeros(logits.shape[0], 1, logits.shape[2])
    return selm_core.sequence_logps(torch.cat([logits, end], 1), torch.cat([start, labels], 1))


def summed(tokens: TokenFunction) -> TokenFunction:
    return lambda logits, labels: tokens(logits, labels).sum(dim=1)


def our_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return selm_core.linear_logps(hidden, weight, labels).logps


def our_head_sums(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    every = torch.ones_like(labels, dtype=torch.bool)
    return selm_core.masked_sum(our_head(hidden, weight, labels), every)


def eager_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return eager_float32_tokens(hidden @ weight.T, labels)


def eager_float32_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return eager_tokens(hidden.float() @ weight.float().T, labels)


def trl_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """As its fused head calls it on a CPU."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    rows = hidden.flatten(0, 1), weight, None, labels.flatten()
    found: Tensor = ChunkedLogProbFunction.apply(*rows, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE)[0]
    return found.view(labels.shape)


def liger_head_sums(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """It returns the first and the second half of its batch."""
    from liger_kernel.chunked_loss.fused_linear_preference import LigerFusedLinearPreferenceBase

    halves: list[Tensor] = LigerFusedLinearPreferenceBase.chunk_forward(
        hidden, weight, labels, compute_nll_loss=False, average_log_prob=False
    )[:2]
    return torch.cat(list(halves))


def liger_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """It sums: every token is handed over as a response of its own."""
    rows = hidden.flatten(0, 1).unsqueeze(1), weight, labels.flatten().unsqueeze(1)
    return liger_head_sums(*rows).view(labels.shape)


def summed_head(tokens: HeadFunction) -> HeadFunction:
    return lambda hidden, weight, labels: tokens(hidden, weight, labels).sum(dim=1)


EAGER, EAGER_FLOAT32 = "torch eager", "torch eager, float32"


def with_installed(
    functions: dict[str, Callable[..., Tensor]],
) -> dict[str, Callable[..., Tensor]]:
    packages = {"TRL": "trl", "Liger": "liger-kernel"}
    return {k: f for k, f in functions.items() if k not in packages or installed(packages[k])}


TOKENS: dict[str, TokenFunction] = with_installed(
    {
        "selm_core": selm_core.selective_log_softmax,
        "TRL": trl_tokens,
        EAGER: eager_tokens,
        EAGER_FLOAT32: eager_float32_tokens,
    }
)
SUMS: dict[str, TokenFunction] = with_installed(
    {
        "selm_core": our_sums,
        "TRL": summed(trl_tokens),
        EAGER: summed(eager_tokens),
        EAGER_FLOAT32: summed(eager_float32_tokens),
    }
)
HEADS: dict[str, HeadFunction] = with_installed(
    {
        "selm_core": our_head,
        "TRL": trl_head,
        "Liger": liger_head,
        EAGER: eager_head,
        EAGER_FLOAT32: eager_float32_head,
    }
)
HEAD_SUMS: dict[str, HeadFunction] = with_installed(
    {
        "selm_core": our_head_sums,
        "TRL": summed_head(trl_head),
        "Liger": liger_head_sums,
        EAGER: summed_head(eager_head),
        EAGER_FLOAT32: summed_head(eager_float32_head),
    }
)
