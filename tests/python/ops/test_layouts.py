"""inputs.md, rows 15 and 30 to 34: strides of inputs and of upstream gradients change nothing."""

import pytest
import selm_core
import torch
from layouts import FLOATING_LAYOUTS, LAYOUTS
from references import DTYPES, assert_same_bits


def run(function, tensors, upstream_layout=None):
    """Output and gradients of `function`, for the leaves among its tensors; inputs must survive."""
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
    before = [x.detach().clone() for x in leaves]
    out = function(*leaves)
    upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype, device=out.device)
    upstream = upstream.view_as(out)
    wanted = [x for x in leaves if x.is_floating_point()]
    grads = torch.autograd.grad(
        out, wanted, upstream if upstream_layout is None else upstream_layout(upstream)
    )
    for x, old in zip(leaves, before, strict=True):
        assert_same_bits(x, old)
    return out.detach(), *grads


def token_case(dtype, device):
    logits = torch.randn(4, 5, 35, device=device).to(dtype)
    index = torch.randint(35, (4, 5), device=device)
    index[1, 2] = -100
    return selm_core.selective_log_softmax, (logits, index)


def sequence_case(dtype, device):
    _, (logits, labels) = token_case(dtype, device)
    return selm_core.sequence_logps, (logits, labels)


def linear_case(dtype, device):
    hidden = torch.randn(4, 5, 8, device=device).to(dtype)
    weight = torch.randn(35, 8, device=device).to(dtype)
    bias = torch.randn(35, device=device).to(dtype)
    labels = torch.randint(35, (4, 5), device=device)
    labels[1, 2] = -100
    return (
        lambda h, w, b, y: selm_core.linear_logps(h, w, y, bias=b).logps,
        (hidden, weight, bias, labels),
    )


def loss_case(dtype, device):
    chosen, rejected = (-50 * torch.rand(6, dtype=dtype, device=device) for _ in range(2))
    ref = [-50 * torch.rand(6, dtype=dtype, device=device) for _ in range(2)]
    lengths = [torch.randint(1, 9, (6,), device=device) for _ in range(2)]

    def loss(w, lo, length_w, length_l):
        return selm_core.dpo_loss(
            w, lo, *ref, loss_type="ipo", chosen_lengths=length_w, rejected_lengths=length_l
        ).losses

    return loss, (chosen, rejected, *lengths)


def reward_case(dtype, device):
    policy, ref = (-50 * torch.rand(3, 4, dtype=dtype, device=device) for _ in range(2))
    return lambda x: selm_core.implicit_rewards(x, ref, beta=0.1), (policy,)


CASES = [token_case, sequence_case, linear_case, loss_case, reward_case]


TYPED_CASES = [
    pytest.param(case, dtype, id=f"{case.__name__.removesuffix('_case')}-{str(dtype)[6:]}")
    for case in CASES
    for dtype in DTYPES
    if dtype.itemsize > 2 or case not in (loss_case, reward_case)
]


def assert_same(results, expected, exact):
    for a, b in zip(results, expected, strict=True):
        if exact:
            assert_same_bits(a, b)
        else:  # a matrix product takes another path for another layout
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", FLOATING_LAYOUTS)
@pytest.mark.parametrize(("case", "dtype"), TYPED_CASES)
def test_inputs_of_any_layout(case, dtype, layout, device):
    function, tensors = case(dtype, device)
    expected = run(function, tensors)
    for index, x in enumerate(tensors):
        if x.is_floating_point() or layout in LAYOUTS:
            varied = list(tensors)
            varied[index] = FLOATING_LAYOUTS[layout](x)
            assert torch.equal(varied[index], x)
            assert_same(run(function, varied), expected, exact=case is not linear_case)


@pytest.mark.parametrize("layout", FLOATING_LAYOUTS)
@pytest.mark.parametrize(("case", "dtype"), TYPED_CASES)
def test_upstream_gradients_of_any_layout(case, dtype, layout, device):
    function, tensors = case(dtype, device)
    expected = run(function, tensors)
    assert_same(run(function, tensors, FLOATING_LAYOUTS[layout]), expected, exact=True)


@pytest.mark.parametrize(("case", "dtype"), TYPED_CASES)
def test_an_upstream_gradient_without_strides(case, dtype, device):
    """That of a sum: one number, expanded."""
    function, tensors = case(dtype, device)
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
    wanted = [x for x in leaves if x.is_floating_point()]
    out = function(*leaves)
    expanded = torch.autograd.grad(out.sum(), wanted, retain_graph=True)
    ones = torch.autograd.grad(out, wanted, torch.ones_like(out))
    assert_same(expanded, ones, exact=True)


class Stop(torch.autograd.Function):
    """An identity whose gradient is undefined."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("case", CASES)
def test_an_undefined_upstream_gradient_is_zero(case, device):
    function, tensors = case(torch.float32, device)
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
    Stop.apply(function(*leaves)).sum().backward()
    assert all(x.grad is None or x.grad.count_nonzero() == 0 for x in leaves)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_expanded_over_a_batch(dtype, device):
    """Inputs with stride 0; autograd sums their gradients."""
    row = torch.randn(1, 35, device=device).to(dtype)
    index = torch.tensor([3], device=device)
    expanded = row.expand(6, 35)
    assert_same_bits(
        selm_core.selective_log_softmax(expanded, index.expand(6)),
        selm_core.selective_log_softmax(expanded.contiguous(), index.repeat(6)),
    )
    weight = torch.randn(9, 35, device=device).to(dtype)
    assert_same_bits(
        selm_core.linear_logps(expanded, weight, index.expand(6)).logps,
        selm_core.linear_logps(expanded.contiguous(), weight, index.repeat(6)).logps,
    )


@pytest.mark.parametrize("offset", range(1, 9))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_alignment(dtype, offset, device):
    """inputs.md, row 32: storage offsets that no vector register likes, and odd rows."""
    storage = torch.randn(8 + 3 * 37, device=device).to(dtype)
    window = storage[offset : offset + 2 * 37].view(2, 37).requires_grad_()
    index = torch.tensor([0, 36], device=device)
    aligned = window.detach().clone().requires_grad_()
    for a, b in zip(
        *(run(lambda x: selm_core.selective_log_softmax(x, index), [x]) for x in (window, aligned)),
        strict=True,
    ):
        assert_same_bits(a, b)
