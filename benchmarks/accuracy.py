"""Measures the accuracy of selm_core and of its peers, prints it and writes docs/accuracy.md.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --pairs 50 --output /dev/null

A peer that is not installed is left out, and the page says so. Fails if a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accuracy_errors import Errors, errors_in_ulp, errors_in_units
from accuracy_logps import (
    EAGER,
    EAGER_FLOAT32,
    HEAD_SUMS,
    HEADS,
    SUMS,
    TOKENS,
    Responses,
    Size,
    confident_tokens,
    sampled_responses,
    sampled_tokens,
)
from accuracy_losses import loss_promises, measure_all, measure_rounded_inputs, progress
from accuracy_page import (
    TEMPLATE,
    Table,
    at_a_glance,
    closer_peers,
    findings,
    machine,
    promises_table,
)
from accuracy_pairs import LOSSES, realistic_pairs, stress_pairs
from accuracy_peers import Library, eager, liger, ours, trl
from accuracy_promises import Promise, logp_promises
from mpmath import mpf
from torch import Tensor

PAGE_PATH = Path(__file__).parents[1] / "docs" / "accuracy.md"
TOKEN_ROWS, VOCABULARY = 24, 32_001
SIZE = Size(batch=8, time=160, width=512, vocab=VOCABULARY)
LOGP_COLUMNS = ("selm_core", "TRL", "Liger", EAGER, EAGER_FLOAT32)
ULP = "ulp"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=300, help="pairs per loss and set of inputs")
    parser.add_argument("--output", type=Path, default=PAGE_PATH)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    page, promises = measured_page(options.pairs, SIZE)
    options.output.write_text(page)
    print(page)
    for promise in promises:
        print("PASS" if promise.kept else "FAIL", f"{promise.share:.3g}", promise.text)
    return 0 if all(promise.kept for promise in promises) else 1


def measured_page(pairs: int, size: Size) -> tuple[str, list[Promise]]:
    libraries = all_libraries()
    losses, promises = loss_tables(pairs, libraries)
    halves = half_tables(pairs, libraries)
    logps, more = logp_tables(size)
    columns = list(libraries)
    glance = at_a_glance({t.title: t.rows for t in losses[:4]}, columns, pairs)
    page = TEMPLATE.read_text().format(
        machine=machine(libraries.values()),
        pairs=pairs,
        vocab=size.vocab,
        time=size.time,
        findings=findings(losses, logps[0]),
        glance=Table("All losses that every library has", ULP, columns, glance).markdown(libraries),
        losses=text(losses, libraries),
        halves=text(halves, libraries),
        logps=text(logps, libraries),
        promises=promises_table(promises + more),
        closer=closer_peers([*losses, halves[1], logps[0]]),
    )
    return page, promises + more


def text(tables: Sequence[Table], libraries: dict[str, Library]) -> str:
    return "\n".join(table.markdown(libraries) for table in tables)


def all_libraries() -> dict[str, Library]:
    names = [options.loss_type for options in LOSSES]
    return {library.name: library for library in (ours(names), trl(), liger(), eager())}


def loss_tables(count: int, libraries: dict[str, Library]) -> tuple[list[Table], list[Promise]]:
    sets = {"realistic": list(realistic_pairs(count)), "stress": list(stress_pairs(count))}
    in_double = [libraries["selm_core"], libraries["torch eager"]]
    tables: list[Table] = []
    shares: dict[torch.dtype, float] = {}
    for dtype, compared in (
        (torch.float32, list(libraries.values())),
        (torch.float64, in_double),
    ):
        for name, pairs in sets.items():
            measured, share = measure_all(name, pairs, dtype, compared)
            shares[dtype] = max(share, shares.get(dtype, 0.0))
            columns = [library.name for library in compared]
            for quantity, rows in measured.items():
                title = f"{quantity.capitalize()}, {name}, {short(dtype)}"
                tables.append(Table(title, ULP, columns, rows))
    return tables, loss_promises(shares, [pair for pairs in sets.values() for pair in pairs])


def half_tables(count: int, libraries: dict[str, Library]) -> list[Table]:
    """Arithmetic in bfloat16, and what the rounding of its inputs costs beside float32 inputs."""
    pairs = list(realistic_pairs(count))
    our, *peers = libraries.values()
    arithmetic, _ = measure_all("realistic", pairs, torch.bfloat16, peers)
    names = [peer.name for peer in peers]
    return [
        Table("Value, realistic, bfloat16", "bfloat16 ulp", names, arithmetic["value"]),
        Table(
            "Value with log-probabilities rounded to bfloat16, ours float32",
            "absolute error",
            ["selm_core", *names],
            measure_rounded_inputs(pairs, our, peers),
        ),
    ]


def logp_tables(size: Size) -> tuple[list[Table], list[Promise]]:
    nats: dict[str, dict[str, Errors]] = {}
    ulps: dict[str, dict[str, Errors]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for make in (sampled_tokens, confident_tokens):
            name = f"{make.__name__.replace('_', ' ')}, {short(dtype)} logits"
            progress(f"log-probabilities: {name}")
            case = make(TOKEN_ROWS, size.vocab, dtype)
            results = {key: f(case.logits, case.labels) for key, f in TOKENS.items()}
            nats[name], ulps[name] = compared(results, case.exact())
        progress(f"log-probabilities: responses, {short(dtype)}")
        responses = sampled_responses(size, dtype)
        for name, (results, exact) in response_results(responses).items():
            row = f"{name}, {short(dtype)}"
            nats[row], ulps[row] = compared(results, [mpf(x) for x in exact.flatten().tolist()])
    progress("promises of log-probabilities")
    promises = logp_promises(responses)
    tables = [
        Table("Log-probabilities in nats", "nats", LOGP_COLUMNS, nats),
        Table("Log-probabilities in ulp", "ulp of the result's type", LOGP_COLUMNS, ulps),
    ]
    return tables, promises


def response_results(
    responses: Responses,
) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """What each library returns, and the truth."""
    logits = responses.logits()
    given = responses.hidden, responses.weight, responses.labels
    from_hidden = responses.exact()
    return {
        "responses from logits": (
            {name: f(logits, responses.labels) for name, f in SUMS.items()},
            responses.exact_from_logits().sum(1),
        ),
        "tokens from hidden states": (
            {name: f(*given) for name, f in HEADS.items()},
            from_hidden,
        ),
        "responses from hidden states": (
            {name: f(*given) for name, f in HEAD_SUMS.items()},
            from_hidden.sum(1),
        ),
    }


def compared(
    results: dict[str, Tensor], exact: Sequence[mpf]
) -> tuple[dict[str, Errors], dict[str, Errors]]:
    """In nats and in ulp, by library."""
    got = {name: result.double().flatten().tolist() for name, result in results.items()}
    nats = {name: errors_in_units(values, exact) for name, values in got.items()}
    ulps = {name: errors_in_ulp(values, exact, results[name].dtype) for name, values in got.items()}
    return nats, ulps


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main())
