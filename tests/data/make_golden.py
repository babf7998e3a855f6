"""Writes the golden tables of this folder: exact values, computed by mpmath with 50 digits.

Formulas are written here from the papers that they cite, and only values are: every derivative is
a numerical one of the value, at 50 digits. So nothing is shared with the code under test. An input
of -inf stands for a limit; where different ways to that limit disagree the table says nan.

Beside each output stands its `_scale`: the sum over the inputs x, options that are numbers among them,
of |x * d output / d x|, which is the output times its condition number. An algorithm that rounds
each step errs by a few u * max(|output|, scale).

    python tests/data/make_golden.py                                   # every table
    python tests/data/make_golden.py preference.csv                    # one
    python tests/data/make_golden.py preference.csv --loss sigmoid     # prints a loss's rows, writes nothing
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from golden_numbers import DIGITS, Function, Row, derivative, float32, outputs, text
from golden_tables import policy_rows, preference_rows, unpaired_rows
from mpmath import mp, mpf

KL_ESTIMATORS: dict[str, Function] = {
    "k1": lambda x: x["policy"] - x["ref"],
    "k2": lambda x: (x["policy"] - x["ref"]) ** 2 / 2,
    "k3": lambda x: mp.exp(x["ref"] - x["policy"]) - 1 - (x["ref"] - x["policy"]),
}


KL_LOGRATIOS = (0.0, 2.0**-30, 1e-6, 1e-3, 0.1, 0.49, 0.51, 1.0, 8.0, 30.0, 80.0, 700.0)


def kl_rows() -> Iterator[Row]:
    infinite = [(-math.inf, -13.5), (-13.5, -math.inf), (-math.inf, -math.inf)]
    pairs = [
        pair
        for size in map(float32, KL_LOGRATIOS)
        for pair in ((0.0, -size), (-size, 0.0), (-13.5 - size, -13.5))
    ]
    for kind, estimator in KL_ESTIMATORS.items():
        for policy, ref in pairs + infinite:
            x = {"policy": mpf(policy), "ref": mpf(ref)}
            functions = {"estimate": estimator, "d_policy": derivative(estimator, "policy")}
            given = {"kind": kind, "policy": text(policy), "ref": text(ref)}
            yield given | outputs(functions, x)


def scalar_rows() -> Iterator[Row]:
    """Scalar functions in their textbook form, with digits enough for it."""
    functions: dict[str, Callable[[mpf], mpf]] = {
        "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
        "log_sigmoid": lambda x: mp.log(1 / (1 + mp.exp(-x))),
        "log1mexp": lambda x: mp.log(1 - mp.exp(x)),
    }
    sizes = (2.0**-60, 1e-9, 1e-3, 0.25, 0.69, 0.7, 1.0, 5.0, 17.5, 36.5, 88.0, 104.0, 708.0, 745.0)
    with mp.workdps(800):
        for name, f in functions.items():
            for size in sizes:
                for x in (-size,) if name == "log1mexp" else (-size, size):
                    value, slope = f(mpf(x)), mp.diff(f, mpf(x))
                    yield {"function": name, "x": text(x), "value": text(value)} | {
                        "value_scale": f"{float(abs(x * slope)):.3g}",
                        "derivative": text(slope),
                    }


def partition_rows() -> Iterator[Row]:
    """log Z(x) and the policy of given rewards: arXiv 2305.18290, eq. 4."""
    generator = random.Random(4)
    for beta in (0.01, 0.1, 1.0, 20.0):
        for size in (1, 2, 7):
            ref = [float32(generator.uniform(-30.0, 0.0)) for _ in range(size)]
            rewards = [float32(generator.gauss(0.0, 2.0)) for _ in range(size)]
            weights = [mpf(p) + mpf(r) / mpf(beta) for p, r in zip(ref, rewards, strict=True)]
            log_partition = mp.log(mp.fsum(mp.exp(w) for w in weights))
            yield {
                "beta": str(beta),
                "ref_logps": " ".join(map(text, ref)),
                "rewards": " ".join(map(text, rewards)),
                "log_partition": text(log_partition),
                "policy_logps": " ".join(text(w - log_partition) for w in weights),
            }


def token_rows() -> Iterator[Row]:
    """log softmax(logits / temperature)[target] and its gradient with respect to the logits."""
    generator = random.Random(5)
    masked = -math.inf
    cases: list[list[float]] = [
        [2.5],
        [0.0, 0.0],
        [1.0, 2.0, 3.0, 4.0],
        [30.0, 0.0, -1.0, 2.0],
        [90.0, 0.0, -1.0, 2.0],
        [0.0, 200.0, 100.0],
        [10001.0, 10000.5, 10002.25, 9999.0],
        [1.5, masked, 0.25, masked],
        [masked, 3.0, masked, masked],
        [3e38, -3e38, 2.9e38],
        [65504.0, -65504.0, 65500.0],
        [1e-40, -1e-40, 1e-45],
        [generator.gauss(0.0, 4.0) for _ in range(9)],
    ]
    for temperature in (1.0, 0.7, 2.0):
        for logits in cases:
            rounded = [float32(value) for value in logits]
            for target in range(min(len(rounded), 3)):
                yield token_row(rounded, target, temperature)


def token_row(logits: list[float], target: int, temperature: float) -> Row:
    t = mpf(temperature)
    top = max(logits)
    weights = [mp.exp((mpf(value) - mpf(top)) / t) for value in logits]
    total = mp.fsum(weights)
    beside_top = mp.fsum(weight for i, weight in enumerate(weights) if i != logits.index(top))
    others = mp.fsum(weight for i, weight in enumerate(weights) if i != target)
    grad = [(others if i == target else -weight) / total / t for i, weight in enumerate(weights)]
    return {
        "temperature": str(temperature),
        "target": str(target),
        "logits": " ".join(map(text, logits)),
        "logp": text((mpf(logits[target]) - mpf(top)) / t - mp.log1p(beside_top)),
        "grad": " ".join(map(text, grad)),
    }


LOSS_TABLES: dict[str, Callable[..., Iterator[Row]]] = {
    "preference.csv": preference_rows,
    "policy_losses.csv": policy_rows,
    "unpaired.csv": unpaired_rows,
}
TABLES: dict[str, Callable[[], Iterator[Row]]] = LOSS_TABLES | {
    "scalar.csv": scalar_rows,
    "kl.csv": kl_rows,
    "partition.csv": partition_rows,
    "token_logps.csv": token_rows,
}


def write_rows(file: TextIO, rows: list[Row]) -> None:
    writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_table(folder: Path, name: str) -> None:
    with mp.workdps(DIGITS):
        rows = list(TABLES[name]())
    with (folder / name).open("w", newline="") as file:
        write_rows(file, rows)


def print_loss(table: str, loss_type: str) -> None:
    with mp.workdps(DIGITS):
        rows = list(LOSS_TABLES[table](loss_type))
    if not rows:
        sys.exit(f"make_golden.py: {table} has no rows of {loss_type!r}")
    write_rows(sys.stdout, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", nargs="?", choices=TABLES, help="all of them if left out")
    parser.add_argument("--loss", help="print this loss's rows and write nothing")
    arguments = parser.parse_args()
    if arguments.loss is None:
        for table in [arguments.table] if arguments.table else TABLES:
            write_table(Path(__file__).parent, table)
    elif arguments.table in LOSS_TABLES:
        print_loss(arguments.table, arguments.loss)
    else:
        parser.error(f"--loss belongs to one of {', '.join(LOSS_TABLES)}: name it")
