"""How good a policy is on prompts that are never trained on: greedy responses, judged, beside the
initial model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from selm_core.online.data import Prompt
from selm_core.online.generate import Completion
from selm_core.online.judge import InvalidScore, Judge, JudgeWithParts, score


@dataclass(frozen=True)
class JudgedResponse:
    """`score` is None where the judge gave no valid one, which `invalid` then names."""

    prompt: Prompt
    text: str
    finished: bool
    tokens: int
    score: float | None
    invalid: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Means over the prompts. A score without its finish rate and length can hide a collapsed
    policy.

    Attributes:
        score: over the responses with a valid score
        parts: of the score, where the judge has parts
        finish_rate: responses that ended by themselves, 0 to 1
        response_tokens: length in tokens
        win_rate: against the initial model, prompt by prompt; a tie counts half. Over the prompts
            where both scores are valid
        kl: KL(policy || initial model) in nats per response, see `response_kl`
        invalid_scores: how many, by reason
    """

    score: float
    parts: dict[str, float]
    finish_rate: float
    response_tokens: float
    win_rate: float
    kl: float
    invalid_scores: dict[str, int]


def judge_responses(
    judge: Judge, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[JudgedResponse]:
    """The judge's verdict on each completion."""
    scores = score(judge, list(prompts), [completion.text for completion in completions])
    return [
        JudgedResponse(
            prompt, completion.text, completion.finished, len(completion.token_ids), *_split(value)
        )
        for prompt, completion, value in zip(prompts, completions, scores, strict=True)
    ]


def _split(value: float | InvalidScore) -> tuple[float | None, str | None]:
    return (None, value.value) if isinstance(value, InvalidScore) else (value, None)


def summarize(
    judge: Judge,
    responses: Sequence[JudgedResponse],
    baseline: Sequence[JudgedResponse],
    *,
    kl: float,
) -> Evaluation:
    """`baseline` holds the initial model's responses to the same prompts. Raises ValueError if no
    score is valid."""
    valid = [r.score for r in responses if r.score is not None]
    invalid = Counter(r.invalid for r in responses if r.invalid is not None)
    wins = [
        0.5 * ((r.score > b.score) + (r.score >= b.score))
        for r, b in zip(responses, baseline, strict=True)
        if r.score is not None and b.score is not None
    ]
    if not wins:
        raise ValueError(
            f"evaluate: of {len(responses)} prompts none has a valid score now and for the initial "
            f"model (invalid now: {dict(invalid)})"
        )
    parts = (
        judge.parts([r.prompt for r in responses], [r.text for r in responses])
        if isinstance(judge, JudgeWithParts)
        else {}
    )
    return Evaluation(
        score=fmean(valid),
        parts={name: fmean(values) for name, values in parts.items()},
        finish_rate=fmean(r.finished for r in responses),
        response_tokens=fmean(r.tokens for r in responses),
        win_rate=fmean(wins),
        kl=kl,
        invalid_scores=dict(invalid),
    )


def mean_kl(
    policy: PreTrainedModel,
    initial: PreTrainedModel,
    prompt_ids: Sequence[list[int]],
    completions: Sequence[Completion],
    *,
    description: str,
) -> float:
    """Mean of `response_kl` over the responses."""
    pairs = list(zip(prompt_ids, completions, strict=True))
    return fmean(
        response_kl(policy, initial, ids, completion.token_ids)
        for ids, completion in tqdm(pairs, desc=description, unit="response", leave=False)
    )


@torch.no_grad()
def response_kl(
    policy: PreTrainedModel,
    initial: PreTrainedModel,
    prompt_ids: list[int],
    completion_ids: list[int],
) -> float:
    """Exact KL(policy || initial) between the next-token distributions, summed over the response's
    positions, in nats."""
    ids = torch.tensor([prompt_ids + completion_ids], device=policy.device)
    positions = slice(len(prompt_ids) - 1, -1)
    policy_logps, initial_logps = (
        model(input_ids=ids).logits[0, positions].float().log_softmax(-1)
        for model in (policy, initial)
    )
    kl = torch.nn.functional.kl_div(initial_logps, policy_logps, reduction="sum", log_target=True)
    return kl.item()
