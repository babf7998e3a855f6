"""Pairs of responses, and the losses' exact values on them.

The formulas are those of the golden tables (`tests/data/golden_losses.py`): written from the papers, values
only, and differentiated numerically.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mpmath import mp, mpf
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

from golden_losses import PAIR_LOSSES, LossOptions, real_options
from golden_numbers import Function, derivative, scale
from golden_tables import digits_for, with_lengths

BETA = 0.1

# The second has a beta that every type holds exactly.
LOSSES = [
    *(LossOptions("sigmoid", beta) for beta in (BETA, 0.125)),
    *(LossOptions(name, BETA) for name in ("hinge", "ipo")),
    LossOptions("exo_pair", BETA, 0.1),
    LossOptions("nca_pair", BETA),
    LossOptions("robust", BETA, 0.1),
    *(LossOptions(name, BETA) for name in ("bco_pair", "sppo_hard")),
    *(LossOptions(name, BETA, 0.1) for name in ("aot", "aot_unpaired")),
    *(LossOptions(name, BETA) for name in ("apo_zero", "apo_down")),
    LossOptions("discopop", BETA, discopop_tau=0.05),
    *(LossOptions(name, BETA) for name in ("sft", "sigmoid_norm")),
    LossOptions("dpop", BETA, dpop_lambda=50.0),
    LossOptions("r_dpo", BETA, length_margin=0.01),
    LossOptions("nll", BETA),
    LossOptions("simpo", 2.0, simpo_gamma=0.5),
    LossOptions("orpo", BETA),
]

WITHOUT_REFERENCE = ("sft", "nll", "simpo", "orpo")

QUANTITIES = ("value", "gradient")


@dataclass(frozen=True)
class Pair:
    """Log-probabilities of two whole responses in nats, and how many tokens they have."""

    policy_chosen: float
    policy_rejected: float
    ref_chosen: float
    ref_rejected: float
    chosen_length: int
    rejected_length: int

    def rounded(self, dtype: torch.dtype) -> Pair:
        return replace(
            self, **{name: torch.tensor(getattr(self, name), dtype=dtype).item() for name in LOGPS}
        )

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """As a batch of one."""
        return {name: torch.tensor([getattr(self, name)], dtype=dtype) for name in LOGPS}


LOGPS = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")


def realistic_pairs(count: int) -> Iterator[Pair]:
    """References of -50 to -400 nats, from which the policy is a few nats away."""
    generator = random.Random(2305)
    for _ in range(count):
        ref = [generator.uniform(-400.0, -50.0) for _ in range(2)]
        policy = [value + generator.gauss(0.0, 3.0) for value in ref]
        yield Pair(*policy, *ref, *(round(-value / generator.uniform(0.5, 2.0)) for value in ref))


def stress_pairs(count: int) -> Iterator[Pair]:
    """|beta * delta| from 1e-3 to 1e4, of both signs, shared at random between the responses."""
    generator = random.Random(2309)
    for i in range(count):
        delta = 10.0 ** generator.uniform(-3.0, 4.0) / BETA
        shares = generator.uniform(0.0, 1.0)
        near = [-(10.0 ** generator.uniform(-3.0, 2.0)) for _ in range(2)]
        far = [near[0] - delta * shares, near[1] - delta * (1.0 - shares)]
        lengths = [generator.randint(1, 400) for _ in range(2)]
        if i % 2:
            yield Pair(near[0], far[1], far[0], near[1], *lengths)
        else:
            yield Pair(far[0], near[1], near[0], far[1], *lengths)


@dataclass(frozen=True)
class Exact:
    """A loss and its derivative with respect to the chosen response, as functions of its inputs."""

    options: LossOptions
    inputs: dict[str, mpf]
    functions: dict[str, Function]

    def __call__(self, quantity: str) -> mpf:
        with mp.workdps(digits_for(self.inputs, self.options)):
            return self.functions[quantity](self.inputs)

    def scale(self, quantity: str) -> mpf:
        """|output| times its condition number, which counts the options as inputs."""
        with mp.workdps(digits_for(self.inputs, self.options)):
            return scale(self.functions[quantity], self.inputs | real_options(self.options))


def exact_loss(options: LossOptions, pair: Pair) -> Exact:
    """Of a batch of this pair alone, where ranking and averaging over the batch change nothing."""
    name = "sigmoid" if options.loss_type in ("aot", "aot_unpaired") else options.loss_type
    options = with_lengths(
        replace(options, loss_type=name), (pair.chosen_length, pair.rejected_length)
    )
    names = LOGPS[:2] if name in WITHOUT_REFERENCE else LOGPS

    def loss(x: dict[str, mpf]) -> mpf:
        return PAIR_LOSSES[name](x, options)

    return Exact(
        options,
        {key: mpf(getattr(pair, key)) for key in names},
        {"value": loss, "gradient": derivative(loss, "policy_chosen")},
    )
