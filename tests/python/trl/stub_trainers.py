"""TRL's own losses run on models that return given numbers, so that no real model is needed.

A stub trainer is TRL's class without its constructor, with those attributes alone that the loss reads. The
numbers that a stub model returns are a leaf: gradients of both sides are with respect to the same tensor.
"""

import os

os.environ.setdefault("CI", "1")  # TRL then sends no telemetry
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import re
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

DOCS = Path(__file__).parents[3] / "docs"
IGNORED = -100  # label of a token that does not count


def documented_lines():
    """The functions that docs/trl.md offers in place of TRL's loss lines."""
    section = (DOCS / "trl.md").read_text().split("## TRL's loss lines")[1]
    code = re.search(r"^```python\n(.*?)^```$", section, re.M | re.S)[1]
    names = {}
    exec(code, names)
    return SimpleNamespace(**names)


@contextmanager
def default_dtype(dtype):
    """TRL makes some constants, such as exo_pair's label smoothing, of the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class TokenOutputs(torch.nn.Module):
    """A model that answers TRL's fused_lm_head call from tables, 0 where there is no label.

    The first token of a row is its place in the tables, which have shape (rows, time).
    """

    is_gradient_checkpointing = False

    def __init__(self, **tables):
        super().__init__()
        self.tables = tables

    def forward(self, input_ids, labels, **_):
        scored = labels[:, 1:] != IGNORED
        nothing = torch.zeros(scored.shape)
        outputs = {
            name: torch.where(scored, table[input_ids[:, 0]], 0.0)
            for name, table in self.tables.items()
        }
        return SimpleNamespace(entropy=nothing, mean_logits=nothing, is_top1=scored, **outputs)


class Logits(torch.nn.Module):
    """A model that answers with given logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, *_, **__):
        return SimpleNamespace(logits=self.logits)


def stub_trainer(trainer_class, **attributes):
    """A trainer without its constructor, on one device and in one process."""
    trainer = object.__new__(trainer_class)
    trainer.accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda values: values,
        gather_for_metrics=lambda values: values,
    )
    trainer.aux_loss_enabled = False
    trainer._metrics = {"train": defaultdict(list)}
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def draw(*shape, spread, seed, dtype=torch.float64):
    """Numbers in [-spread, 0]."""
    generator = torch.Generator().manual_seed(seed)
    return (-spread * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)


def token_rows(rows, time, seed):
    """A mask of at least one token in each row, behind prompts and before padding of some length."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, time // 2, (rows, 1), generator=generator)
    length = torch.randint(1, time // 2 + 1, (rows, 1), generator=generator)
    position = torch.arange(time)
    return (position >= start) & (position < start + length)


def value_and_gradient(function, leaf):
    value = function()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def assert_same(ours, trls, *, rtol, atol=0.0):
    """Values and gradients agree; a gradient's small elements only as far as its largest allows."""
    torch.testing.assert_close(ours[0], trls[0], rtol=rtol, atol=atol)
    scale = trls[1].abs().max().item()
    assert scale > atol
    torch.testing.assert_close(ours[1], trls[1], rtol=rtol, atol=rtol * scale + atol)
