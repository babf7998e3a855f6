"""inputs.md, rows 80 and 90: autocast is for the matrix products alone."""

import pytest
import selm_core
import torch
from linear_cases import Case, make_case
from references import assert_same_bits
from selm_core._library import native

HALVES = [torch.bfloat16, torch.float16]
ROUTES = {
    "selm_core": selm_core.linear_logps,
    "torch.ops": torch.ops.selm.linear_logps,
    "_core": native.linear_logps,
}


def cast(case, dtype):
    return Case(case.hidden.to(dtype), case.weight.to(dtype), case.labels, case.bias.to(dtype))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", HALVES)
def test_computes_in_autocasts_type(dtype, given, route, device):
    """Like a linear layer: whatever mixture comes, it is cast; the result stays float32."""
    case = make_case(device=device)
    hidden = case.hidden.to(given)
    expected = cast(Case(hidden, case.weight, case.labels, case.bias), dtype).ours().logps
    with torch.autocast(device.type, dtype=dtype):
        logps = ROUTES[route](hidden, case.weight, case.labels, bias=case.bias)[0]
    assert logps.dtype == torch.float32
    assert_same_bits(logps, expected)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_have_the_parameters_type(dtype, frozen, inside, device):
    """Also where the backward pass runs inside the autocast region."""
    case = make_case(device=device)
    half = cast(case, dtype)
    leaves = [case.hidden] if frozen else case.leaves()
    half_leaves = [half.hidden] if frozen else half.leaves()
    for x in leaves + half_leaves:
        x.requires_grad_()
    upstream = torch.randn(case.labels.shape, device=device)
    half.ours().logps.backward(upstream)
    with torch.autocast(device.type, dtype=dtype):
        logps = case.ours().logps
        if inside:
            logps.backward(upstream)
    if not inside:
        logps.backward(upstream)
    for x, y in zip(leaves, half_leaves, strict=True):
        assert x.grad.dtype == torch.float32
        assert_same_bits(x.grad, y.grad.float())


def test_without_autocast_a_mixture_is_refused(device):
    case = make_case(device=device)
    with pytest.raises(TypeError) as raised:
        selm_core.linear_logps(case.hidden.bfloat16(), case.weight, case.labels)
    assert str(raised.value) == (
        "selm::linear_logps: expected 'weight' to be bfloat16 (same as 'hidden'), got float32: "
        "cast one of them, or use autocast, which casts both"
    )


def test_float64_is_not_cast(device):
    case = make_case(torch.float64, device)
    expected = case.ours().logps
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert_same_bits(case.ours().logps, expected)


def test_integers_are_not_cast(device):
    case = make_case(device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16), pytest.raises(TypeError, match="int64"):
        selm_core.linear_logps(case.hidden, case.weight, case.labels, bias=case.labels[0, :1])


def test_a_disabled_region_inside(device):
    case = make_case(device=device)
    expected = case.ours().logps
    with (
        torch.autocast(device.type, dtype=torch.bfloat16),
        torch.autocast(device.type, enabled=False),
    ):
        assert_same_bits(case.ours().logps, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_on_logits_and_losses_are_not_touched(dtype, device):
    logits = torch.randn(2, 6, 9, device=device).to(dtype)
    labels = torch.randint(9, (2, 6), device=device)
    policy, ref = (-torch.rand(2, device=device) for _ in range(2))

    def results():
        return [
            selm_core.selective_log_softmax(logits, labels),
            selm_core.sequence_logps(logits, labels),
            selm_core.dpo_loss(policy, ref, ref, policy).losses,
            selm_core.kl_estimate(policy, ref),
        ]

    expected = results()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        inside = results()
    for a, b in zip(inside, expected, strict=True):
        assert a.dtype == torch.float32
        assert_same_bits(a, b)


def test_a_first_call_without_gradients_does_not_freeze_the_head(device):
    """Autocast caches its casts of parameters; those of a no_grad region have no graph."""
    case = make_case(device=device)
    case.weight.requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            case.ours()
        case.ours().logps.sum().backward()
    assert case.weight.grad.count_nonzero() > 0


def test_a_model_under_autocast_trains_its_head(device):
    """float32 parameters, half-precision hidden states: the trainers' usual mixture."""
    trunk = torch.nn.Linear(8, 8, device=device)
    head = torch.nn.Linear(8, 20, device=device)
    x = torch.randn(4, 8, device=device)
    labels = torch.randint(20, (4,), device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = trunk(x)
        logps = selm_core.linear_logps(hidden, head.weight, labels, bias=head.bias).logps
        plain = head(hidden).float().log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(logps, plain, rtol=0, atol=3e-2)
    parameters = [*trunk.parameters(), *head.parameters()]
    ours = torch.autograd.grad(logps.sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad(plain.sum(), parameters)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)
