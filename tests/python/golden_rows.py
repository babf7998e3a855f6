"""The rows of the tables of tests/data, which make_golden.py describes, as calls and their results."""

import csv
import math
from itertools import groupby
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"

LOGPS = [
    f"{side}_{name}" for side in ("policy", "ref") for name in ("chosen", "rejected", "response")
]
LOSS_OPTIONS = [
    *("loss_type", "beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef"),
    *("discopop_tau", "dpop_lambda", "length_margin"),
]
EXPLORATION_OPTIONS = ["exploration", "alpha", "logratio_clip"]
LENGTHS = ["chosen_length", "rejected_length"]


def read_table(name):
    """The rows of a table as dictionaries; what looks like a number is one, None is not given."""
    with (DATA / f"{name}.csv").open(newline="") as file:
        return [{k: _parsed(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _parsed(text):
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    try:
        return float(text)
    except ValueError:
        return text


def groups(rows, options):
    """Rows that one call can hold: (the options that are given, rows). The row of a loss that averages
    over its batch is a batch of its own."""
    if len(rows) > 0 and rows[0].get("loss_type") == "sft":
        return [(given(row, options), [row]) for row in rows]

    def key(row):
        return [str(row[name]) for name in options]

    return [(given(found[0], options), found) for found in by_key(rows, key)]


def by_key(rows, key):
    return [list(members) for _, members in groupby(sorted(rows, key=key), key)]


def given(row, names):
    return {name: row[name] for name in names if row[name] is not None}


def lengths_given(rows):
    """The lengths that the rows' loss reads, by column."""
    return [name for name in LENGTHS if rows[0][name] is not None]


def is_promised(output, row):
    """Everything but a gradient without a limit, and that of a loss that has no value."""
    loss = row.get("dpo_loss", row.get("loss", 0.0))
    is_gradient = output in ("d_chosen", "d_rejected", "d_policy")
    return not (is_gradient and (math.isnan(loss) or math.isnan(row[output])))
