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

from selm_core.errors import InputError
from selm_core.online.data import Prompt
from selm_core.online.generate import Completion
from selm_core.online.judge import InvalidScore, Judge, JudgeWithParts, score


@dataclass(frozen=True)
class JudgedResponse:
    """`score` is None where the judge gave no valid one, which `invalid` then names; `parts` of the
    score are there where the judge has parts."""

    prompt: Prompt
    text: str
    finished: bool
    tokens: int
    score: float | None
    invalid: str | None
    parts: dict[str, float]


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
    judge: Judge,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    batch_size: int,
    description: str,
) -> list[JudgedResponse]:
    """The judge's verdict on each completion, asked for at most `batch_size` at once."""
    responses: list[JudgedResponse] = []
    with tqdm(total=len(prompts), desc=description, unit="response", leave=False) as bar:
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            responses += _judge_batch(judge, list(prompts[batch]), completions[batch])
            bar.update(len(responses) - bar.n)
    return responses


def _judge_batch(
    judge: Judge, prompts: list[Prompt], completions: Sequence[Completion]
) -> list[JudgedResponse]:
    texts = [completion.text for completion in completions]
    scores = score(judge, prompts, texts)
    parts = judge.parts(prompts, texts) if isinstance(judge, JudgeWithParts) else {}
    rows = zip(*parts.values(), strict=True) if parts else [()] * len(texts)
    return [
        JudgedResponse(
            prompt=prompt,
            text=completion.text,
            finished=completion.finished,
            tokens=len(completion.token_ids),
            score=None if isinstance(value, InvalidScore) else value,
            invalid=value.value if isinstance(value, InvalidScore) else None,
            parts=dict(zip(parts, row, strict=True)),
        )
        for prompt, completion, value, row in zip(prompts, completions, scores, rows, strict=True)
    ]


def summarize(
    responses: Sequence[JudgedResponse], initial: Sequence[JudgedResponse], *, kl: float
) -> Evaluation:
    """Means of `responses`, compared with the initial model's to the same prompts.

    Raises:
        InputError: no prompt has a valid score in both.
    """
    both = [
        (now.score, before.score)
        for now, before in zip(responses, initial, strict=True)
        if now.score is not None and before.score is not None
    ]
    invalid = Counter(r.invalid for r in responses if r.invalid is not None)
    if not both:
        raise InputError(
            f"evaluate: of {len(responses)} prompts none has a valid score now and for the initial "
            f"model (invalid now: {dict(invalid)})"
        )
    return Evaluation(
        score=fmean(r.score for r in responses if r.score is not None),
        parts={name: fmean(r.parts[name] for r in responses) for name in responses[0].parts},
        finish_rate=fmean(r.finished for r in responses),
        response_tokens=fmean(r.tokens for r in responses),
        win_rate=fmean(0.5 * ((now > before) + (now >= before)) for now, before in both),
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
    # In float64: between two policies that hardly differ, float32 would give a negative divergence.
    policy_logps, initial_logps = (
        model(input_ids=ids).logits[0, positions].double().log_softmax(-1)
        for model in (policy, initial)
    )
    kl = torch.nn.functional.kl_div(initial_logps, policy_logps, reduction="sum", log_target=True)
    return kl.item()
