"""Exact numbers for the golden tables: derivatives, condition numbers and limits of a value."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpmath import mp, mpf

DIGITS = 50

Inputs = Mapping[str, mpf]
Function = Callable[[Inputs], mpf]
Row = dict[str, str]


def derivative(f: Function, name: str) -> Function:
    return lambda x: mp.diff(lambda value: f({**x, name: value}), x[name])


def scale(f: Function, x: Inputs) -> mpf:
    """The sum over the inputs x of |x * d f / d x|: f times its condition number."""
    return mp.fsum(abs(x[name] * derivative(f, name)(x)) for name in x)


def scale_far_out(f: Function, x: Inputs, approach: Approach) -> mpf:
    """Of the finite inputs, while the infinite ones are far out."""
    there = {name: -approach.far if mp.isinf(value) else value for name, value in x.items()}
    finite = [name for name in x if mp.isfinite(x[name])]
    return mp.fsum(abs(x[name] * derivative(f, name)(there)) for name in finite)


@dataclass(frozen=True)
class Approach:
    """How infinite inputs are approached: at two times, and at several relative speeds."""

    near: mpf = mpf(10) ** 8
    far: mpf = mpf(10) ** 16
    faster: int = 1000


def limit(f: Function, x: Inputs, approach: Approach) -> mpf:
    """The limit as the infinite inputs go to -inf; nan if it depends on their relative speed.

    Equal speeds are tried twice: of the inputs, and of their distances from the finite inputs that
    are subtracted from them.
    """
    infinite = [name for name in x if mp.isinf(x[name])]
    equal = {name: mpf(1) for name in infinite}
    speeds = [equal, *({**equal, name: mpf(approach.faster)} for name in infinite)]
    nowhere, partners = dict.fromkeys(infinite, mpf(0)), _partners(x, infinite)
    paths = [(nowhere, speed) for speed in speeds] + [(partners, equal)]
    limits = {_limit_along(f, x, start, speed, approach) for start, speed in paths}
    return limits.pop() if len(limits) == 1 else mp.nan


def _partners(x: Inputs, infinite: list[str]) -> Inputs:
    other = {"policy": "ref", "ref": "policy"}
    names = {name: name.replace(side := name.split("_")[0], other[side]) for name in infinite}
    return {k: x[v] if v in x and mp.isfinite(x[v]) else mpf(0) for k, v in names.items()}


def _limit_along(f: Function, x: Inputs, start: Inputs, speed: Inputs, approach: Approach) -> mpf:
    near, far = (
        f({**x, **{name: start[name] - time * speed[name] for name in speed}})
        for time in (approach.near, approach.far)
    )
    if abs(far) > 2 * abs(near) and abs(far) > 10:
        return mp.sign(far) * mp.inf
    assert abs(far - near) <= mpf(10) ** -6, "neither convergent nor divergent"
    return mpf(float(far)) if abs(far) > mpf(10) ** -30 else mpf(0)


def text(value: mpf | float) -> str:
    return repr(float(value))


def outputs(functions: Mapping[str, Function], x: Inputs, approach: Approach = Approach()) -> Row:
    """Every function's value and scale; a function of infinite inputs has its limit."""
    row: Row = {}
    for name, f in functions.items():
        if any(mp.isinf(value) for value in x.values()):
            row |= {name: text(limit(f, x, approach))}
            row |= {f"{name}_scale": f"{float(scale_far_out(f, x, approach)):.3g}"}
        else:
            row |= {name: text(f(x)), f"{name}_scale": f"{float(scale(f, x)):.3g}"}
    return row


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
