"""The promises of docs/numerics.md, as the share of what is promised that an error takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import selm_core
import torch
from accuracy_errors import error, ulp
from accuracy_logps import (
    DIGITS,
    EAGER_FLOAT32,
    HEADS,
    Logits,
    Responses,
    confident_tokens,
    our_sums,
    sampled_tokens,
)
from accuracy_pairs import BETA, LOGPS, Exact, Pair
from mpmath import mp, mpf
from torch import Tensor


@dataclass(frozen=True)
class Promise:
    """`share`: the worst measured error over what is promised there."""

    text: str
    share: float

    @property
    def kept(self) -> bool:
        """NaN is not."""
        return self.share <= 1.0


def loss_share(exact: Exact, quantity: str, value: mpf, got: float, dtype: torch.dtype) -> float:
    """Of a loss or its gradient. The condition number is only asked for where it may matter."""
    off = error(got, value, dtype)
    if off is None:
        return math.inf
    off = abs(off) * ulp(value, dtype)
    units = 8 * mpf(2) ** -53
    if dtype == torch.float64:
        bound = units * abs(value) + mpf(2) ** -1064
        near = True
    else:
        bound = 2 * ulp(value, dtype)
        near = abs(value) < 1e-6
    if near and 2 * off > bound:
        bound = max(bound, units * exact.scale(quantity))
    return float(off / bound)


def reward_share(pairs: Sequence[Pair], dtype: torch.dtype) -> float:
    """One subtraction and one multiplication: no condition number is above 1 but the subtraction's."""
    with mp.workdps(DIGITS):
        return float(max(one_reward_share(pair.rounded(dtype), dtype) for pair in pairs))


def one_reward_share(pair: Pair, dtype: torch.dtype) -> mpf:
    batch = pair.tensors(dtype)
    got = selm_core.dpo_loss(*(batch[name] for name in LOGPS), beta=BETA).chosen_rewards
    policy, ref = mpf(pair.policy_chosen), mpf(pair.ref_chosen)
    value = mpf(BETA) * (policy - ref)
    scale = max(abs(value), mpf(BETA) * (abs(policy) + abs(ref)))
    units = 8 * mpf(2) ** -53 * scale if dtype == torch.float64 else 2 * ulp(value, dtype)
    return abs(mpf(got.item()) - value) / units


# ---------------------------------------------------------------------------------------------
# Log-probabilities

UNIT = 2.0**-24
LARGE_VOCABULARY = 262_145


def logp_promises(responses: Responses) -> list[Promise]:
    """`responses` in bfloat16."""
    kinds = (sampled_tokens, confident_tokens)
    cases = [
        make(8, LARGE_VOCABULARY, dtype)
        for make in kinds
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
    small = [make(64, 4001, dtype) for make in kinds for dtype in (torch.float32, torch.bfloat16)]
    head, float32_head = (head_error(name, responses) for name in ("selm_core", EAGER_FLOAT32))
    return [
        Promise(
            "token log-probability, up to 262,145 tokens: 2e-5 + 4 units of rounding; never positive",
            max(map(token_share, cases)),
        ),
        Promise("sequence sum: 1 ulp of the float64 sum of its tokens", sum_share(responses)),
        Promise(
            "gradient of float32 logits: 2e-5 relative, also in the target's column",
            max(gradient_share(case) for case in small if case.logits.dtype == torch.float32),
        ),
        Promise(
            "gradient of half-precision logits: one rounding of that",
            max(gradient_share(case) for case in small if case.logits.dtype != torch.float32),
        ),
        Promise(
            "`linear_logps` in bfloat16: twice the error of float32 product and log-softmax",
            head / (2 * float32_head),
        ),
        Promise("results do not depend on the run or the number of threads", bits_share(responses)),
    ]


def token_share(case: Logits) -> float:
    got = selm_core.selective_log_softmax(case.logits, case.labels)
    exact = case.logits.double().log_softmax(-1).gather(1, case.labels.unsqueeze(1)).squeeze(1)
    shares = (got.double() - exact).abs() / (2e-5 + 4 * UNIT * exact.abs().clamp(min=1))
    return math.inf if (got > 0).any() else float(shares.max())


def sum_share(responses: Responses) -> float:
    logits = responses.logits()
    tokens = selm_core.selective_log_softmax(logits, responses.labels)
    return max(
        float(abs(mpf(got) - mpf(total)) / ulp(mpf(total), torch.float32))
        for got, total in zip(
            our_sums(logits, responses.labels).tolist(),
            map(math.fsum, tokens.tolist()),
            strict=True,
        )
    )


def gradient_share(case: Logits) -> float:
    """A probability below 2^-126 may count as 0."""
    logits = case.logits.clone().requires_grad_()
    selm_core.selective_log_softmax(logits, case.labels).sum().backward()
    assert logits.grad is not None
    probabilities = case.logits.double().softmax(-1)
    target = case.labels.unsqueeze(1)
    others = probabilities.scatter(1, target, 0.0)
    exact = (-others).scatter(1, target, others.sum(1, keepdim=True))
    rounding = 0.0 if case.logits.dtype == torch.float32 else torch.finfo(logits.dtype).eps / 2
    bound = (2e-5 + rounding * (1 + 2e-5)) * exact.abs() + 2.0**-126
    return float(((logits.grad.double() - exact).abs() / bound).max())


def head_error(name: str, responses: Responses) -> float:
    got = HEADS[name](responses.hidden, responses.weight, responses.labels)
    return float((got.double() - responses.exact()).abs().max())


def bits_share(responses: Responses) -> float:
    """0 if all bits are equal, else infinite."""
    logits, before = responses.logits(), torch.get_num_threads()
    results: list[Tensor] = []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            results.append(HEADS["selm_core"](*vars(responses).values()))
            results.append(our_sums(logits, responses.labels))
    finally:
        torch.set_num_threads(before)
    equal = all(torch.equal(a, b) for a, b in zip(results, results[2:], strict=False))
    return 0.0 if equal else math.inf
