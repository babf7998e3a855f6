"""Errors of floating-point results against numbers of 50 digits, in units of the last place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from mpmath import mp, mpf


@dataclass(frozen=True)
class Errors:
    """Of the results that are finite, or infinite where the type has no larger number."""

    largest: float
    mean: float
    bias: float
    """The mean with its sign: 0 if errors up and down are alike."""
    lost: int
    """Results that are NaN or infinite where the type has the number."""


def ulp(exact: mpf, dtype: torch.dtype) -> mpf:
    """The distance between the numbers of this type around `exact`."""
    info = torch.finfo(dtype)
    _, exponent = mp.frexp(exact)
    return max(mp.ldexp(mpf(info.eps), int(exponent) - 1), mpf(info.tiny) * mpf(info.eps))


def error(got: float, exact: mpf, dtype: torch.dtype) -> mpf | None:
    """In ulp, None for a lost result."""
    if math.isfinite(got):
        return (mpf(got) - exact) / ulp(exact, dtype)
    largest = mpf(torch.finfo(dtype).max)
    overflows = abs(exact) >= largest + ulp(largest, dtype) / 2
    return mpf(0) if overflows and got == math.copysign(math.inf, exact) else None


def errors_in_ulp(got: Iterable[float], exact: Iterable[mpf], dtype: torch.dtype) -> Errors:
    """Of results of this type."""
    return summary([error(g, e, dtype) for g, e in zip(got, exact, strict=True)])


def errors_in_units(got: Iterable[float], exact: Iterable[mpf | float]) -> Errors:
    """In the unit of the results themselves."""
    pairs = zip(got, exact, strict=True)
    return summary([mpf(g) - mpf(e) if math.isfinite(g) else None for g, e in pairs])


def summary(found: Sequence[mpf | None]) -> Errors:
    """Largest, mean and signed mean."""
    kept = [e for e in found if e is not None]
    count = max(len(kept), 1)
    return Errors(
        float(max(map(abs, kept), default=mpf(0))),
        float(mp.fsum(map(abs, kept)) / count),
        float(mp.fsum(kept) / count),
        len(found) - len(kept),
    )


def joined(parts: Sequence[tuple[Errors, int]]) -> Errors:
    """One summary of several, each with its number of results."""
    kept = [(errors, count - errors.lost) for errors, count in parts]
    total = max(sum(count for _, count in kept), 1)
    return Errors(
        max(errors.largest for errors, _ in kept),
        sum(errors.mean * count for errors, count in kept) / total,
        sum(errors.bias * count for errors, count in kept) / total,
        sum(errors.lost for errors, _ in kept),
    )
