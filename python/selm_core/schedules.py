"""How the strength of the exploration term changes while a policy is trained."""

import math
from typing import Literal, get_args

from selm_core import _scalars as check

AlphaSchedule = Literal["constant", "linear", "cosine"]


def alpha_at(
    progress: float, *, alpha: float, schedule: str = "constant", final_alpha: float | None = None
) -> float:
    """The exploration strength after a part of the training.

    ``constant`` is ``alpha``; ``linear`` goes straight, ``cosine`` along half a cosine wave, from
    ``alpha`` to ``final_alpha``.

    Args:
        progress: Part of the training that is done, 0 to 1.
        alpha: Strength at the start, finite.
        schedule: ``"constant"``, ``"linear"`` or ``"cosine"``.
        final_alpha: Strength at the end, finite; None is 0: annealed away. Refused for ``constant``.

    Raises:
        TypeError: A wrong type.
        ValueError: An unknown schedule, a number out of its range, or an end for a constant.

    Example:
        >>> import selm_core
        >>> [selm_core.alpha_at(t, alpha=1e-3, schedule="linear") for t in (0.0, 0.5, 1.0)]
        [0.001, 0.0005, 0.0]
    """
    op = "alpha_at"
    done, start = check.number(op, "progress", progress), check.number(op, "alpha", alpha)
    end = check.optional_number(op, "final_alpha", final_alpha)
    check.string(op, "schedule", schedule)
    if schedule not in get_args(AlphaSchedule):
        raise ValueError(
            f"selm::{op}: expected 'schedule' to be one of {get_args(AlphaSchedule)}, got {schedule!r}"
        )
    if not 0.0 <= done <= 1.0:
        raise ValueError(f"selm::{op}: expected 'progress' to be in [0, 1], got {done}")
    for name, value in (("alpha", start), ("final_alpha", end)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"selm::{op}: expected '{name}' to be a finite number, got {value}")
    if schedule == "constant":
        if end is not None:
            raise ValueError(
                f"selm::{op}: expected 'final_alpha' to be left out: schedule 'constant' does not use "
                f"it, got {end}"
            )
        return start
    left = 1.0 - done if schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2.0
    target = end or 0.0
    return target + (start - target) * left
