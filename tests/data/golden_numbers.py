"""Exact numbers for the golden tables: derivatives, condition numbers and limits of a value."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    def at(time: mpf) -> mpf:
        return f({**x, **{name: start[name] - time * speed[name] for name in speed}})

    near, far = at(approach.near), at(approach.far)
    if abs(far - near) <= mpf(10) ** -6:
        # On its way to 0, if only as slowly as 1 / time; a number of another limit has settled.
        vanishes = abs(far) <= max(mpf(10) ** -30, abs(near) / 1000)
        return mpf(0) if vanishes else mpf(float(far))
    between = at(mp.sqrt(approach.near * approach.far))
    if not _grows(near, between, far):
        inputs = {name: float(value) for name, value in x.items()}
        values = f"{float(near)} and then {float(between)} and {float(far)}"
        raise ValueError(f"neither convergent nor divergent: {values} on the way to {inputs}")
    return mp.sign(far) * mp.inf


def _grows(near: mpf, between: mpf, far: mpf) -> bool:
    """Whether |f| grows without slowing down. The times are a geometric sequence, on which a logarithm,
    the slowest growth that is known here, takes equal steps."""
    first, second = abs(between) - abs(near), abs(far) - abs(between)
    return 0 < first * mpf("0.99") <= second


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


@contextmanager
def named(options: object) -> Iterator[None]:
    """An error of the numbers says which options they are of."""
    try:
        yield
    except ValueError as error:
        error.add_note(f"the row's options: {options}")
        raise
