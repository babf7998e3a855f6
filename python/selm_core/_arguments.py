"""Checks of Python types; shapes, dtypes, devices and values are checked by the operators."""

import torch

from selm_core._scalars import (
    boolean,
    integer,
    number,
    optional_number,
    positive_number,
    string,
    strings,
)

__all__ = [
    "boolean",
    "integer",
    "local_tensors",
    "number",
    "optional_number",
    "optional_tensors",
    "positive_number",
    "require_float",
    "require_tensor",
    "require_tensors",
    "string",
    "strings",
]


def require_tensor(op: str, name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"selm::{op}: expected '{name}' to be a Tensor, got {type(value).__name__}")


def require_tensors(op: str, **values: object) -> None:
    """Raise TypeError unless every value is a tensor."""
    for name, value in values.items():
        require_tensor(op, name, value)


def require_float(op: str, name: str, value: torch.Tensor) -> None:
    """Raise TypeError unless the tensor is float32 or float64."""
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be float32 or float64, got {value.dtype}"
        )


def optional_tensors(op: str, **values: object) -> None:
    """Raise TypeError unless every value is a tensor or None."""
    for name, value in values.items():
        if value is not None:
            require_tensor(op, name, value)


def local_tensors(op: str, **values: object) -> None:
    """Raise NotImplementedError for a DTensor; its class is not named, which takes long to import."""
    for name, value in values.items():
        if hasattr(value, "full_tensor"):
            raise NotImplementedError(
                f"selm::{op}: expected '{name}' to be a local tensor, got a "
                f"{type(value).__name__}: pass {name}.full_tensor()"
            )
