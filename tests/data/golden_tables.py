"""The options and inputs of the golden tables of preference losses, and their rows."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import count, product

from golden_losses import (
    LENGTHS_READ,
    PAIR_LOSSES,
    ExplorationOptions,
    LossOptions,
    UnpairedOptions,
    exploration_term,
    logratio,
    real,
    real_options,
    unpaired_loss,
)
from golden_numbers import (
    DIGITS,
    Approach,
    Function,
    Inputs,
    Row,
    derivative,
    float32,
    named,
    outputs,
    text,
)
from mpmath import mp, mpf

LOGPS = (
    "policy_chosen",
    "policy_rejected",
    "policy_response",
    "ref_chosen",
    "ref_rejected",
    "ref_response",
)

# The rows take turns with EXPLORATION_OPTIONS, so a new loss belongs at the end: before others it would
# change theirs.
PAIR_OPTIONS = [
    *(LossOptions("sigmoid", beta) for beta in (0.1, 0.01, 1.0, 5.0)),
    *(LossOptions("sigmoid", beta, e) for beta, e in ((0.1, 0.1), (1.0, 0.3), (0.5, 0.5))),
    *(LossOptions("hinge", beta) for beta in (0.1, 0.01, 2.0)),
    *(LossOptions("ipo", beta) for beta in (0.1, 0.01, 5.0)),
    *(LossOptions("exo_pair", beta, e) for beta, e in ((0.1, 1e-3), (1.0, 0.1), (0.5, 0.4999))),
    LossOptions("exo_pair", 0.1, 1e-12),
    *(LossOptions("nca_pair", beta) for beta in (0.1, 1.0)),
    *(LossOptions("robust", beta, e) for beta, e in ((0.1, 0.0), (0.1, 0.1), (1.0, 0.4999))),
    *(LossOptions("bco_pair", beta) for beta in (0.1, 2.0)),
    *(LossOptions("sppo_hard", beta) for beta in (0.1, 0.01)),
    *(LossOptions("apo_zero", beta) for beta in (0.1, 1.0)),
    *(LossOptions("apo_down", beta) for beta in (0.1, 1.0)),
    LossOptions("discopop", 0.1),
    *(LossOptions("discopop", 1.0, discopop_tau=tau) for tau in (0.05, 0.5, 1.0, 3.0)),
    *(LossOptions("sigmoid_norm", beta) for beta in (0.1, 5.0)),
    LossOptions("dpop", 0.1),
    *(LossOptions("dpop", 1.0, dpop_lambda=value) for value in (0.0, 2.5)),
    *(LossOptions("r_dpo", 0.1, length_margin=value) for value in (0.01, 0.0, -0.25)),
    LossOptions("nll", 0.1),
    LossOptions("sft", 0.1),
]

F_DIVERGENCES = [
    ("forward_kl", None),
    ("js_divergence", None),
    ("alpha_divergence", None),
    ("alpha_divergence", 2.0),
]
MORE_ALPHAS = (-1.0, 0.0, 0.999999, 1.0, 1.0 + 2.0**-40, 3.5)

LINKED_OPTIONS = [
    replace(loss, f_divergence_type=name, f_alpha_divergence_coef=alpha)
    for loss, (name, alpha) in [
        *product(
            [
                LossOptions("sigmoid", 0.5),
                LossOptions("hinge", 0.4),
                LossOptions("ipo", 0.1),
                LossOptions("exo_pair", 0.5, 1e-3),
                LossOptions("robust", 1.0, 0.1),
                LossOptions("discopop", 0.5),
                LossOptions("sigmoid_norm", 1.0),
                LossOptions("r_dpo", 0.5, length_margin=0.01),
            ],
            F_DIVERGENCES,
        ),
        *product([LossOptions("sigmoid", 0.5)], [("alpha_divergence", a) for a in MORE_ALPHAS]),
        (LossOptions("sigmoid", 0.5, 0.1), ("js_divergence", None)),
    ]
]

# The first belongs to the documented example.
EXPLORATION_OPTIONS = [
    ExplorationOptions("selm", 1e-3),
    ExplorationOptions("selm", 0.0),
    ExplorationOptions("xpo", 1e-4),
    ExplorationOptions("selm", -0.01),
    ExplorationOptions("popo", 0.5),
    ExplorationOptions("xpo", 0.0),
    ExplorationOptions("selm", 3.0),
    ExplorationOptions("selm", 1e-3, 0.7),
    ExplorationOptions("xpo", 1e-4, 12.5),
    ExplorationOptions("popo", -2.0, 30.25),
    ExplorationOptions("popo", 1.0),
]

LENGTHS = [(8, 10), (1, 1), (300, 17), (1, 2048)]

DOCUMENTED_EXAMPLE = (-10.0, -12.0, -9.0, -11.0, -11.5, -9.5)


# ---------------------------------------------------------------------------------------------
# Inputs: log-probabilities in the order of LOGPS. Most are float32 numbers, so that one table
# serves both types.


def logp_inputs() -> Iterator[tuple[float, ...]]:
    yield DOCUMENTED_EXAMPLE
    yield (0.0,) * 6
    yield (-55.5,) * 6
    yield (-20.0, -30.0, -40.0, -20.0, -30.0, -40.0)
    yield (0.00048828125, 0.0, 0.0, -1.0, -2.0, -3.0)
    yield tuple(-(2.0 ** -(10 * i + 3)) for i in range(6))
    yield from margin_inputs(100000.0)
    yield from random_inputs()
    yield from infinite_inputs()


def linked_inputs() -> Iterator[tuple[float, ...]]:
    """Fewer, and no log-ratio whose exponential's exponential is beyond mpmath's patience."""
    yield DOCUMENTED_EXAMPLE
    yield (-55.5,) * 6
    yield tuple(-(2.0 ** -(10 * i + 3)) for i in range(6))
    yield from margin_inputs(745.0)
    yield (-730.0, -780.0, -1.0, -1.0, -2.0, -1.0)
    yield (-1.0, -2.0, -1.0, -730.0, -780.0, -1.0)
    yield from list(random_inputs())[:8]
    yield from (logps for logps in infinite_inputs() if math.isfinite(logps[2] + logps[5]))


def margin_inputs(largest: float) -> Iterator[tuple[float, ...]]:
    """Log-ratio differences of both signs."""
    for margin in (0.001, 1.0, 37.0, 104.0, 745.0, 10000.0, 100000.0):
        if margin <= largest:
            far = float32(-5.0 - margin)
            yield (-5.0, -7.0, far, far, -7.0, -5.0)
            yield (far, -7.0, -5.0, -5.0, -7.0, far)


def random_inputs() -> Iterator[tuple[float, ...]]:
    generator = random.Random(20240529)
    for spread in (0.01, 3.0, 60.0):
        for rounding in (float32, float32, float32, float):
            ref = [generator.uniform(-900.0, -1.0) for _ in range(3)]
            policy = [min(0.0, value + generator.gauss(0.0, spread)) for value in ref]
            yield tuple(rounding(value) for value in policy + ref)


def infinite_inputs() -> Iterator[tuple[float, ...]]:
    for infinite in ([0], [1], [2], [3], [4], [5], [0, 3], [0, 1], [0, 4], [1, 2], [2, 5], [3, 4]):
        yield tuple(
            -math.inf if i in infinite else value for i, value in enumerate(DOCUMENTED_EXAMPLE)
        )


# ---------------------------------------------------------------------------------------------
# Rows


def columns(options: object, left_out: Collection[str] = ()) -> Row:
    """Options that are not given are empty."""
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    return {name: "" if value is None else str(value) for name, value in given.items()}


def with_lengths(options: LossOptions, lengths: tuple[int, int]) -> LossOptions:
    """The lengths that the loss reads, and no others."""
    by_response = dict(zip(("chosen", "rejected"), lengths, strict=True))
    read = LENGTHS_READ.get(options.loss_type, ())
    return replace(options, **{f"{response}_length": by_response[response] for response in read})


# exp(-760) is 0 in float64: so many digits beside a number of size 1 are enough.
EXPONENT = 760


def digits_for(x: Inputs, options: LossOptions) -> int:
    """Enough for every exponential in the loss and its derivative, beside numbers of size 1."""
    if options.f_divergence_type == "reverse_kl":
        scale, most = mpf(options.beta), EXPONENT
    elif any(map(mp.isinf, x.values())):
        return DIGITS + 750
    else:
        scale, most = abs(link_power(options)) + mpf(options.beta), 2 * EXPONENT
    return DIGITS + int(min(scale * largest_margin(x), most) / mp.log(10))


def largest_margin(x: Inputs) -> mpf:
    """The sum of the log-ratios' sizes: both may add to the difference."""
    ratios = [logratio(x, response) for response in ("chosen", "rejected")]
    return mp.fsum(abs(ratio) for ratio in ratios if mp.isfinite(ratio))


def link_power(options: LossOptions) -> mpf:
    """The link is an exponential of so many times the log-ratio, or grows like one."""
    if options.f_divergence_type == "alpha_divergence":
        return real({}, options, "f_alpha_divergence_coef", 0.5) - 1
    return mpf(1)


def preference_rows(loss_type: str | None = None) -> Iterator[Row]:
    """Of every loss, or of one: computed is only what is asked for."""
    for options, exploration, x in preference_cases():
        if loss_type in (None, options.loss_type):
            yield preference_row(options, exploration, x)


def preference_cases() -> Iterator[tuple[LossOptions, ExplorationOptions, Inputs]]:
    turn = count()
    for options in PAIR_OPTIONS:
        for i, logps in enumerate(logp_inputs()):
            x = {name: mpf(value) for name, value in zip(LOGPS, logps, strict=True)}
            if options.loss_type == "dpop" and logratio(x, "chosen") == 0:
                continue  # the kink
            # With equal lengths, infinities at equal speeds cancel in an average over tokens too.
            lengths = (10, 10) if -math.inf in logps else LENGTHS[i % len(LENGTHS)]
            exploration = EXPLORATION_OPTIONS[next(turn) % len(EXPLORATION_OPTIONS)]
            yield with_lengths(options, lengths), exploration, x
    for options in LINKED_OPTIONS:
        for i, logps in enumerate(linked_inputs()):
            x = {name: mpf(value) for name, value in zip(LOGPS, logps, strict=True)}
            lengths = (1, 1) if -math.inf in logps else LENGTHS[i % len(LENGTHS)]
            without = ExplorationOptions("selm", 0.0)
            yield with_lengths(options, lengths), without, x


def preference_row(options: LossOptions, exploration: ExplorationOptions, x: Inputs) -> Row:
    def dpo(x: Inputs) -> mpf:
        return PAIR_LOSSES[options.loss_type](x, options)

    def term(x: Inputs) -> mpf:
        return exploration_term(x, exploration, options.beta)

    pair = {name: value for name, value in x.items() if "response" not in name}
    pair, everything = pair | real_options(options), x | real_options(options)
    response = {name: value for name, value in x.items() if "response" in name}
    approach = approach_for(options)
    row = columns(options, ["simpo_gamma"]) | columns(exploration)
    row |= {name: text(x[name]) for name in LOGPS}
    with mp.workdps(digits_for(x, options)), named(options):
        row |= outputs({"loss": lambda x: dpo(x) + term(x)}, everything, approach)
        row |= outputs({"dpo_loss": dpo} | gradients(dpo), pair, approach)
        row |= outputs({"exploration_term": term}, response)
        row |= outputs({"d_response": derivative(term, "policy_response")}, response)
        return row | outputs(rewards(options, ("chosen", "rejected", "response")), x)


def approach_for(options: LossOptions) -> Approach:
    """For exponentials of exponentials the numbers stay small enough for mpmath."""
    if options.f_divergence_type == "reverse_kl":
        return Approach()
    stretch = 1 / (abs(link_power(options)) or mpf(1))
    return Approach(near=100 * stretch, far=400 * stretch, faster=2)


def gradients(loss: Function) -> dict[str, Function]:
    return {f"d_{name}": derivative(loss, f"policy_{name}") for name in ("chosen", "rejected")}


def rewards(options: LossOptions, responses: Iterable[str]) -> dict[str, Function]:
    """beta log pi / pi_ref; SimPO and ORPO define theirs per token."""

    def reward(response: str) -> Function:
        averaged = options.loss_type in ("simpo", "orpo")
        length = getattr(options, f"{response}_length") if averaged else 1
        return lambda x: mpf(options.beta) * logratio(x, response) / length

    return {f"{name}_reward": reward(name) for name in responses}


# ---------------------------------------------------------------------------------------------
# Losses without a reference, and of single responses

POLICY_OPTIONS = [
    *(LossOptions("sigmoid", beta, e) for beta, e in ((0.1, 0.0), (1.0, 0.0), (0.5, 0.2))),
    *(LossOptions("hinge", beta) for beta in (0.1, 2.0)),
    *(LossOptions("ipo", beta) for beta in (0.1, 5.0)),
    *(LossOptions("simpo", beta, simpo_gamma=gamma) for beta, gamma in ((0.1, 0.5), (2.5, 1.6))),
    *(LossOptions("simpo", 2.0, e, simpo_gamma=-20.0) for e in (0.0, 0.1, 0.5)),
    *(LossOptions("orpo", beta) for beta in (0.1, 3.0)),
]

# Options of losses with a reference.
NOT_OF_POLICY = (
    *("f_divergence_type", "f_alpha_divergence_coef", "discopop_tau", "dpop_lambda"),
    "length_margin",
)


def policy_inputs() -> Iterator[tuple[float, float]]:
    yield from ((-10.0, -12.0), (-55.5, -55.5), (-3.0, -0.001), (-1e-6, -1e-9), (-1e-9, -1e-6))
    for size in (1.0, 37.0, 104.0, 745.0, 10000.0, 100000.0):
        yield from ((-5.0, -5.0 - size), (-5.0 - size, -5.0))
    generator = random.Random(2403)
    for rounding in (*[float32] * 6, float, float):
        yield tuple(rounding(generator.uniform(-900.0, -1.0)) for _ in range(2))
    yield from ((-math.inf, -12.0), (-10.0, -math.inf), (-math.inf, -math.inf))


def policy_rows(loss_type: str | None = None) -> Iterator[Row]:
    for options in POLICY_OPTIONS:
        if loss_type not in (None, options.loss_type):
            continue
        for i, logps in enumerate(policy_inputs()):
            x = dict(zip(("policy_chosen", "policy_rejected"), map(mpf, logps), strict=True))
            lengths = (10, 10) if -math.inf in logps else LENGTHS[i % len(LENGTHS)]
            yield policy_row(with_lengths(options, lengths), x)


def policy_row(options: LossOptions, x: Inputs) -> Row:
    def loss(x: Inputs) -> mpf:
        return PAIR_LOSSES[options.loss_type](x, options)

    with mp.workdps(digits_for(x, options)), named(options):
        row = columns(options, NOT_OF_POLICY) | {name: text(value) for name, value in x.items()}
        row |= outputs({"loss": loss} | gradients(loss), x | real_options(options))
        return row | outputs(rewards(options, ("chosen", "rejected")), x)


UNPAIRED_OPTIONS = [
    UnpairedOptions(loss_type, beta, *weights, desirable)
    for loss_type, beta, weights in (
        ("kto", 0.1, (1.0, 1.0)),
        ("kto", 2.0, (1.33, 0.25)),
        ("apo_zero_unpaired", 0.1, (1.0, 1.0)),
        ("apo_zero_unpaired", 1.0, (0.5, 3.0)),
    )
    for desirable in (True, False)
]

BASELINES = (0.0, 0.75, 31.0, 1e-3, 800.0)


def unpaired_inputs() -> Iterator[tuple[float, float]]:
    for i in (0, 2, 4, 5):
        yield from ((logps[i % 3], logps[i % 3 + 3]) for logps in list(logp_inputs())[:6])
    for logps in margin_inputs(100000.0):
        yield from ((logps[0], logps[3]), (logps[1], logps[4]))
    yield from ((logps[0], logps[3]) for logps in random_inputs())
    yield from ((-math.inf, -1.0), (-1.0, -math.inf), (-math.inf, -math.inf))


def unpaired_rows(loss_type: str | None = None) -> Iterator[Row]:
    for options in UNPAIRED_OPTIONS:
        if loss_type not in (None, options.loss_type):
            continue
        for i, (policy, ref) in enumerate(unpaired_inputs()):
            x = {"policy": mpf(policy), "ref": mpf(ref)}
            if options.loss_type == "kto":
                x["kl"] = mpf(float32(BASELINES[i % len(BASELINES)]))
            yield unpaired_row(options, x)


def unpaired_row(options: UnpairedOptions, x: Inputs) -> Row:
    def loss(x: Inputs) -> mpf:
        return unpaired_loss(x, options)

    given = {name: text(x[name]) if name in x else "" for name in ("kl", "policy", "ref")}
    with mp.workdps(DIGITS + 330), named(options):
        of_loss = outputs({"loss": loss, "d_policy": derivative(loss, "policy")}, x)
    reward = {"reward": lambda x: mpf(options.beta) * (x["policy"] - x["ref"])}
    return columns(options) | given | of_loss | outputs(reward, x)
