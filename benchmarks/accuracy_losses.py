"""Measures the losses of every library on the same pairs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from accuracy_errors import Errors, errors_in_ulp, errors_in_units
from accuracy_pairs import LOSSES, QUANTITIES, Exact, LossOptions, Pair, exact_loss
from accuracy_peers import Library, value_and_gradient
from accuracy_promises import Promise, loss_share, reward_share
from mpmath import mpf

Column = dict[str, Errors]
"""By library; a library without this loss is absent."""
Results = list[dict[str, float]]


def label(options: LossOptions) -> str:
    """The loss and those of its options that need telling."""
    told = [f"`{options.loss_type}`"]
    if options.beta != 0.1:
        told.append(f"beta {options.beta}")
    if options.label_smoothing:
        told.append(f"e {options.label_smoothing}")
    return ", ".join(told)


def computed(
    library: Library, options: LossOptions, pairs: Sequence[Pair], dtype: torch.dtype
) -> Results:
    """Value and gradient of every pair, as a batch of its own."""
    return [value_and_gradient(library, options, pair, dtype) for pair in pairs]


def measure(
    options: LossOptions, pairs: Sequence[Pair], dtype: torch.dtype, libraries: Sequence[Library]
) -> tuple[dict[str, Column], float]:
    """Errors in ulp by quantity and library, and our largest share of what is promised."""
    exact = [exact_loss(options, pair) for pair in pairs]
    truth = {quantity: [e(quantity) for e in exact] for quantity in QUANTITIES}
    errors: dict[str, Column] = {quantity: {} for quantity in QUANTITIES}
    share = 0.0
    for library in libraries:
        if options.loss_type in library.losses:
            found = computed(library, options, pairs, dtype)
            for quantity in QUANTITIES:
                got = [result[quantity] for result in found]
                errors[quantity][library.name] = errors_in_ulp(got, truth[quantity], dtype)
            if library.name == "selm_core":
                share = worst_share(exact, truth, found, dtype)
    return errors, share


def worst_share(
    exact: Sequence[Exact],
    truth: dict[str, list[mpf]],
    found: Results,
    dtype: torch.dtype,
) -> float:
    return max(
        loss_share(e, quantity, value, result[quantity], dtype)
        for quantity in QUANTITIES
        for e, value, result in zip(exact, truth[quantity], found, strict=True)
    )


def measure_all(
    name: str, pairs: Sequence[Pair], dtype: torch.dtype, libraries: Sequence[Library]
) -> tuple[dict[str, dict[str, Column]], float]:
    """By quantity and loss; and the largest share of the promise."""
    pairs = [pair.rounded(dtype) for pair in pairs]
    tables: dict[str, dict[str, Column]] = {quantity: {} for quantity in QUANTITIES}
    shares = []
    for options in LOSSES:
        progress(f"losses, {name}, {dtype}: {options.loss_type}")
        errors, share = measure(options, pairs, dtype, libraries)
        shares.append(share)
        for quantity in QUANTITIES:
            tables[quantity][label(options)] = errors[quantity]
    return tables, max(shares)


def measure_rounded_inputs(
    pairs: Sequence[Pair], ours: Library, peers: Sequence[Library]
) -> dict[str, Column]:
    """Absolute errors of the value if log-probabilities are rounded to bfloat16 first; ours are not."""
    pairs = [pair.rounded(torch.float32) for pair in pairs]
    halves = [pair.rounded(torch.bfloat16) for pair in pairs]
    table: dict[str, Column] = {}
    for options in LOSSES:
        progress(f"losses, rounded log-probabilities: {options.loss_type}")
        truth = [exact_loss(options, pair)("value") for pair in pairs]
        given = [(ours, pairs, torch.float32)]
        given += [(peer, halves, torch.bfloat16) for peer in peers]
        table[label(options)] = {
            library.name: errors_in_units(
                [found["value"] for found in computed(library, options, inputs, dtype)], truth
            )
            for library, inputs, dtype in given
            if options.loss_type in library.losses
        }
    return table


def loss_promises(shares: dict[torch.dtype, float], pairs: Sequence[Pair]) -> list[Promise]:
    """`shares`: by type, the largest over all losses and pairs."""
    texts = {
        torch.float32: "reward, loss and its gradient, float32: 2 ulp, absolute within 1e-6 of a root",
        torch.float64: "the same, float64: 8 units of rounding times the condition number",
    }
    return [
        Promise(text, max(shares[dtype], reward_share(pairs, dtype)))
        for dtype, text in texts.items()
    ]


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
