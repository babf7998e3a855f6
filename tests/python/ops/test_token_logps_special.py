"""Infinities, NaN, ignored rows and labels, as inputs.md has them."""

import math

import pytest
import selm_core
import torch
from references import DTYPES, assert_same_bits, exact_gradient, exact_logps

inf, nan = math.inf, math.nan


def evaluate(logits, index, **options):
    """Values, and the gradient for a different upstream gradient in each row."""
    leaf = logits.clone().requires_grad_()
    out = selm_core.selective_log_softmax(leaf, index, **options)
    upstream = torch.linspace(0.5, 2.0, out.numel(), dtype=out.dtype, device=out.device)
    out.backward(upstream.view_as(out))
    return out.detach(), leaf.grad


def bad_row(what, vocab, dtype, device):
    """A row that has no distribution; the target of every row is 1."""
    row = torch.randn(vocab, device=device).to(dtype)
    if what == "all -inf":
        row[:] = -inf
    elif what == "NaN":
        row[vocab - 1] = nan
    elif what == "NaN target":
        row[1] = nan
    elif what == "+inf":
        row[vocab - 1] = inf
    elif what == "+inf target":
        row[1] = inf
    elif what == "NaN among -inf":
        row[:] = -inf
        row[vocab - 1] = nan
    return row


BAD_ROWS = ["all -inf", "NaN", "NaN target", "+inf", "+inf target", "NaN among -inf"]


@pytest.mark.parametrize("vocab", [3, 40, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", BAD_ROWS)
def test_rows_44_to_46_a_row_without_a_distribution_is_nan_alone(what, dtype, vocab, device):
    logits = torch.randn(3, vocab, device=device).to(dtype)
    index = torch.ones(3, dtype=torch.int64, device=device)
    good, good_grad = evaluate(logits, index)
    logits[1] = bad_row(what, vocab, dtype, device)
    out, grad = evaluate(logits, index)
    assert out[1].isnan()
    assert grad[1].isnan().any()
    for row in (0, 2):
        assert_same_bits(out[row], good[row])
        assert_same_bits(grad[row], good_grad[row])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", BAD_ROWS)
def test_row_47_an_ignored_row_may_hold_anything(what, dtype, device):
    logits = torch.randn(3, 40, device=device).to(dtype)
    index = torch.ones(3, dtype=torch.int64, device=device)
    good, good_grad = evaluate(logits, index)
    logits[1] = bad_row(what, 40, dtype, device)
    index[1] = -100
    out, grad = evaluate(logits, index)
    assert out[1] == 0
    assert grad[1].tolist() == [0.0] * 40
    for row in (0, 2):
        assert_same_bits(out[row], good[row])
        assert_same_bits(grad[row], good_grad[row])


@pytest.mark.parametrize("upstream", [inf, nan])
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_35_the_gradient_of_an_ignored_row_is_zero_whatever_comes(dtype, upstream, device):
    """As after `logps.log()`, whose derivative is infinite at the zeros of ignored rows."""
    logits = torch.randn(2, 9, device=device).to(dtype).requires_grad_()
    out = selm_core.selective_log_softmax(logits, torch.tensor([-100, 3], device=device))
    out.backward(torch.tensor([upstream, 1.0], dtype=out.dtype, device=device))
    assert logits.grad[0].tolist() == [0.0] * 9
    assert logits.grad[1].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_42_an_impossible_target(dtype, device):
    logits = torch.randn(1, 40, device=device).to(dtype)
    logits[0, 5] = -inf
    index = torch.tensor([5], device=device)
    out, grad = evaluate(logits, index)
    assert out.item() == -inf
    exact = exact_gradient(logits, index, torch.full((1,), 0.5, device=device))
    assert grad.isfinite().all()
    torch.testing.assert_close(grad.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("masked", [[0], [39], [0, 1, 2, 38, 39], list(range(1, 40))])
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_43_masked_tokens(dtype, masked, device):
    """They count nothing: the same as leaving their columns out, with gradient 0."""
    logits = torch.randn(2, 40, device=device).to(dtype)
    target = next(v for v in range(40) if v not in masked)
    index = torch.full((2,), target, device=device)
    logits[:, masked] = -inf
    kept = [v for v in range(40) if v not in masked]
    out, grad = evaluate(logits, index)
    torch.testing.assert_close(
        out.double(), exact_logps(logits[:, kept], index * 0), atol=1e-6, rtol=0
    )
    assert grad[:, masked].count_nonzero() == 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("step", [-40.0, -2.0, 0.5, 2.0, 5.0, 40.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_that_rise_or_fall_along_the_row(dtype, step, device):
    """Blocks of a row may be summed up from the largest value of earlier ones."""
    vocab, stair = 20_000, 1_500
    logits = torch.randn(6, vocab, device=device)
    logits += step * torch.arange(vocab, device=device).div(stair, rounding_mode="floor")
    logits = logits.to(dtype)
    index = torch.tensor([0, 1_499, 1_500, 9_000, 15_000, vocab - 1], device=device)
    out, grad = evaluate(logits, index)
    exact = exact_logps(logits, index)
    assert ((out.double() - exact).abs() <= 2e-5 + 2.0**-22 * exact.abs().clamp(min=1)).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("target", [0, 9001, 9999])
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_43_masked_stretches_longer_than_a_block(dtype, target, device):
    """Where nothing but masked tokens is summed, and where NaN is all that is not masked."""
    logits = torch.randn(3, 10_001, device=device).to(dtype)
    finite = logits[:, target].clone()
    logits[:, :9000] = -inf
    logits[:, target] = finite
    index = torch.full((3,), target, device=device)
    out, grad = evaluate(logits, index)
    torch.testing.assert_close(out.double(), exact_logps(logits, index), atol=1e-6, rtol=0)
    masked = logits == -inf
    assert grad[masked].count_nonzero() == 0
    assert grad.isfinite().all()
    logits[1, 100] = nan
    spoilt, _ = evaluate(logits, index)
    assert spoilt.isnan().tolist() == [False, True, False]
    assert_same_bits(spoilt[[0, 2]], out[[0, 2]])


@pytest.mark.parametrize("ignore_index", [3, 0, 39, 40, 2**40, -1, -(2**40)])
def test_rows_36_and_37_any_ignore_index_is_honoured(ignore_index, device):
    logits = torch.randn(3, 40, device=device)
    index = torch.tensor([1, ignore_index, 2], device=device)
    out, grad = evaluate(logits, index, ignore_index=ignore_index)
    assert out[1] == 0
    assert grad[1].count_nonzero() == 0
    kept = [0, 2]
    torch.testing.assert_close(
        out[kept].double(), exact_logps(logits[kept], index[kept]), atol=1e-5, rtol=0
    )


def test_rows_38_and_39_everything_ignored(device):
    logits = torch.full((2, 3, 7), nan, device=device, requires_grad=True)
    index = torch.full((2, 3), -100, device=device)
    out = selm_core.selective_log_softmax(logits, index)
    assert out.requires_grad
    out.sum().backward()
    assert out.count_nonzero() == 0
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (0, 0)])
def test_rows_23_and_24_nothing_to_score(shape, device):
    logits = torch.randn(*shape, 7, device=device, requires_grad=True)
    index = torch.zeros(shape, dtype=torch.int64, device=device)
    out = selm_core.selective_log_softmax(logits, index)
    assert out.shape == shape
    out.sum().backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("label", [-1, -2, 40, 41, 2**33])
def test_row_40_a_label_outside_the_vocabulary_on_the_cpu(label):
    logits = torch.randn(2, 3, 40)
    index = torch.zeros(2, 3, dtype=torch.int64)
    index[1, 2] = label
    with pytest.raises(IndexError) as raised:
        selm_core.selective_log_softmax(logits, index)
    assert str(raised.value) == (
        "selm::selective_log_softmax: expected 'index' to hold -100 (ignored) or a token id below "
        f"the vocabulary size 40, got {label} at [1, 2]"
    )
    with pytest.raises(IndexError, match=r"got -1 at \[2\]$"):
        selm_core.selective_log_softmax(logits[0], torch.tensor([0, 1, -1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("label", [-1, 40, 2**33])
def test_row_41_a_label_outside_the_vocabulary_on_a_gpu(label):
    logits = torch.randn(3, 40, device="cuda")
    index = torch.tensor([1, label, 2], device="cuda")
    out, grad = evaluate(logits, index)
    assert out.isnan().tolist() == [False, True, False]
    assert grad.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_8_int32_labels(dtype, device):
    logits = torch.randn(2, 5, 40, device=device).to(dtype)
    index = torch.randint(40, (2, 5), device=device)
    index[0, 3] = -100
    for narrow, wide in zip(evaluate(logits, index.int()), evaluate(logits, index), strict=True):
        assert_same_bits(narrow, wide)


def test_row_16_integer_arguments_get_no_gradient(device):
    logits = torch.randn(3, 7, device=device, requires_grad=True)
    index = torch.tensor([0, 1, 2], device=device)
    selm_core.selective_log_softmax(logits, index).sum().backward()
    assert index.grad is None
