"""Checks of Python types, and of tensors for functions that are no operators.

The operators check shapes, dtypes, devices and values themselves; the messages here read as theirs do.
"""

import torch
from torch._subclasses import FakeTensor

from selm_core._scalars import (
    boolean,
    finite_number,
    integer,
    number,
    optional_number,
    positive_number,
    string,
    strings,
)

__all__ = [
    "boolean",
    "describe",
    "finite_number",
    "integer",
    "local_tensors",
    "number",
    "optional_number",
    "optional_tensors",
    "positive_number",
    "require_alike",
    "require_device",
    "require_dtype",
    "require_float",
    "require_logps",
    "require_no_grad",
    "require_shape",
    "require_tensor",
    "require_tensors",
    "require_values",
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


def describe(tensor: torch.Tensor) -> str:
    """Shape, dtype and device, as in "[4] (float32, cuda:0)"."""
    return f"{list(tensor.shape)} ({_name(tensor.dtype)}, {tensor.device})"


def require_float(op: str, name: str, value: torch.Tensor) -> None:
    """Raise TypeError unless the tensor is float32 or float64."""
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"selm::{op}: expected '{name}' to be float32 or float64, got {_name(value.dtype)}"
        )


def require_dtype(
    op: str, name: str, value: torch.Tensor, dtype: torch.dtype, why: str = ""
) -> None:
    """Raise TypeError unless the tensor has that dtype; ``why`` follows it in the message."""
    if value.dtype != dtype:
        raise TypeError(
            f"selm::{op}: expected '{name}' to be {_name(dtype)}{why}, got {_name(value.dtype)}"
        )


def require_device(
    op: str, name: str, value: torch.Tensor, device: torch.device, why: str = ""
) -> None:
    """Raise ValueError unless the tensor is on that device."""
    if value.device != device:
        raise ValueError(
            f"selm::{op}: expected '{name}' to be on {device}{why}, got {value.device}"
        )


def require_shape(
    op: str, name: str, value: torch.Tensor, shape: torch.Size, why: str = ""
) -> None:
    """Raise ValueError unless the tensor has that shape: nothing is broadcast."""
    if value.shape != shape:
        raise ValueError(
            f"selm::{op}: expected '{name}' to have shape {list(shape)}{why}, got {describe(value)}"
        )


def require_alike(op: str, **values: torch.Tensor) -> None:
    """Raise unless all are float32 or all float64 tensors of one device and shape."""
    require_tensors(op, **values)
    (first, reference), *others = values.items()
    require_float(op, first, reference)
    same = f" (same as '{first}')"
    for name, value in others:
        require_dtype(op, name, value, reference.dtype, same)
        require_device(op, name, value, reference.device, same)
        require_shape(op, name, value, reference.shape, same)


def require_no_grad(op: str, name: str, value: torch.Tensor) -> None:
    """Raise ValueError for log-probabilities of a reference that require grad."""
    if value.requires_grad:
        raise ValueError(
            f"selm::{op}: expected '{name}' not to require grad, got a tensor that does: the reference "
            f"policy is fixed; compute it under torch.no_grad() or detach it"
        )


def require_values(
    op: str, name: str, value: torch.Tensor, refused: torch.Tensor, expected: str
) -> None:
    """Raise ValueError for the first value that is refused, which is where ``refused`` is True.

    Only on the CPU: elsewhere reading a value would wait for the device, and traced tensors have none.
    """
    if not value.is_cpu or torch.compiler.is_compiling() or isinstance(value, FakeTensor):
        return
    places = refused.flatten().nonzero()
    if places.numel() > 0:
        place = int(places[0])
        number = value.detach().flatten()[place].item()
        got = f"{number:g}" if isinstance(number, float) else number
        raise ValueError(f"selm::{op}: expected '{name}' {expected}, got {got} at [{place}]")


def require_logps(
    op: str, name: str, value: torch.Tensor, mask: torch.Tensor | None = None
) -> None:
    """Raise ValueError for a log-probability above 0, with room for rounding, where the mask is True."""
    above = value.detach() > 1e-3
    refused = above if mask is None else above & mask
    require_values(op, name, value, refused, "to hold log-probabilities <= 0")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
                f"{type(value).__name__}: pass {name}.full_tensor(), or of a parameter that FSDP "
                f"shards {name}.full_tensor(grad_placements=[Partial('avg')]), which averages its "
                "gradient over the ranks"
            )
