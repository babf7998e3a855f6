"""selm_core, torch.ops.selm and _core are one thing."""

import pytest
import torch
from calls import BUILDERS, OPERATORS, ROUTES, arguments, leaves, results
from references import assert_same_bits

OTHERS = [route for route in ROUTES if route != "selm_core"]


@pytest.mark.parametrize("route", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BUILDERS)
def test_routes_agree_bit_for_bit(name, dtype, route, device):
    given = arguments(name, dtype, device, grad=True)
    outputs = [results(name, given, r) for r in ("selm_core", route)]
    for a, b in zip(*outputs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
    grads = [torch.autograd.grad(out[0].sum(), leaves(given)) for out in outputs]
    for a, b in zip(*grads, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("route", OTHERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_defaults_are_the_same_everywhere(name, route):
    given = {k: v for k, v in arguments(name).items() if isinstance(v, torch.Tensor)}
    required = {"alpha": 0.2, "beta": 0.3} if name in ("selm_loss", "exploration_bonus") else {}
    if name == "implicit_rewards":
        required = {"beta": 0.3}
    for a, b in zip(
        results(name, given | required), results(name, given | required, route), strict=True
    ):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
