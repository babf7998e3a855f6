"""Calls that must be refused: which argument is replaced, and how the error reads."""

import pytest
import torch
from calls import arguments, operator
from references import assert_same_bits

PAIR = ["policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps"]
TRIPLE = [*PAIR, "policy_response_logps", "ref_response_logps"]


def bad(row, name, argument, value, error, got, expected=""):
    """A row of inputs.md: the argument that is replaced, and the two ends of the message."""
    ident = f"row{row}-{name}-{argument}-{_text(value)}"
    return pytest.param(name, argument, value, error, expected, got, id=ident)


def _text(value):
    if not isinstance(value, torch.Tensor):
        return repr(value)[:40]
    layout = "" if value.layout == torch.strided else str(value.layout)[6:]
    return f"{layout}{str(value.dtype)[6:]}{list(value.shape)}"


def logps(*shape, dtype=torch.float32):
    return -torch.ones(shape, dtype=dtype)


def labels(*shape, dtype=torch.int64):
    return torch.zeros(shape, dtype=dtype)


def floats(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


def assert_refused(route, name, argument, value, error, expected, got):
    """The error names operation, argument, expectation and what came; the inputs are unchanged."""
    given = arguments(name) | {argument: value}
    tensors = [x for x in given.values() if isinstance(x, torch.Tensor) and _is_plain(x)]
    before = [x.detach().clone() for x in tensors]
    with pytest.raises(error) as raised:
        operator(name, route)(**given)
    assert raised.type is error
    message = str(raised.value)
    assert message.startswith(f"selm::{name.split('-')[0]}: expected '{argument}' {expected}"), (
        message
    )
    assert message.endswith(f", got {got}"), message
    for x, old in zip(tensors, before, strict=True):
        assert_same_bits(x, old)


def _is_plain(x):
    return x.layout == torch.strided and not (x.is_quantized or x.is_nested or x.is_meta)
