"""The tables of tests/data, which make_golden.py describes, and the promise of docs/numerics.md."""

import csv
import math
from pathlib import Path

import torch

DATA = Path(__file__).parents[2] / "data"


def read_table(name):
    """The rows of a table as dictionaries; what looks like a number is one."""
    with (DATA / f"{name}.csv").open(newline="") as file:
        return [{k: _parsed(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _parsed(text):
    try:
        return float(text)
    except ValueError:
        return text


def representable(row, columns, dtype):
    """Whether every input of the row is a number of this type."""
    values = torch.tensor([row[name] for name in columns], dtype=torch.float64)
    return torch.equal(values.to(dtype).double(), values)


def broken_promises(got, exact, scale):
    """Rows where `got` misses the exact value by more than is promised.

    `scale` is |exact| times its condition number. float64: 8 u scale. float32: 2 ulp, and what the
    float64 arithmetic inside may lose. Infinities and NaN must be met exactly.
    """
    limit = exact.to(got.dtype)
    close = (got.double() - exact).abs() <= _bound(exact, scale, got.dtype)
    same = (limit.isnan() & got.isnan()) | (limit.isinf() & (got == limit))
    return torch.where(limit.isfinite(), close, same).logical_not().nonzero().flatten().tolist()


def _bound(exact, scale, dtype):
    unit = torch.finfo(torch.float64).eps / 2
    bound = 8 * unit * torch.maximum(exact.abs(), scale) + math.ulp(0.0)
    return bound if dtype == torch.float64 else bound + 2 * ulp(exact, dtype)


def ulp(x, dtype):
    """Distance from |x| to the next number of the type."""
    near = x.abs().to(dtype)
    return (torch.nextafter(near, torch.full_like(near, math.inf)) - near).double()
