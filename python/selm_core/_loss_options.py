"""Types of the options that every preference loss shares, for torch and NumPy alike; ranges are checked
by the operators."""

from collections.abc import Sequence
from typing import NamedTuple

from selm_core import _scalars as check


class LossOptions(NamedTuple):
    """Keyword arguments of the operators; None is left to the operator's default."""

    loss_type: list[str]
    loss_weights: list[float] | None
    label_smoothing: float
    f_divergence_type: str
    f_alpha_divergence_coef: float | None
    discopop_tau: float | None
    dpop_lambda: float | None
    length_margin: float | None


def loss_options(
    op: str,
    *,
    loss_type: str | Sequence[str],
    loss_weights: Sequence[float] | None,
    label_smoothing: float,
    f_divergence_type: str,
    f_alpha_divergence_coef: float | None,
    discopop_tau: float | None,
    dpop_lambda: float | None,
    length_margin: float | None,
) -> LossOptions:
    """Check every type. One loss may be given as its name alone."""
    names = _names(op, loss_type)
    weights = None if loss_weights is None else _numbers(op, "loss_weights", loss_weights)
    if weights is not None and len(weights) != len(names):
        raise ValueError(
            f"selm::{op}: expected 'loss_weights' to hold one number for each of {len(names)} losses, "
            f"got {len(weights)}"
        )
    return LossOptions(
        names,
        weights,
        check.number(op, "label_smoothing", label_smoothing),
        check.string(op, "f_divergence_type", f_divergence_type),
        check.optional_number(op, "f_alpha_divergence_coef", f_alpha_divergence_coef),
        check.optional_number(op, "discopop_tau", discopop_tau),
        check.optional_number(op, "dpop_lambda", dpop_lambda),
        check.optional_number(op, "length_margin", length_margin),
    )


def _names(op: str, loss_type: object) -> list[str]:
    if isinstance(loss_type, str):
        return [loss_type]
    if isinstance(loss_type, bytes | bytearray) or not isinstance(loss_type, Sequence):
        raise TypeError(
            f"selm::{op}: expected 'loss_type' to be a str or a sequence of str, "
            f"got {type(loss_type).__name__}"
        )
    return [check.string(op, "loss_type", name) for name in loss_type]


def _numbers(op: str, name: str, values: object) -> list[float]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be a sequence of numbers, got {type(values).__name__}"
        )
    return [check.number(op, name, value) for value in values]
