"""Checks of Python types; shapes, dtypes, devices and values are checked by the operators."""

import numbers

import torch


def require_tensor(op: str, name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be a Tensor, got {type(value).__name__}"
        )


def require_tensors(op: str, **values: object) -> None:
    """Raise TypeError unless every value is a tensor."""
    for name, value in values.items():
        require_tensor(op, name, value)


def optional_tensors(op: str, **values: object) -> None:
    """Raise TypeError unless every value is a tensor or None."""
    for name, value in values.items():
        if value is not None:
            require_tensor(op, name, value)


def number(op: str, name: str, value: object) -> float:
    """Return a Python float. Tensors are refused (reading one waits for its device), and so is bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"selm::{op}: expected '{name}' to be a number, got {type(value).__name__}")
    return float(value)


def integer(op: str, name: str, value: object) -> int:
    """Return a Python int; bool and everything that is not integral is refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be an integer, got {type(value).__name__}"
        )
    return int(value)


def string(op: str, name: str, value: object) -> str:
    """Return ``value`` unless it is not a string."""
    if not isinstance(value, str):
        raise TypeError(f"selm::{op}: expected '{name}' to be a str, got {type(value).__name__}")
    return value
