"""inputs.md: tensors of the wrong shape, dtype, layout or device, on every route."""

import warnings

import pytest
import torch
from calls import ROUTES
from refusals import TRIPLE, assert_refused, bad, floats, labels, logps

FLOATS = "to be float32, float64, float16 or bfloat16"
INTS = "to be int64 or int32"
SHIFTED = "already shifted? This operator shifts"
DEQUANTIZE = ": a quantized head must be dequantized first"
HALF = (
    ": log-probabilities of whole sequences lose up to a nat in half precision; "
    "sum and pass them in float32"
)
NOT_FLOATS = (torch.int32, torch.complex64, torch.float8_e4m3fn, torch.bool)
NOT_LABELS = (torch.int8, torch.uint8, torch.bool, torch.float32, torch.int16)

each_route = pytest.mark.parametrize("route", ROUTES)
CASE = ("name", "argument", "value", "error", "expected", "got")


def shape(row, name, argument, value, expected="", hint=""):
    got = f"{list(value.shape)} ({str(value.dtype)[6:]}, cpu){hint}"
    return bad(row, name, argument, value, ValueError, got, expected)


def dtype(row, name, argument, value, expected, hint=""):
    return bad(row, name, argument, value, TypeError, f"{str(value.dtype)[6:]}{hint}", expected)


def logits_shapes():
    for name, rows in (("selective_log_softmax", "index"), ("sequence_logps", "labels")):
        of_logits = " for [2, 4, 11] (float32, cpu)"
        yield shape(4, name, "logits", floats(5), "to have shape (")
        yield shape(4, name, "logits", floats(2, 3, 4, 11), "to have shape (")
        yield shape(5, name, rows, labels(8), "to have ", of_logits)
        yield shape(6, name, rows, labels(3, 4), "to have ", of_logits)
        yield shape(15, name, "logits", torch.tensor(1.0))
        yield shape(25, name, "logits", floats(2, 4, 0), "to have a vocabulary")
    yield shape(4, "sequence_logps", "logits", floats(4, 11), "to have shape (batch, time, vocab)")
    yield shape(
        7, "sequence_logps", "labels", labels(2, 3), hint=f"{of_logits}: are the labels {SHIFTED}"
    )
    yield shape(
        7, "sequence_logps", "labels", labels(2, 5), hint=f"{of_logits}: are the logits {SHIFTED}"
    )


def head_shapes():
    name, of_hidden = "linear_logps-plain", " for [2, 4, 5] (float32, cpu)"
    two_or_three = "to have shape (rows, hidden) or (batch, time, hidden)"
    as_hidden = "to have the shape of 'hidden' without its last dimension"
    head = "to have shape (vocab, hidden)"
    empty_hint = ": weight is empty, gather it first (ZeRO-3/FSDP)"
    yield shape(4, name, "hidden", floats(5), two_or_three)
    yield shape(5, name, "labels", labels(8), as_hidden, of_hidden)
    yield shape(6, name, "labels", labels(2, 3), as_hidden, of_hidden)
    yield shape(15, name, "hidden", torch.tensor(1.0), two_or_three)
    yield shape(15, name, "weight", torch.tensor(1.0), head)
    yield shape(74, name, "weight", floats(11, 6), f"{head} with hidden = 5")
    yield shape(74, name, "weight", floats(11, 5, 1), head)
    yield shape(75, name, "weight", floats(5, 11), head, ": is it transposed?")
    for empty in (floats(0), floats(0, 5), floats(11, 0)):
        yield shape(76, name, "weight", empty, "to hold the whole head", empty_hint)
    for bias in (floats(10), floats(11, 1), torch.tensor(1.0)):
        yield shape(79, name, "bias", bias, "to have shape [11]")


def loss_shapes():
    first, like = "policy_chosen_logps", "to have shape [6] (same as 'policy_chosen_logps')"
    reduce = ": reduce per-token log-probabilities to one value per sequence first"
    yield shape(15, "dpo_loss", first, torch.tensor(-1.0), "to have shape (batch,)")
    yield shape(58, "dpo_loss", first, logps(6, 1), "to have shape (batch,)", reduce)
    yield shape(59, "dpo_loss", first, logps(6, 9), "to have shape (batch,)", reduce)
    for argument in TRIPLE[1:]:
        yield shape(57, "selm_loss", argument, logps(5), like)
        yield shape(58, "selm_loss", argument, logps(6, 1), like)
        yield shape(58, "selm_loss", argument, logps(1), like)
    for argument in ("chosen_lengths", "rejected_lengths"):
        yield shape(57, "dpo_loss-ipo", argument, labels(5) + 1, like)
    for name in ("implicit_rewards", "kl_estimate", "exploration_bonus"):
        yield shape(57, name, "ref_logps", logps(1), "to have shape [")


def logits_dtypes():
    rows = (("selective_log_softmax", "index"), ("sequence_logps", "labels"))
    for name, argument in (*rows, ("linear_logps-plain", "labels")):
        for kind in NOT_LABELS:
            yield dtype(9, name, argument, labels(2, 4, dtype=kind), INTS)
    for kind in NOT_FLOATS:
        for name, _ in rows:
            yield dtype(12, name, "logits", floats(2, 4, 11, dtype=kind), FLOATS)
        name = "linear_logps-plain"
        yield dtype(12, name, "hidden", floats(2, 4, 5, dtype=kind), FLOATS)
        yield dtype(77, name, "weight", floats(11, 5, dtype=kind), FLOATS, DEQUANTIZE)
        yield dtype(79, name, "bias", floats(11, dtype=kind), FLOATS)
    cast = ": cast one of them, or use autocast, which casts both"
    like_hidden, like_weight = (f"to be float32 (same as '{x}')" for x in ("hidden", "weight"))
    packed_4bit = labels(28, 1, dtype=torch.uint8)
    yield dtype(77, name, "weight", packed_4bit, FLOATS, DEQUANTIZE)
    yield dtype(80, name, "weight", floats(11, 5, dtype=torch.bfloat16), like_hidden, cast)
    yield dtype(80, name, "bias", floats(11, dtype=torch.float64), like_weight)


def loss_dtypes():
    wide, like = "to be float32 or float64", "to be float32 (same as 'policy_chosen_logps')"
    for argument in TRIPLE:
        for kind in (torch.float16, torch.bfloat16):
            yield dtype(60, "selm_loss", argument, logps(6, dtype=kind), wide, HALF)
    for argument in TRIPLE[1:]:
        yield dtype(61, "selm_loss", argument, logps(6, dtype=torch.float64), like)
    yield dtype(61, "dpo_loss", TRIPLE[0], labels(6), wide)
    for argument in ("chosen_lengths", "rejected_lengths"):
        for kind in (torch.int32, torch.float32, torch.bool):
            yield dtype(61, "dpo_loss-ipo", argument, torch.ones(6, dtype=kind), "to be int64")
    for name in ("implicit_rewards", "kl_estimate", "exploration_bonus"):
        for kind in (torch.float16, torch.bfloat16):
            yield dtype(60, name, "policy_logps", logps(6, dtype=kind), wide, HALF)
            yield dtype(60, name, "ref_logps", logps(6, dtype=kind), wide, HALF)
        like = "to be float32 (same as 'policy_logps')"
        yield dtype(61, name, "ref_logps", logps(6, dtype=torch.float64), like)


PLACES = [
    ("selective_log_softmax", "logits", floats(2, 4, 11)),
    ("selective_log_softmax", "index", labels(2, 4)),
    ("sequence_logps", "logits", floats(2, 4, 11)),
    ("sequence_logps", "labels", labels(2, 4)),
    ("linear_logps-plain", "hidden", floats(2, 4, 5)),
    ("linear_logps-plain", "weight", floats(11, 5)),
    ("linear_logps-plain", "bias", floats(11)),
    ("linear_logps-plain", "labels", labels(2, 4)),
    *(("selm_loss", argument, logps(6)) for argument in TRIPLE),
    ("dpo_loss-ipo", "chosen_lengths", labels(6) + 1),
    ("implicit_rewards", "policy_logps", logps(2, 3)),
    ("implicit_rewards", "ref_logps", logps(2, 3)),
    ("kl_estimate", "ref_logps", logps(6)),
]
FIRST = ("logits", "hidden", "policy_chosen_logps", "policy_logps")  # the others follow its device


def layout_cases():
    dense, error = "to be a dense tensor", NotImplementedError
    for name, argument, x in PLACES:
        yield bad(13, name, argument, x.to_sparse(), error, "layout Sparse", dense)
    logits = floats(2, 4, 11).to_mkldnn()
    yield bad(13, "selective_log_softmax", "logits", logits, error, "layout Mkldnn", dense)


def device_cases():
    for name, argument, x in PLACES:
        if argument not in FIRST:
            yield bad(17, name, argument, x.to("meta"), ValueError, "meta", "to be on cpu")


@each_route
@pytest.mark.parametrize(CASE, [*logits_shapes(), *head_shapes(), *loss_shapes()])
def test_wrong_shape(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
@pytest.mark.parametrize(CASE, [*logits_dtypes(), *loss_dtypes()])
def test_wrong_dtype(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
@pytest.mark.parametrize(CASE, list(layout_cases()))
def test_wrong_layout(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
@pytest.mark.parametrize(CASE, list(device_cases()))
def test_wrong_device(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
def test_rows_12_and_77_quantized_tensors(route):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor.*deprecated")
        logits, weight = (
            torch.quantize_per_tensor(floats(*shape), 0.1, 0, torch.qint8)
            for shape in ((2, 4, 11), (11, 5))
        )
    for name, argument, value, got in (
        ("selective_log_softmax", "logits", logits, "qint8"),
        ("linear_logps-plain", "weight", weight, f"qint8{DEQUANTIZE}"),
    ):
        assert_refused(route, name, argument, value, TypeError, FLOATS, got)


@each_route
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_row_13_nested_tensors(route, layout):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nested tensors is in prototype stage")
        nested = torch.nested.nested_tensor([floats(4, 11), floats(4, 11)], layout=layout)
    got = f"layout {'Strided' if layout == torch.strided else 'Jagged'} (nested)"
    expected = "to be a dense tensor"
    assert_refused(
        route, "selective_log_softmax", "logits", nested, NotImplementedError, expected, got
    )
