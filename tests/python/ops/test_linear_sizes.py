"""linear_logps at the borders of what its products are divided into: rows of a register block, panels of
columns, chains of products, odd sizes that leave one without a pair."""

import pytest
import torch
from linear_cases import Case, multiplies_bfloat16
from memory import fresh_memory_is_nan
from references import ROUNDING, assert_same_bits

SIZES = [  # scored rows, width, vocabulary
    (1, 1, 3),
    (1, 600, 1025),
    (2, 2, 2),
    (2, 1100, 700),
    (5, 63, 64),
    (6, 64, 65),
    (7, 65, 513),
    (13, 33, 1025),
    (127, 130, 511),
    (128, 513, 129),
    (129, 600, 2049),
    (390, 31, 300),
    (24, 1100, 1500),
    (520, 40, 600),
]


@pytest.fixture(autouse=True)
def unwritten_memory_shows():
    with fresh_memory_is_nan():
        yield


def case_of(rows, width, vocab, dtype, device="cpu"):
    """One row is ignored."""
    labels = torch.randint(vocab, (rows + 1,), device=device)
    labels[0] = -100
    return Case(
        torch.randn(rows + 1, width, device=device).to(dtype),
        (torch.randn(vocab, width, device=device) * (2.0 / width**0.5)).to(dtype),
        labels,
    )


def results(case, workspace=None):
    leaves = [case.hidden.requires_grad_(), case.weight.requires_grad_()]
    logps = case.ours(workspace_bytes=workspace).logps
    upstream = torch.linspace(-1.0, 1.0, logps.numel(), device=logps.device)
    return upstream, logps.detach(), torch.autograd.grad(logps, leaves, upstream)


@pytest.mark.parametrize("contiguous", ["rows", "columns"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "vocab"), SIZES)
def test_every_size_is_exact(rows, width, vocab, dtype, kept, contiguous, device):
    case = case_of(rows, width, vocab, dtype, device)
    if contiguous == "columns":
        case.weight = case.weight.T.contiguous().T
    upstream, logps, grads = results(case, None if kept else 8 * vocab)
    exact = case.exact_logps().detach()
    assert ((logps[case.scored()] - exact).abs() <= 1e-6 * (exact.abs() + 1)).all()
    for got, want in zip(grads, case.exact_gradients(upstream), strict=True):
        allowed = 2e-6 if dtype == torch.float32 else 2 * ROUNDING[dtype]
        # Of two tokens' gradients that cancel the sum is smaller than its terms.
        terms = want.norm() if vocab > 3 else max(want.norm(), rows**0.5)
        assert (got - want).norm() <= allowed * terms


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize(("rows", "width", "vocab"), SIZES)
def test_bfloat16_bits_do_not_depend_on_the_number_of_threads(
    rows, width, vocab, threads, thread_count
):
    if not multiplies_bfloat16():
        pytest.skip("this CPU multiplies no bfloat16: the products are torch's, in float32")
    case = case_of(rows, width, vocab, torch.bfloat16)
    thread_count(threads)
    _, logps, (hidden_grad, _) = results(case)
    thread_count(1)
    _, expected, (expected_grad, _) = results(case)
    assert_same_bits(logps, expected)
    assert_same_bits(hidden_grad, expected_grad)
