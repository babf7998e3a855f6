"""The preference losses, written from the papers that they cite. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from golden_numbers import Inputs
from mpmath import mp, mpf


@dataclass(frozen=True)
class LossOptions:
    """None: not given. The last two only say which lengths the caller passes."""

    loss_type: str
    beta: float
    label_smoothing: float = 0.0
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float | None = None
    discopop_tau: float | None = None
    dpop_lambda: float | None = None
    length_margin: float | None = None
    simpo_gamma: float | None = None
    chosen_length: int | None = None
    rejected_length: int | None = None


Loss = Callable[[Inputs, LossOptions], mpf]


REAL_OPTIONS = (
    *("beta", "label_smoothing", "f_alpha_divergence_coef", "discopop_tau", "dpop_lambda"),
    *("length_margin", "simpo_gamma"),
)


def real_options(options: LossOptions) -> dict[str, mpf]:
    """The options that are numbers and not 0: inputs of the loss as the log-probabilities are."""
    values = {name: getattr(options, name) for name in REAL_OPTIONS}
    return {name: mpf(value) for name, value in values.items() if value}


def real(x: Inputs, options: LossOptions, name: str, default: float = 0.0) -> mpf:
    """An option's value in `x`, which may be varied, or as it is given."""
    value = getattr(options, name)
    return x.get(name, mpf(default if value is None else value))


def sigma(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def minus_log_sigma(x: mpf) -> mpf:
    return mp.log1p(mp.exp(-x))


def logratio(x: Inputs, response: str) -> mpf:
    """Of the policy alone where there is no reference."""
    return x[f"policy_{response}"] - x.get(f"ref_{response}", mpf(0))


def score(x: Inputs, response: str, options: LossOptions) -> mpf:
    """f'(t) at t = pi / pi_ref for the f of table 1 in f-DPO, arXiv 2309.16240, up to constants.

    Each constant is that of f'(1) = 0. The alpha divergence as TRL parametrises it.
    """
    rho = logratio(x, response)
    if options.f_divergence_type == "forward_kl":
        return 1 - 1 / mp.exp(rho)
    if options.f_divergence_type == "js_divergence":
        return mp.log(2 * mp.exp(rho) / (mp.exp(rho) + 1))
    if options.f_divergence_type == "alpha_divergence":
        power = real(x, options, "f_alpha_divergence_coef", 0.5) - 1
        return rho if power == 0 else (mp.exp(rho) ** power - 1) / power
    return rho


def margin(x: Inputs, options: LossOptions) -> mpf:
    return real(x, options, "beta") * (score(x, "chosen", options) - score(x, "rejected", options))


def average_difference(x: Inputs, options: LossOptions) -> mpf:
    return (
        score(x, "chosen", options) / options.chosen_length
        - score(x, "rejected", options) / options.rejected_length
    )


def rewards(x: Inputs, options: LossOptions) -> tuple[mpf, mpf]:
    return tuple(
        real(x, options, "beta") * logratio(x, response) for response in ("chosen", "rejected")
    )


def smoothed(m: mpf, x: Inputs, options: LossOptions) -> mpf:
    """DPO's loss of a margin; label smoothing as in E. Mitchell's note on cDPO, eq. 3."""
    e = real(x, options, "label_smoothing")
    kept = minus_log_sigma(m)
    return kept if e == 0 else (1 - e) * kept + e * minus_log_sigma(-m)


def sigmoid(x: Inputs, options: LossOptions) -> mpf:
    """DPO, arXiv 2305.18290, eq. 7."""
    return smoothed(margin(x, options), x, options)


def hinge(x: Inputs, options: LossOptions) -> mpf:
    """SLiC-HF, arXiv 2305.10425, eq. 1, with the margin of the implicit rewards and delta = 1."""
    return max(mpf(0), 1 - margin(x, options))


def ipo(x: Inputs, options: LossOptions) -> mpf:
    """IPO, arXiv 2310.12036, eq. 17, with log-ratios averaged over tokens."""
    return (average_difference(x, options) - 1 / (2 * real(x, options, "beta"))) ** 2


def exo_pair(x: Inputs, options: LossOptions) -> mpf:
    """EXO, arXiv 2402.00856, eq. 16: the sum over both responses of q log(q / p)."""
    m, e = margin(x, options), real(x, options, "label_smoothing")
    return sum(sigma(z) * (-minus_log_sigma(z) - mp.log(p)) for z, p in ((m, 1 - e), (-m, e)))


def nca_pair(x: Inputs, options: LossOptions) -> mpf:
    """NCA, arXiv 2402.05369, for two responses and a preference that is certain."""
    chosen, rejected = rewards(x, options)
    both = minus_log_sigma(-chosen) + minus_log_sigma(-rejected)
    return minus_log_sigma(chosen) + both / 2


def robust(x: Inputs, options: LossOptions) -> mpf:
    """rDPO, arXiv 2403.00409."""
    m, e = margin(x, options), real(x, options, "label_smoothing")
    return ((1 - e) * minus_log_sigma(m) - e * minus_log_sigma(-m)) / (1 - 2 * e)


def bco_pair(x: Inputs, options: LossOptions) -> mpf:
    """BCO, arXiv 2404.04656, with the reward shift 0."""
    chosen, rejected = rewards(x, options)
    return minus_log_sigma(chosen) + minus_log_sigma(-rejected)


def sppo_hard(x: Inputs, options: LossOptions) -> mpf:
    """SPPO, arXiv 2405.00675, eq. 4.7: (rho - eta (P - 1/2))^2 with eta = 1 / beta, P = 1 or 0."""
    eta = 1 / real(x, options, "beta")
    return sum(
        (logratio(x, response) - eta * (p - mpf(1) / 2)) ** 2
        for response, p in (("chosen", 1), ("rejected", 0))
    )


def apo_zero(x: Inputs, options: LossOptions) -> mpf:
    """APO, arXiv 2408.06266, eq. 7."""
    chosen, rejected = rewards(x, options)
    return 1 - sigma(chosen) + sigma(rejected)


def apo_down(x: Inputs, options: LossOptions) -> mpf:
    """APO, arXiv 2408.06266, eq. 8."""
    chosen, rejected = rewards(x, options)
    return sigma(chosen) + 1 - sigma(chosen - rejected)


def discopop(x: Inputs, options: LossOptions) -> mpf:
    """DiscoPOP's log-ratio modulated loss, arXiv 2406.08414, eq. 5."""
    m = margin(x, options)
    modulation = sigma(m / real(x, options, "discopop_tau", 0.05))
    return (1 - modulation) * minus_log_sigma(m) + modulation * mp.exp(-m)


def sigmoid_norm(x: Inputs, options: LossOptions) -> mpf:
    """DPO with every log-ratio divided by its response's length."""
    return minus_log_sigma(real(x, options, "beta") * average_difference(x, options))


def dpop(x: Inputs, options: LossOptions) -> mpf:
    """DPO-positive, arXiv 2402.13228: DPO's difference less lambda max(0, log pi_ref / pi)."""
    penalty = real(x, options, "dpop_lambda", 50) * max(mpf(0), -logratio(x, "chosen"))
    difference = logratio(x, "chosen") - logratio(x, "rejected")
    return minus_log_sigma(real(x, options, "beta") * (difference - penalty))


def r_dpo(x: Inputs, options: LossOptions) -> mpf:
    """R-DPO, arXiv 2403.19159, whose alpha is length_margin."""
    lengths = options.chosen_length - options.rejected_length
    return minus_log_sigma(margin(x, options) + real(x, options, "length_margin") * lengths)


def nll(x: Inputs, options: LossOptions) -> mpf:
    """RPO, arXiv 2404.19733, eq. 1, its second term."""
    return -x["policy_chosen"] / options.chosen_length


def simpo(x: Inputs, options: LossOptions) -> mpf:
    """SimPO, arXiv 2405.14734, eq. 6."""
    target = real(x, options, "simpo_gamma")
    return smoothed(real(x, options, "beta") * average_difference(x, options) - target, x, options)


def orpo(x: Inputs, options: LossOptions) -> mpf:
    """ORPO, arXiv 2403.07691, eq. 7, with the odds of eq. 4 and the weight lambda = beta."""

    def log_odds(response: str, length: int) -> mpf:
        p = mp.exp(x[f"policy_{response}"] / length)
        return mp.log(p / (1 - p))

    chosen = log_odds("chosen", options.chosen_length)
    rejected = log_odds("rejected", options.rejected_length)
    return real(x, options, "beta") * minus_log_sigma(chosen - rejected)


PAIR_LOSSES: dict[str, Loss] = {
    f.__name__: f
    for f in (
        *(sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, apo_zero),
        *(apo_down, discopop, sigmoid_norm, dpop, r_dpo, nll, simpo, orpo),
    )
} | {"sft": nll}  # of a batch of one pair

# The responses whose length a loss reads. Of no other is one given.
LENGTHS_READ = {
    **dict.fromkeys(("ipo", "sigmoid_norm", "r_dpo", "simpo", "orpo"), ("chosen", "rejected")),
    **dict.fromkeys(("nll", "sft"), ("chosen",)),
}


@dataclass(frozen=True)
class ExplorationOptions:
    exploration: str
    alpha: float
    logratio_clip: float | None = None


def exploration_term(x: Inputs, options: ExplorationOptions, beta: float) -> mpf:
    """selm: arXiv 2405.19332, eq. 4.2, less a constant. xpo: arXiv 2405.21046, algorithm 1.

    popo: arXiv 2502.00666, algorithm 1, less a constant and over beta.
    """
    alpha = mpf(options.alpha)
    if alpha == 0:
        return mpf(0)
    rho = logratio(x, "response")
    if options.logratio_clip is not None:
        rho = max(-mpf(options.logratio_clip), min(rho, mpf(options.logratio_clip)))
    return {
        "selm": lambda: alpha * mpf(beta) * rho,
        "xpo": lambda: alpha * (x["ref_response"] + rho),
        "popo": lambda: alpha * (sigma(mpf(beta) * rho) - mpf(1) / 2) / mpf(beta),
    }[options.exploration]()


@dataclass(frozen=True)
class UnpairedOptions:
    loss_type: str
    beta: float
    desirable_weight: float
    undesirable_weight: float
    desirable: bool


def unpaired_loss(x: Inputs, options: UnpairedOptions) -> mpf:
    """KTO, arXiv 2402.01306, eq. 8: lambda - v. APO-zero, arXiv 2408.06266, eq. 7, one summand."""
    beta = mpf(options.beta)
    reward = beta * (x["policy"] - x["ref"])
    if options.loss_type == "apo_zero_unpaired":
        value = 1 - sigma(reward) if options.desirable else sigma(reward)
    else:
        baseline = beta * x["kl"]
        away = reward - baseline if options.desirable else baseline - reward
        value = 1 - sigma(away)
    weight = options.desirable_weight if options.desirable else options.undesirable_weight
    return mpf(weight) * value
