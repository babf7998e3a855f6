"""Sequence log-probabilities: sums of token log-probabilities, shifted inside, without a copy."""

import math

import pytest
import selm_core
import torch
from memory import allocations
from references import DTYPES, assert_same_bits, exact_logps, result_dtype


def example(dtype, device, batch=3, time=9, vocab=40):
    logits = 3 * torch.randn(batch, time, vocab, device=device)
    labels = torch.randint(vocab, (batch, time), device=device)
    labels[0, :4] = -100
    return logits.to(dtype), labels


def token_values(logits, labels):
    """The operator's own token log-probabilities, shifted by hand."""
    return selm_core.selective_log_softmax(logits[:, :-1], labels[:, 1:])


@pytest.mark.parametrize("time", [2, 9, 3000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_rounding_of_the_sum(dtype, time, device):
    """1 ulp of the exact sum of the same token values (docs/numerics.md)."""
    logits, labels = example(dtype, device, time=time)
    sums = selm_core.sequence_logps(logits, labels)
    averages = selm_core.sequence_logps(logits, labels, average_log_prob=True)
    assert sums.dtype == result_dtype(dtype)
    for b, tokens in enumerate(token_values(logits, labels).tolist()):
        exact = math.fsum(tokens)
        count = labels[b, 1:].ne(-100).sum().item()
        for got, value in ((sums[b], exact), (averages[b], exact / max(count, 1))):
            nearest = torch.tensor(value, dtype=sums.dtype)
            ulp = (torch.nextafter(nearest, nearest - 1) - nearest).abs().item()
            assert abs(got.item() - nearest.item()) <= ulp


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient(dtype, average, device):
    """That of the token operator, bit for bit, and zero in the last position."""
    logits, labels = example(dtype, device)
    leaf, tokens_leaf = (logits.clone().requires_grad_() for _ in range(2))
    upstream = torch.tensor([0.5, -2.0, 3.0], dtype=result_dtype(dtype), device=device)
    out = selm_core.sequence_logps(leaf, labels, average_log_prob=average)
    out.backward(upstream)
    per_token = upstream / labels[:, 1:].ne(-100).sum(1) if average else upstream
    tokens = token_values(tokens_leaf, labels)
    tokens.backward(per_token.unsqueeze(1).expand_as(tokens))
    assert_same_bits(leaf.grad[:, :-1], tokens_leaf.grad[:, :-1])
    assert leaf.grad[:, -1].count_nonzero() == 0


@pytest.mark.parametrize("average", [False, True])
def test_against_float64(average, device):
    logits, labels = example(torch.float32, device, vocab=1000)
    exact = exact_logps(logits[:, :-1], labels[:, 1:].clamp(min=0))
    scored = labels[:, 1:] != -100
    exact = (exact * scored).sum(1) / (scored.sum(1) if average else 1)
    got = selm_core.sequence_logps(logits, labels, average_log_prob=average)
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("average", [False, True])
def test_rows_38_and_39_everything_ignored_is_zero(average, device):
    logits, labels = example(torch.float32, device)
    labels[1] = -100
    logits[1] = math.nan
    leaf = logits.requires_grad_()
    out = selm_core.sequence_logps(leaf, labels, average_log_prob=average)
    out.sum().backward()
    assert out[1] == 0
    assert leaf.grad[1].count_nonzero() == 0
    assert out.isfinite().all()
    assert leaf.grad.isfinite().all()
    nothing = selm_core.sequence_logps(
        leaf, torch.full_like(labels, -100), average_log_prob=average
    )
    assert nothing.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("batch", "time"), [(0, 5), (0, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("average", [False, True])
def test_rows_23_and_24_nothing_to_score(average, batch, time, device):
    logits = torch.randn(batch, time, 7, device=device, requires_grad=True)
    labels = torch.zeros(batch, time, dtype=torch.int64, device=device)
    out = selm_core.sequence_logps(logits, labels, average_log_prob=average)
    assert out.tolist() == [0.0] * batch
    out.sum().backward()
    assert logits.grad.shape == logits.shape
    assert logits.grad.count_nonzero() == 0


def test_the_first_label_and_the_last_logits_do_not_count(device):
    logits, labels = example(torch.float32, device)
    expected = selm_core.sequence_logps(logits, labels)
    logits[:, -1] = math.nan
    labels[:, 0] = 2**40
    assert_same_bits(selm_core.sequence_logps(logits, labels), expected)


def test_row_36_the_pad_token_as_ignore_index(device):
    logits, labels = example(torch.float32, device)
    padded = labels.masked_fill(labels == -100, 39)
    labels = labels.masked_fill(labels == 39, -100)
    assert_same_bits(
        selm_core.sequence_logps(logits, padded, ignore_index=39),
        selm_core.sequence_logps(logits, labels),
    )


def test_row_40_an_error_says_where_the_caller_finds_the_label():
    logits, labels = example(torch.float32, "cpu")
    labels[2, 6] = 40
    with pytest.raises(IndexError) as raised:
        selm_core.sequence_logps(logits, labels)
    assert str(raised.value) == (
        "selm::sequence_logps: expected 'labels' to hold -100 (ignored) or a token id below the "
        "vocabulary size 40, got 40 at [2, 6]"
    )


@pytest.mark.parametrize(("shifted", "hint"), [("labels", "labels"), ("logits", "logits")])
def test_row_7_shifted_twice(shifted, hint):
    logits, labels = example(torch.float32, "cpu")
    inputs = {"logits": logits, "labels": labels}
    inputs[shifted] = inputs[shifted][:, 1:]
    with pytest.raises(ValueError, match=f"are the {hint} already shifted"):
        selm_core.sequence_logps(**inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_shift_copies_no_logits(dtype):
    logits, labels = example(dtype, "cpu", batch=4, time=33, vocab=5000)
    one_copy = logits.numel() * logits.element_size()
    leaf = logits.requires_grad_()
    assert sum(allocations(lambda: selm_core.sequence_logps(leaf, labels))) < one_copy / 20
    out = selm_core.sequence_logps(leaf, labels)
    backward = allocations(lambda: torch.autograd.grad(out.sum(), leaf))
    assert one_copy <= sum(backward) < 1.1 * one_copy  # the gradient itself
