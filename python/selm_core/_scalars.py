"""Checks of scalar types, for torch and NumPy alike; ranges are checked by the operators."""

import math
import numbers
from collections.abc import Iterable


def number(op: str, name: str, value: object) -> float:
    """Return a Python float. Refuses bool, and tensors: reading one waits for its device."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"selm::{op}: expected '{name}' to be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"selm::{op}: expected '{name}' to be a finite number, got {value}"
        ) from None


def finite_number(op: str, name: str, value: object) -> float:
    """Return a Python float that is finite."""
    result = number(op, name, value)
    if not math.isfinite(result):
        raise ValueError(f"selm::{op}: expected '{name}' to be a finite number, got {result}")
    return result


def positive_number(op: str, name: str, value: object) -> float:
    """Return a Python float that is finite and > 0."""
    result = number(op, name, value)
    if not 0.0 < result < float("inf"):
        raise ValueError(f"selm::{op}: expected '{name}' to be a finite number > 0, got {result}")
    return result


def optional_number(op: str, name: str, value: object) -> float | None:
    """Return a Python float, or None for None."""
    return None if value is None else number(op, name, value)


def integer(op: str, name: str, value: object) -> int:
    """Return a Python int; bool and everything that is not integral is refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be an integer, got {type(value).__name__}"
        )
    whole = int(value)
    if not -(2**63) <= whole < 2**63:
        raise ValueError(f"selm::{op}: expected '{name}' to fit 64 bits, got {value}")
    return whole


def string(op: str, name: str, value: object) -> str:
    """Return ``value`` unless it is not a string."""
    if not isinstance(value, str):
        raise TypeError(f"selm::{op}: expected '{name}' to be a str, got {type(value).__name__}")
    return value


def strings(op: str, name: str, value: object) -> list[str]:
    """Return the strings of an iterable; one string is refused."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be a sequence of str, got {type(value).__name__}"
        )
    return [string(op, name, item) for item in value]


def boolean(op: str, name: str, value: object) -> bool:
    """Return ``value`` unless it is not a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"selm::{op}: expected '{name}' to be a bool, got {type(value).__name__}")
    return value
