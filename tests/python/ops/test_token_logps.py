"""Token log-probabilities and their gradient against float64, within the promises."""

import math

import pytest
import selm_core
import torch
from golden_rows import read_table
from references import (
    DTYPES,
    TYPICAL_TOKEN_LOGP_ERROR,
    VOCABULARIES,
    assert_same_bits,
    assert_within,
    exact_gradient,
    exact_logps,
    gradient_bound,
    logp_bound,
    result_dtype,
)


def logits_of(kind, rows, vocab, dtype, device):
    """Logits and targets of one kind of row."""
    logits = torch.randn(rows, vocab, device=device)
    index = torch.randint(vocab, (rows,), device=device)
    if kind == "plain":
        logits *= 3
    elif kind == "confident":
        logits.scatter_add_(1, index.unsqueeze(1), torch.full((rows, 1), 30.0, device=device))
    elif kind == "offset":
        logits = 3 * logits + 1e4
    elif kind == "far offset":  # where a row of the wider types is uniform
        logits = 3 * logits + (6e4 if dtype == torch.float16 else 1e10)
    elif kind == "wide":
        logits *= 20
    elif kind == "edges":  # the target in the first and the last column
        index = torch.arange(rows, device=device) % 2 * (vocab - 1)
    return logits.to(dtype), index


def assert_promises(logits, index, temperature=1.0):
    """Value and gradient, for random upstream gradients; returns the errors of the values."""
    leaf = logits.clone().requires_grad_()
    out = selm_core.selective_log_softmax(leaf, index, temperature=temperature)
    assert out.dtype == result_dtype(logits.dtype)
    assert (out <= 0).all()
    exact = exact_logps(logits, index, temperature)
    assert_within(out.detach(), exact, logp_bound(exact, logits.dtype))

    upstream = torch.randn_like(out)
    out.backward(upstream)
    assert leaf.grad.dtype == logits.dtype
    exact_grad = exact_gradient(logits, index, upstream, temperature)
    assert_within(
        leaf.grad, exact_grad, gradient_bound(exact_grad, logits.dtype, upstream, temperature)
    )
    return out.detach().double() - exact


@pytest.mark.parametrize("kind", ["plain", "confident", "offset", "far offset", "wide", "edges"])
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_promises(dtype, vocab, kind, device):
    assert_promises(*logits_of(kind, 4, vocab, dtype, device))


@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_promises_with_a_temperature(dtype, temperature, device):
    assert_promises(*logits_of("plain", 8, 32001, dtype, device), temperature=temperature)


@pytest.mark.parametrize("dtype", DTYPES)
def test_typical_error_and_bias(dtype, device, record_property):
    """Far below the bound on average, and without a preferred sign."""
    errors = torch.cat(
        [assert_promises(*logits_of("plain", 64, vocab, dtype, device)) for vocab in (1000, 32001)]
    )
    record_property("max_error", errors.abs().max().item())
    record_property("mean_error", errors.abs().mean().item())
    record_property("signed_mean_error", errors.mean().item())
    assert errors.abs().mean() <= TYPICAL_TOKEN_LOGP_ERROR
    assert errors.mean().abs() <= TYPICAL_TOKEN_LOGP_ERROR / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_table(dtype, device):
    for row in read_table("token_logps"):
        numbers = [float(x) for x in str(row["logits"]).split()]
        logits = torch.tensor([numbers], dtype=dtype, device=device, requires_grad=True)
        index = torch.tensor([int(row["target"])], device=device)
        out = selm_core.selective_log_softmax(logits, index, temperature=row["temperature"])
        exact = torch.tensor([row["logp"]], dtype=torch.float64, device=device)
        if exact.to(dtype).isinf() or (dtype == torch.float32 and max(map(abs, numbers)) > 1e38):
            continue  # differences of such logits do not fit the type; see the test below
        assert_within(out.detach(), exact, logp_bound(exact, dtype))
        out.backward()
        grad = [float(x) for x in str(row["grad"]).split()]
        exact_grad = torch.tensor([grad], dtype=torch.float64, device=device)
        assert_within(
            logits.grad,
            exact_grad,
            gradient_bound(exact_grad, dtype, torch.ones_like(exact), row["temperature"]),
        )


@pytest.mark.parametrize(("dtype", "large"), [(torch.float32, 3e38), (torch.float16, 65504.0)])
def test_largest_logits_are_finite(dtype, large, device):
    """inputs.md, row 48: the largest logit's probability is 1, not NaN."""
    logits = torch.tensor([[large, -large, 0.0]], dtype=dtype, device=device, requires_grad=True)
    out = selm_core.selective_log_softmax(logits, torch.zeros(1, dtype=torch.int64, device=device))
    out.backward()
    assert out.item() == 0.0
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_subnormal_logits_are_not_flushed(device):
    """inputs.md, row 49: a gradient through a subnormal logit, and one that is subnormal."""
    logits = torch.tensor([[1e-40, -1e-40, 1e-45]], device=device, requires_grad=True)
    out = selm_core.selective_log_softmax(logits, torch.tensor([0], device=device))
    assert out.item() == pytest.approx(-math.log(3), rel=1e-7)
    out.backward(torch.full_like(out, 1e-39))
    assert logits.grad[0].tolist() == pytest.approx([2e-39 / 3, -1e-39 / 3, -1e-39 / 3], rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vocabulary_of_one_is_certain(dtype, device):
    """inputs.md, row 26."""
    logits = torch.randn(3, 1, device=device).to(dtype).requires_grad_()
    out = selm_core.selective_log_softmax(logits, torch.zeros(3, dtype=torch.int64, device=device))
    out.backward(torch.tensor([1.0, -2.0, 3.0], dtype=out.dtype, device=device))
    assert out.tolist() == [0.0, 0.0, 0.0]
    assert logits.grad.flatten().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_width_equals_padding_with_masked_tokens(dtype, device):
    """inputs.md, row 27: bit for bit, around the width of vector registers and of blocks."""
    for vocab in [*range(1, 67), 2047, 2048, 2049]:
        logits = torch.randn(3, vocab, device=device).to(dtype)
        index = torch.randint(vocab, (3,), device=device)
        padded = torch.nn.functional.pad(logits, (0, 130), value=-math.inf)
        results = []
        for x in (logits.requires_grad_(), padded.requires_grad_()):
            out = selm_core.selective_log_softmax(x, index)
            out.sum().backward()
            results.append((out.detach(), x.grad[:, :vocab]))
        assert_same_bits(results[0][0], results[1][0])
        assert_same_bits(results[0][1], results[1][1])


def test_three_dimensions_are_rows(device):
    logits = torch.randn(2, 5, 7, device=device)
    index = torch.randint(7, (2, 5), device=device)
    flat = selm_core.selective_log_softmax(logits.flatten(0, 1), index.flatten())
    assert_same_bits(selm_core.selective_log_softmax(logits, index), flat.view(2, 5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_a_grid_has_blocks(dtype, device):
    """inputs.md, row 29."""
    logits = torch.randn(70_000, 3, device=device).to(dtype)
    index = torch.randint(3, (70_000,), device=device)
    assert_promises(logits, index)


def test_offsets_beyond_two_to_the_31(device):
    """inputs.md, row 28. Ignored rows are not read: most of this memory is never touched."""
    vocab = 151_936
    rows = 2**31 // vocab + 2
    logits = torch.empty(rows, vocab, dtype=torch.bfloat16, device=device)
    logits[-1] = torch.randn(vocab, device=device)
    index = torch.full((rows,), -100, device=device)
    index[-1] = vocab - 1
    out = selm_core.selective_log_softmax(logits, index)
    exact = exact_logps(logits[-1:], index[-1:])
    assert_within(out[-1:], exact, logp_bound(exact, torch.bfloat16))
    assert out[:-1].count_nonzero() == 0


@pytest.mark.slow
def test_gradient_offsets_beyond_two_to_the_31(device):
    vocab = 151_936
    rows = 2**31 // vocab + 2
    logits = torch.empty(rows, vocab, dtype=torch.bfloat16, device=device)
    logits[-1] = torch.randn(vocab, device=device)
    index = torch.full((rows,), -100, device=device)
    index[-1] = vocab - 1
    selm_core.selective_log_softmax(logits.requires_grad_(), index).sum().backward()
    upstream = torch.ones(1, device=device)
    exact = exact_gradient(logits[-1:], index[-1:], upstream)
    assert_within(logits.grad[-1:], exact, gradient_bound(exact, torch.bfloat16, upstream))
    assert logits.grad[:-1].count_nonzero() == 0
