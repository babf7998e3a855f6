"""Writes the golden tables of this folder: exact values, computed by mpmath with 50 digits.

Formulas are written here from the papers that they cite, and only values are: every derivative is
a numerical one of the value, at 50 digits. So nothing is shared with the code under test. An input
of -inf stands for a limit; where different ways to that limit disagree the table says nan.

Beside each output stands its `_scale`: the sum over the inputs x of |x * d output / d x|, which is
the output times its condition number. An algorithm that rounds each step errs by a few
u * max(|output|, scale).

    python tests/data/make_golden.py
"""

from __future__ import annotations

import csv
import math
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpmath import mp, mpf

DIGITS = 50

Inputs = Mapping[str, mpf]
Function = Callable[[Inputs], mpf]
Row = dict[str, str]


# ---------------------------------------------------------------------------------------------
# Formulas


@dataclass(frozen=True)
class Options:
    loss_type: str
    beta: float
    label_smoothing: float
    chosen_length: int
    rejected_length: int
    exploration: str
    alpha: float


def logratio(x: Inputs, response: str) -> mpf:
    return x[f"policy_{response}"] - x[f"ref_{response}"]


def sigmoid_loss(x: Inputs, options: Options) -> mpf:
    """DPO, arXiv 2305.18290, eq. 7; label smoothing as in E. Mitchell's note on cDPO, eq. 3."""
    margin = mpf(options.beta) * (logratio(x, "chosen") - logratio(x, "rejected"))
    e = mpf(options.label_smoothing)
    kept = mp.log1p(mp.exp(-margin))
    return kept if e == 0 else (1 - e) * kept + e * mp.log1p(mp.exp(margin))


def hinge_loss(x: Inputs, options: Options) -> mpf:
    """SLiC-HF, arXiv 2305.10425, eq. 1, with the margin of the implicit rewards and delta = 1."""
    margin = mpf(options.beta) * (logratio(x, "chosen") - logratio(x, "rejected"))
    return max(mpf(0), 1 - margin)


def ipo_loss(x: Inputs, options: Options) -> mpf:
    """IPO, arXiv 2310.12036, eq. 17, with log-ratios averaged over tokens."""
    chosen = logratio(x, "chosen") / options.chosen_length
    rejected = logratio(x, "rejected") / options.rejected_length
    return (chosen - rejected - 1 / (2 * mpf(options.beta))) ** 2


LOSSES = {"sigmoid": sigmoid_loss, "hinge": hinge_loss, "ipo": ipo_loss}


def exploration_term(x: Inputs, options: Options) -> mpf:
    """selm: arXiv 2405.19332, eq. 4.2, less a constant. xpo: arXiv 2405.21046, algorithm 1."""
    alpha = mpf(options.alpha)
    if alpha == 0:
        return mpf(0)
    if options.exploration == "selm":
        return alpha * mpf(options.beta) * logratio(x, "response")
    return alpha * x["policy_response"]


KL_ESTIMATORS: dict[str, Function] = {
    "k1": lambda x: x["policy"] - x["ref"],
    "k2": lambda x: (x["policy"] - x["ref"]) ** 2 / 2,
    "k3": lambda x: mp.exp(x["ref"] - x["policy"]) - 1 - (x["ref"] - x["policy"]),
}


# ---------------------------------------------------------------------------------------------
# Derivatives, condition numbers and limits


def derivative(f: Function, name: str) -> Function:
    return lambda x: mp.diff(lambda value: f({**x, name: value}), x[name])


def value_and_scale(f: Function, x: Inputs) -> tuple[mpf, mpf]:
    infinite = [name for name in x if mp.isinf(x[name])]
    if infinite:
        limit = limit_at(f, x, infinite)
        return limit, abs(limit)
    return f(x), mp.fsum(abs(x[name] * derivative(f, name)(x)) for name in x)


def limit_at(f: Function, x: Inputs, infinite: list[str]) -> mpf:
    """The limit as the infinite inputs go to -inf; nan if it depends on their relative speed."""
    different = range(1, len(infinite) + 1)
    equal = [1] * len(infinite)
    limits = {
        limit_along(f, x, dict(zip(infinite, order, strict=True)))
        for order in (different, different[::-1], equal)
    }
    return limits.pop() if len(limits) == 1 else mp.nan


def limit_along(f: Function, x: Inputs, speeds: Mapping[str, int]) -> mpf:
    near, far = (
        f({**x, **{name: -time * speed for name, speed in speeds.items()}})
        for time in (mpf(10) ** 8, mpf(10) ** 16)
    )
    if abs(far) > 1000 * (1 + abs(near)):
        return mp.sign(far) * mp.inf
    assert abs(far - near) <= mpf(10) ** -20, "neither convergent nor divergent"
    return mpf(float(far))


def text(value: mpf | float) -> str:
    return repr(float(value))


def outputs(functions: Mapping[str, Function], x: Inputs) -> Row:
    row: Row = {}
    for name, f in functions.items():
        value, scale = value_and_scale(f, x)
        row[name] = text(value)
        row[f"{name}_scale"] = f"{float(scale):.3g}"
    return row


# ---------------------------------------------------------------------------------------------
# Inputs. Most are float32 numbers, so that one table serves both types.


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


LOGPS = (
    "policy_chosen",
    "policy_rejected",
    "policy_response",
    "ref_chosen",
    "ref_rejected",
    "ref_response",
)

# loss type, beta, label smoothing
LOSS_OPTIONS = [
    ("sigmoid", 0.1, 0.0),
    ("sigmoid", 0.01, 0.0),
    ("sigmoid", 1.0, 0.0),
    ("sigmoid", 5.0, 0.0),
    ("sigmoid", 0.1, 0.1),
    ("sigmoid", 1.0, 0.3),
    ("sigmoid", 0.5, 0.5),
    ("hinge", 0.1, 0.0),
    ("hinge", 0.01, 0.0),
    ("hinge", 2.0, 0.0),
    ("ipo", 0.1, 0.0),
    ("ipo", 0.01, 0.0),
    ("ipo", 5.0, 0.0),
]

# The first belongs to the documented example.
EXPLORATION_OPTIONS = [
    ("selm", 1e-3),
    ("selm", 0.0),
    ("xpo", 1e-4),
    ("selm", -0.01),
    ("xpo", 0.0),
    ("selm", 3.0),
]

LENGTHS = [(8, 10), (1, 1), (300, 17), (1, 2048)]

DOCUMENTED_EXAMPLE = (-10.0, -12.0, -9.0, -11.0, -11.5, -9.5)


def logp_inputs() -> Iterator[tuple[float, ...]]:
    """Log-probabilities in the order of LOGPS."""
    yield DOCUMENTED_EXAMPLE
    yield (0.0,) * 6
    yield (-55.5,) * 6
    yield (-20.0, -30.0, -40.0, -20.0, -30.0, -40.0)
    yield (0.00048828125, 0.0, 0.0, -1.0, -2.0, -3.0)
    yield from margin_inputs()
    yield from random_inputs()
    yield from infinite_inputs()


def margin_inputs() -> Iterator[tuple[float, ...]]:
    """Log-ratio differences from 0.001 to 10^5, of both signs."""
    for margin in (0.001, 1.0, 37.0, 104.0, 745.0, 10000.0, 100000.0):
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
# Tables


def preference_rows() -> Iterator[Row]:
    for loss_type, beta, label_smoothing in LOSS_OPTIONS:
        for i, logps in enumerate(logp_inputs()):
            # With equal lengths, infinities at equal speeds cancel in an average over tokens too.
            lengths = (10, 10) if -math.inf in logps else LENGTHS[i % len(LENGTHS)]
            exploration = EXPLORATION_OPTIONS[i % len(EXPLORATION_OPTIONS)]
            yield preference_row(
                Options(loss_type, beta, label_smoothing, *lengths, *exploration), logps
            )


def preference_row(options: Options, logps: tuple[float, ...]) -> Row:
    x = {name: mpf(value) for name, value in zip(LOGPS, logps, strict=True)}

    def dpo(x: Inputs) -> mpf:
        return LOSSES[options.loss_type](x, options)

    def exploration(x: Inputs) -> mpf:
        return exploration_term(x, options)

    def reward(response: str) -> Function:
        return lambda x: mpf(options.beta) * logratio(x, response)

    functions: dict[str, Function] = {
        "loss": lambda x: dpo(x) + exploration(x),
        "dpo_loss": dpo,
        "exploration_term": exploration,
        "chosen_reward": reward("chosen"),
        "rejected_reward": reward("rejected"),
        "response_reward": reward("response"),
        "d_chosen": derivative(dpo, "policy_chosen"),
        "d_rejected": derivative(dpo, "policy_rejected"),
        "d_response": derivative(exploration, "policy_response"),
    }
    given = {name: str(value) for name, value in vars(options).items()}
    return given | {name: text(value) for name, value in x.items()} | outputs(functions, x)


KL_LOGRATIOS = (0.0, 2.0**-30, 1e-6, 1e-3, 0.1, 0.49, 0.51, 1.0, 8.0, 30.0, 80.0, 700.0)


def kl_rows() -> Iterator[Row]:
    for kind, estimator in KL_ESTIMATORS.items():
        for size in map(float32, KL_LOGRATIOS):
            for policy, ref in (0.0, -size), (-size, 0.0), (-13.5 - size, -13.5):
                x = {"policy": mpf(policy), "ref": mpf(ref)}
                functions = {"estimate": estimator, "d_policy": derivative(estimator, "policy")}
                given = {"kind": kind, "policy": text(policy), "ref": text(ref)}
                yield given | outputs(functions, x)


def scalar_rows() -> Iterator[Row]:
    """Scalar functions in their textbook form, with digits enough for it."""
    functions: dict[str, Callable[[mpf], mpf]] = {
        "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
        "log_sigmoid": lambda x: mp.log(1 / (1 + mp.exp(-x))),
        "log1mexp": lambda x: mp.log(1 - mp.exp(x)),
    }
    sizes = (2.0**-60, 1e-9, 1e-3, 0.25, 0.69, 0.7, 1.0, 5.0, 17.5, 36.5, 88.0, 104.0, 708.0, 745.0)
    with mp.workdps(800):
        for name, f in functions.items():
            for size in sizes:
                for x in (-size,) if name == "log1mexp" else (-size, size):
                    value, slope = f(mpf(x)), mp.diff(f, mpf(x))
                    yield {"function": name, "x": text(x), "value": text(value)} | {
                        "value_scale": f"{float(abs(x * slope)):.3g}",
                        "derivative": text(slope),
                    }


def partition_rows() -> Iterator[Row]:
    """log Z(x) and the policy of given rewards: arXiv 2305.18290, eq. 4."""
    generator = random.Random(4)
    for beta in (0.01, 0.1, 1.0, 20.0):
        for size in (1, 2, 7):
            ref = [float32(generator.uniform(-30.0, 0.0)) for _ in range(size)]
            rewards = [float32(generator.gauss(0.0, 2.0)) for _ in range(size)]
            weights = [mpf(p) + mpf(r) / mpf(beta) for p, r in zip(ref, rewards, strict=True)]
            log_partition = mp.log(mp.fsum(mp.exp(w) for w in weights))
            yield {
                "beta": str(beta),
                "ref_logps": " ".join(map(text, ref)),
                "rewards": " ".join(map(text, rewards)),
                "log_partition": text(log_partition),
                "policy_logps": " ".join(text(w - log_partition) for w in weights),
            }


def token_rows() -> Iterator[Row]:
    """log softmax(logits / temperature)[target] and its gradient with respect to the logits."""
    generator = random.Random(5)
    masked = -math.inf
    cases: list[list[float]] = [
        [2.5],
        [0.0, 0.0],
        [1.0, 2.0, 3.0, 4.0],
        [30.0, 0.0, -1.0, 2.0],
        [90.0, 0.0, -1.0, 2.0],
        [0.0, 200.0, 100.0],
        [10001.0, 10000.5, 10002.25, 9999.0],
        [1.5, masked, 0.25, masked],
        [masked, 3.0, masked, masked],
        [3e38, -3e38, 2.9e38],
        [65504.0, -65504.0, 65500.0],
        [1e-40, -1e-40, 1e-45],
        [generator.gauss(0.0, 4.0) for _ in range(9)],
    ]
    for temperature in (1.0, 0.7, 2.0):
        for logits in cases:
            rounded = [float32(value) for value in logits]
            for target in range(min(len(rounded), 3)):
                yield token_row(rounded, target, temperature)


def token_row(logits: list[float], target: int, temperature: float) -> Row:
    t = mpf(temperature)
    top = max(logits)
    weights = [mp.exp((mpf(value) - mpf(top)) / t) for value in logits]
    total = mp.fsum(weights)
    beside_top = mp.fsum(weight for i, weight in enumerate(weights) if i != logits.index(top))
    others = mp.fsum(weight for i, weight in enumerate(weights) if i != target)
    grad = [(others if i == target else -weight) / total / t for i, weight in enumerate(weights)]
    return {
        "temperature": str(temperature),
        "target": str(target),
        "logits": " ".join(map(text, logits)),
        "logp": text((mpf(logits[target]) - mpf(top)) / t - mp.log1p(beside_top)),
        "grad": " ".join(map(text, grad)),
    }


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "preference.csv": preference_rows,
    "scalar.csv": scalar_rows,
    "kl.csv": kl_rows,
    "partition.csv": partition_rows,
    "token_logps.csv": token_rows,
}


def write_tables(folder: Path) -> None:
    for name, make_rows in TABLES.items():
        with mp.workdps(DIGITS):
            rows = list(make_rows())
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    write_tables(Path(__file__).parent)
