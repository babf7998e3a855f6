"""linear_logps at the borders of what its products are divided into: rows of a register block, panels of
columns, chains of products, odd sizes that leave one without a pair."""

from pathlib import Path

import pytest
import torch
from linear_cases import make_case
from references import ROUNDING, assert_same_bits

SIZES = [  # rows, width, vocabulary
    (1, 1, 3),
    (2, 2, 2),
    (5, 63, 64),
    (6, 64, 65),
    (7, 65, 513),
    (13, 33, 1025),
    (127, 130, 511),
    (130, 513, 129),
    (131, 600, 2049),
    (390, 31, 300),
    (24, 1100, 1500),
]


@pytest.fixture
def thread_count():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def results(case, workspace=None):
    leaves = [case.hidden.requires_grad_(), case.weight.requires_grad_()]
    logps = case.ours(workspace_bytes=workspace).logps
    upstream = torch.linspace(-1.0, 1.0, logps.numel() + 1, device=logps.device)[1:]
    return upstream, logps.detach(), torch.autograd.grad(logps, leaves, upstream)


def case_of(rows, width, vocab, dtype, device="cpu"):
    case = make_case(dtype, device, (rows + 3,), vocab, width, bias=False)
    case.weight *= 3.0 / width**0.5
    return case


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
    assert ((logps[case.scored()] - exact).abs() <= 2e-6 * (exact.abs() + 1)).all()
    for got, want in zip(grads, case.exact_gradients(upstream), strict=True):
        allowed = 2e-6 if dtype == torch.float32 else 2 * ROUNDING[dtype]
        # Of gradients of logits, whose sum may cancel: where there are two tokens, it always does.
        terms = exact.exp().neg().add(1).norm() if vocab < 8 else want.norm()
        assert (got - want).norm() <= allowed * max(want.norm(), terms)


def has_bf16_products():
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()


@pytest.mark.skipif(not has_bf16_products(), reason="a float32 product's bits are the library's")
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize(("rows", "width", "vocab"), SIZES)
def test_bfloat16_bits_do_not_depend_on_the_number_of_threads(
    rows, width, vocab, threads, thread_count
):
    case = case_of(rows, width, vocab, torch.bfloat16)
    thread_count(threads)
    _, logps, (hidden_grad, _) = results(case)
    thread_count(1)
    _, expected, (expected_grad, _) = results(case)
    assert_same_bits(logps, expected)
    assert_same_bits(hidden_grad, expected_grad)
