"""inputs.md: bad values, options out of range or out of place, wrong Python types."""

import math

import numpy as np
import pytest
import selm_core
import torch
from calls import BUILDERS, OPERATORS, ROUTES, arguments, operator, results
from references import assert_same_bits
from refusals import TRIPLE, assert_refused, bad, labels, logps

inf, nan = math.inf, math.nan
POLICIES = ("the reference policy", "the baseline")
FIXED = "the reference policy is fixed; compute it under torch.no_grad() or detach it"

each_route = pytest.mark.parametrize("route", ROUTES)
CASE = ("name", "argument", "value", "error", "expected", "got")


def at(value, index, x):
    """A copy of x with one value replaced."""
    copy = x.clone()
    copy[index] = value
    return copy


def value(row, name, argument, value, got, expected):
    return bad(row, name, argument, value, ValueError, got, expected)


def value_cases():
    negative = "to hold log-probabilities <= 0"
    for argument in TRIPLE:
        yield value(62, "selm_loss", argument, at(0.01, 4, logps(6)), "0.01 at [4]", negative)
        yield value(62, "selm_loss", argument, at(inf, 0, logps(6)), "inf at [0]", negative)
    for name, shape in (("implicit_rewards", (2, 3)), ("kl_estimate", 6), ("exploration_bonus", 6)):
        for argument in ("policy_logps", "ref_logps"):
            x = at(0.5, 1, logps(6)).view(shape)
            yield value(62, name, argument, x, "0.5 at [1]", negative)
    for argument in ("chosen_lengths", "rejected_lengths"):
        for length in (0, -3):
            x = at(length, 2, labels(6) + 1)
            yield value(62, "dpo_loss-ipo", argument, x, f"{length} at [2]", "to hold lengths >= 1")
    leaf, got = logps(6).requires_grad_(), f"a tensor that does: {FIXED}"
    for argument in ("ref_chosen_logps", "ref_rejected_logps", "ref_response_logps"):
        yield value(65, "selm_loss", argument, leaf, got, "not to require grad")
    baseline = torch.tensor(0.4, requires_grad=True)
    yield value(65, "kto_loss", "kl", baseline, got.replace(*POLICIES), "not to require grad")
    for name in ("kl_estimate", "exploration_bonus"):
        yield value(65, name, "ref_logps", leaf, got, "not to require grad")


def number(row, name, argument, given, expected, got=None):
    return bad(
        row, name, argument, given, ValueError, f"{given:g}" if got is None else got, expected
    )


def loss_numbers():
    for name in ("dpo_loss", "selm_loss", "implicit_rewards", "exploration_bonus"):
        for beta in (0.0, -1.0, nan, inf):
            yield number(67, name, "beta", beta, "to be a finite number > 0")
        large = "to be large enough that 1 / (2 beta) is finite"
        yield number(68, name, "beta", 1e-310, large, "1e-310")
    for smoothing in (-0.1, 0.51, nan, 1.0):
        expected = "to be in [0, 0.5] for loss_type 'sigmoid'"
        yield number(69, "dpo_loss", "label_smoothing", smoothing, expected)
    for loss in ("hinge", "ipo"):
        expected = f"to be 0: loss_type '{loss}' does not define label smoothing"
        yield number(69, f"dpo_loss-{loss}", "label_smoothing", 0.1, expected)
    for name in ("selm_loss", "exploration_bonus"):
        for alpha in (nan, inf, -inf):
            yield number(70, name, "alpha", alpha, "to be a finite number")


def logits_numbers():
    positive, name = "to be a finite number > 0", "linear_logps-plain"
    for bad_value in (0.0, -1.0, nan, inf):
        yield number(82, name, "softcap", bad_value, positive)
        yield number(83, name, "temperature", bad_value, positive)
        yield number(83, name, "logit_scale", bad_value, positive)
        yield number(83, "selective_log_softmax", "temperature", bad_value, positive)
    within = "within the range of float32"
    for temperature, factor in ((1e-45, "1e+45"), (1e300, "1e-300")):
        got = f"{temperature}, which makes it {factor}"
        expected = f"to keep 1 / temperature {within}"
        yield number(83, "selective_log_softmax", "temperature", temperature, expected, got)
        expected = f"to keep logit_scale / temperature {within}"
        yield number(83, name, "temperature", temperature, expected, got)
    for softcap, factor in ((1e-46, "1e+46"), (1e39, "1e-39")):
        expected = f"to keep logit_scale / softcap {within}"
        got = f"{softcap}, which makes it {factor}"
        yield number(82, name, "softcap", softcap, expected, got)
    for workspace in (0, -1, 43):
        expected = "to hold at least one row of 11 logits (44 bytes)"
        yield number(81, name, "workspace_bytes", workspace, expected)


def names():
    kinds = "to be one of 'selm', 'xpo', 'popo'"
    yield value(
        71, "dpo_loss", "loss_type", ["dpo"], "'dpo'", "to be one of 'sigmoid', 'hinge', 'ipo'"
    )
    yield value(71, "selm_loss", "exploration", "vpo", "'vpo'", kinds)
    yield value(71, "exploration_bonus", "kind", "", "''", kinds)
    yield value(71, "kl_estimate", "kind", "k4", "'k4'", "to be one of 'k1', 'k2', 'k3'")
    outputs = "to be one of 'entropy', 'log_sum_sq_probs', 'mean_logits', 'is_top1'"
    yield value(71, "linear_logps", "outputs", ["entropy", "top5"], "'top5'", outputs)


def use_cases():
    """Options where they are not read, and missing where they are."""
    for argument in ("chosen_lengths", "rejected_lengths"):
        unused = "to be left out: loss_type 'sigmoid' does not use it"
        yield value(71, "dpo_loss", argument, labels(6) + 1, "a value", unused)
        yield value(71, "dpo_loss-ipo", argument, None, "none", "to be given for loss_type 'ipo'")
    for argument, given in (("beta", 0.1), ("ref_logps", logps(6))):
        unused = "to be left out: kind 'xpo' does not use it"
        yield value(71, "exploration_bonus-xpo", argument, given, "a value", unused)
        yield value(71, "exploration_bonus", argument, None, "none", "to be given for kind 'selm'")


@each_route
@pytest.mark.parametrize(CASE, list(value_cases()))
def test_bad_values(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
@pytest.mark.parametrize(CASE, [*loss_numbers(), *logits_numbers(), *names()])
def test_options_out_of_range(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
@pytest.mark.parametrize(CASE, list(use_cases()))
def test_options_out_of_place(route, name, argument, value, error, expected, got):
    assert_refused(route, name, argument, value, error, expected, got)


@each_route
@pytest.mark.parametrize("loss_type", [["sft"], ["nll", "sft"]])
def test_row_71_a_link_that_no_loss_uses(route, loss_type):
    """Beside a loss that uses it, it is accepted."""
    call, given = operator("dpo_loss-f", route), arguments("dpo_loss-f")
    given["chosen_lengths"] = labels(6) + 1
    with pytest.raises(
        ValueError, match=r"'f_divergence_type' to be 'reverse_kl'.* does not use it"
    ):
        call(**given | {"loss_type": loss_type})
    call(**given | {"loss_type": [*loss_type, "sigmoid"]})


@each_route
@pytest.mark.parametrize("argument", ["policy_response_logps", "ref_response_logps"])
def test_row_2_half_a_response(route, argument):
    """Also with alpha = 0, where both may be left out."""
    needed = "to be given for alpha 0.2"
    assert_refused(route, "selm_loss", argument, None, ValueError, needed, "none")
    value, needed = logps(6), "to be given for the response's reward"
    other = next(name for name in TRIPLE[4:] if name != argument)
    with pytest.raises(
        ValueError, match=f"^selm::selm_loss: expected '{other}' {needed}, got none$"
    ):
        operator("selm_loss", route)(**arguments("selm_loss-dpo") | {argument: value})


def test_row_62_room_for_rounding():
    given = arguments("selm_loss")
    for key in TRIPLE:
        given[key] = at(5e-4, 0, given[key])
    assert results("selm_loss", given)[0].isfinite().all()


def test_rows_63_and_64_infinite_log_probabilities_stay_in_their_row():
    given = arguments("selm_loss")
    clean = results("selm_loss", given)
    given["policy_rejected_logps"] = at(-inf, 1, given["policy_rejected_logps"])
    for key in ("policy_chosen_logps", "ref_chosen_logps"):
        given[key] = at(-inf, 3, given[key])
    given["ref_response_logps"] = at(nan, 4, given["ref_response_logps"])
    out = results("selm_loss", given)
    assert out[0].isnan().tolist() == [False, False, False, True, True, False]
    assert out[0].isfinite()[1]
    for got, expected in zip(out, clean, strict=True):
        assert_same_bits(got[[0, 2, 5]], expected[[0, 2, 5]])


def test_row_66_the_reference_may_be_the_same_tensor():
    x = logps(4)
    out = selm_core.dpo_loss(x, x, x, x)
    torch.testing.assert_close(out.losses, torch.full((4,), math.log(2)))


def test_row_68_a_tiny_beta_is_fine_where_it_is_representable():
    given = arguments("dpo_loss-ipo", torch.float64) | {"beta": 1e-8}
    assert results("dpo_loss-ipo", given)[0].isfinite().all()


def test_row_70_negative_alpha_is_pessimism():
    given = arguments("selm_loss")
    optimism, pessimism = (
        results("selm_loss", given | {"alpha": alpha})[2] for alpha in (0.2, -0.2)
    )
    assert_same_bits(optimism, -pessimism)


NOT_TENSORS = [None, [1.0, 2.0], np.ones(6, dtype=np.float32), 1.0, "x"]
REQUIRED = [
    (name, argument)
    for name in (
        "selm_loss",
        "selective_log_softmax",
        "sequence_logps",
        "linear_logps",
        "kl_estimate",
    )
    for argument, value in arguments(name).items()
    if isinstance(value, torch.Tensor)
    and argument not in ("bias", "ref_logps", "policy_response_logps", "ref_response_logps")
]
OPTIONAL = [
    ("linear_logps", "bias"),
    ("dpo_loss-ipo", "chosen_lengths"),
    ("dpo_loss-ipo", "rejected_lengths"),
    ("selm_loss", "policy_response_logps"),
    ("selm_loss", "ref_response_logps"),
    ("exploration_bonus", "ref_logps"),
]


@pytest.mark.parametrize(("name", "argument"), REQUIRED)
@pytest.mark.parametrize("value", NOT_TENSORS, ids=lambda x: type(x).__name__)
def test_rows_1_and_3_not_a_tensor(name, argument, value):
    got = type(value).__name__
    assert_refused("selm_core", name, argument, value, TypeError, "to be a Tensor", got)


@pytest.mark.parametrize(("name", "argument"), OPTIONAL)
@pytest.mark.parametrize("value", NOT_TENSORS[1:], ids=lambda x: type(x).__name__)
def test_row_3_not_an_optional_tensor(name, argument, value):
    got = type(value).__name__
    assert_refused("selm_core", name, argument, value, TypeError, "to be a Tensor", got)


REWARD_MISTAKES = {
    "list": (torch.zeros(3), [0.0], TypeError, "'rejected_rewards' to be a Tensor, got list"),
    "half": (
        torch.zeros(3).half(),
        torch.zeros(3).half(),
        TypeError,
        "'chosen_rewards' to be float32 or float64, got float16",
    ),
    "integers": (
        torch.zeros(3).long(),
        torch.zeros(3).long(),
        TypeError,
        "'chosen_rewards' to be float32 or float64, got int64",
    ),
    "mixed": (
        torch.zeros(3),
        torch.zeros(3).double(),
        TypeError,
        "'rejected_rewards' to be float32 (same as 'chosen_rewards'), got float64",
    ),
    "device": (
        torch.zeros(3),
        torch.zeros(3, device="meta"),
        ValueError,
        "'rejected_rewards' to be on cpu (same as 'chosen_rewards'), got meta",
    ),
    "column": (
        torch.zeros(3),
        torch.zeros(3, 1),
        ValueError,
        "'rejected_rewards' to have shape [3] (same as 'chosen_rewards'), got [3, 1] (float32, cpu)",
    ),
}


@pytest.mark.parametrize("name", ["reward_margins", "reward_accuracies"])
@pytest.mark.parametrize("mistake", REWARD_MISTAKES)
def test_functions_of_rewards(mistake, name):
    chosen, rejected, error, message = REWARD_MISTAKES[mistake]
    with pytest.raises(error) as raised:
        getattr(selm_core, name)(chosen, rejected)
    assert str(raised.value) == f"selm::{name}: expected {message}"


NUMBERS = [
    ("dpo_loss", "beta"),
    ("dpo_loss", "label_smoothing"),
    ("selm_loss", "alpha"),
    ("selm_loss", "beta"),
    ("selective_log_softmax", "temperature"),
    ("linear_logps", "temperature"),
    ("linear_logps", "logit_scale"),
    ("linear_logps", "softcap"),
    ("implicit_rewards", "beta"),
    ("exploration_bonus", "alpha"),
    ("exploration_bonus", "beta"),
]
INTEGERS = [
    ("selective_log_softmax", "ignore_index"),
    ("sequence_logps", "ignore_index"),
    ("linear_logps", "ignore_index"),
    ("linear_logps", "workspace_bytes"),
]
STRINGS = [
    ("dpo_loss", "loss_type"),
    ("selm_loss", "loss_type"),
    ("selm_loss", "exploration"),
    ("exploration_bonus", "kind"),
    ("kl_estimate", "kind"),
]


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
@pytest.mark.parametrize("value", [True, "0.1", torch.tensor(0.1), 1j, [0.1]], ids=repr)
def test_row_72_not_a_number(name, argument, value):
    got = type(value).__name__
    assert_refused("selm_core", name, argument, value, TypeError, "to be a number", got)


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_row_72_numbers_of_numpy_and_integers(name, argument):
    given = arguments(name)
    for value in (np.float64(0.25), np.float32(0.25)):
        for a, b in zip(
            results(name, given | {argument: value}),
            results(name, given | {argument: 0.25}),
            strict=True,
        ):
            assert_same_bits(a, b)
    if argument != "label_smoothing":
        for a, b in zip(
            results(name, given | {argument: 1}),
            results(name, given | {argument: 1.0}),
            strict=True,
        ):
            assert_same_bits(a, b)


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_a_number_beyond_all_floats(name, argument):
    value = 10**400
    expected = "to be a finite number"
    assert_refused("selm_core", name, argument, value, ValueError, expected, str(value))


@pytest.mark.parametrize(("name", "argument"), INTEGERS)
@pytest.mark.parametrize("value", [True, 3.0, "3", torch.tensor(3), np.float64(3)], ids=repr)
def test_row_72_not_an_integer(name, argument, value):
    got = type(value).__name__
    assert_refused("selm_core", name, argument, value, TypeError, "to be an integer", got)


@pytest.mark.parametrize(("name", "argument"), INTEGERS)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_row_106_an_integer_beyond_64_bits(name, argument, value):
    assert_refused("selm_core", name, argument, value, ValueError, "to fit 64 bits", str(value))


@pytest.mark.parametrize(("name", "argument"), STRINGS)
@pytest.mark.parametrize("value", [None, 3, b"sigmoid"], ids=repr)
def test_row_72_not_a_string(name, argument, value):
    got = type(value).__name__
    expected = "to be a str" + (" or a sequence of str" if argument == "loss_type" else "")
    assert_refused("selm_core", name, argument, value, TypeError, expected, got)


@pytest.mark.parametrize("value", [0, 1, None, "yes"], ids=repr)
def test_row_72_not_a_bool(value):
    got = type(value).__name__
    argument = "average_log_prob"
    assert_refused("selm_core", "sequence_logps", argument, value, TypeError, "to be a bool", got)


@pytest.mark.parametrize("value", ["entropy", None, 3], ids=repr)
def test_outputs_that_are_no_sequence(value):
    got = type(value).__name__
    expected = "to be a sequence of str"
    assert_refused("selm_core", "linear_logps", "outputs", value, TypeError, expected, got)


@pytest.mark.parametrize("value", [("entropy",), {"entropy"}, iter(["entropy"])], ids=repr)
def test_outputs_in_any_iterable(value):
    out = selm_core.linear_logps(**arguments("linear_logps") | {"outputs": value})
    assert out.entropy is not None
    assert out.is_top1 is None


@each_route
@pytest.mark.parametrize("name", BUILDERS)
def test_row_73_unknown_arguments(name, route):
    error = TypeError if route != "torch.ops.selm" else RuntimeError  # torch's own
    with pytest.raises(
        error, match=r"(?i)unexpected|unknown keyword|incompatible|expected at most"
    ):
        operator(name, route)(**arguments(name), gamma=1.0)


@pytest.mark.parametrize("name", OPERATORS)
def test_options_are_keywords(name):
    with pytest.raises(TypeError, match="positional argument"):
        operator(name)(*arguments(name).values(), *[None] * 9)
