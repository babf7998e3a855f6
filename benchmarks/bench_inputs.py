"""Batches to measure with: logits that look like language, padding as trainers make it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
IGNORED = -100
BETA = 1e-3  # so small that the hinge loss, which Liger computes, is nowhere flat
NOISE = 2.0  # standard deviation of the logits

# What the real model reads: the demo's questions, and where more is needed, the project's own prose.
QUESTIONS = "python/selm_core/demo/prompts.jsonl"
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("mathematics", "architecture", "numerics")))


@dataclass(frozen=True)
class Shape:
    """A head and a batch; the first half of the batch is chosen, the second rejected."""

    name: str
    width: int
    vocab: int
    batch: int
    time: int
    real: bool = False
    """Whether the hidden states are those of SmolLM2 on text."""

    @property
    def rows(self) -> int:
        """All positions, with padding."""
        return self.batch * self.time


@dataclass(frozen=True)
class Batch:
    """Hidden states `(batch, time, width)`, the head, and labels aligned with the hidden states."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor

    @property
    def valid(self) -> Tensor:
        """Which positions count."""
        return self.labels != IGNORED

    @property
    def upstream(self) -> Tensor:
        """The gradient that a loss sends back to each log-probability: of one size, negative for the chosen
        responses and positive for the rejected ones."""
        pairs = self.labels.shape[0] // 2
        signs = torch.ones_like(self.labels, dtype=torch.float32)
        signs[:pairs] = -1.0
        return signs * self.valid * (BETA / pairs)

    def compacted(self) -> Batch:
        """The positions that count, and no other."""
        batch = self.labels.shape[0]
        hidden = self.hidden[self.valid].view(batch, -1, self.hidden.shape[-1])
        return Batch(hidden, self.weight, self.labels[self.valid].view(batch, -1))


def make_batch(shape: Shape, dtype: torch.dtype, fraction: float, device: torch.device) -> Batch:
    """Of which the given fraction of positions counts."""
    hidden, weight, labels = real_states(shape) if shape.real else sampled_states(shape)
    labels = labels.masked_fill(~counting(shape, fraction), IGNORED)
    return Batch(hidden.to(device, dtype), weight.to(device, dtype), labels.to(device))


def counting(shape: Shape, fraction: float) -> Tensor:
    """A prompt, a response and padding in each row; responses of two lengths."""
    mean = max(1, round(fraction * shape.time))
    spread = min(mean - 1, shape.time - mean) // 2
    lengths = mean + spread * (1 - 2 * (torch.arange(shape.batch) % 2))
    starts = (shape.time - lengths) // 2
    positions = torch.arange(shape.time)
    return (positions >= starts[:, None]) & (positions < (starts + lengths)[:, None])


def sampled_states(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """h = t * W[y] + noise, with t such that the labels' negative log-likelihood is 1 to 2 nats."""
    generator = torch.Generator().manual_seed(31)
    weight = torch.randn(shape.vocab, shape.width, generator=generator).div_(shape.width**0.5)
    labels = torch.randint(shape.vocab, (shape.batch, shape.time), generator=generator)
    noise = torch.randn(shape.batch, shape.time, shape.width, generator=generator)
    strength = math.log(shape.vocab) + NOISE**2 / 2
    return weight[labels].mul_(strength).add_(noise, alpha=NOISE), weight, labels


def real_states(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """SmolLM2's last hidden states, and the tokens that follow."""
    from selm_core.demo.model import demo_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    questions = [json.loads(text) for text in (ROOT / QUESTIONS).read_text().splitlines()]
    texts = [row["prompt"] for row in questions] + [(ROOT / name).read_text() for name in PAGES]
    tokens = torch.tensor(tokenizer("\n".join(texts)).input_ids)
    wanted = shape.batch * (shape.time + 1)
    if len(tokens) < wanted:
        raise ValueError(f"the text has {len(tokens)} tokens, {wanted} are needed")
    tokens = tokens[:wanted].view(shape.batch, shape.time + 1)
    model = AutoModelForCausalLM.from_pretrained(demo_model(), dtype=torch.float32)
    with torch.no_grad():
        hidden = model.base_model(tokens[:, :-1]).last_hidden_state
    weight = model.get_output_embeddings().weight.detach()
    if weight.shape != (shape.vocab, shape.width):
        raise ValueError(f"the model's head is {tuple(weight.shape)}, not that of {shape}")
    return hidden, weight, tokens[:, 1:].contiguous()
