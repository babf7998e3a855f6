"""From scored candidates to preference pairs: the best is chosen, the worst rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from selm_core.online.candidates import Candidates
from selm_core.online.data import Prompt
from selm_core.online.generate import Completion
from selm_core.online.judge import InvalidScore


class DroppedPrompt(StrEnum):
    """Why a prompt gives no pair."""

    TOO_FEW_SCORES = "too_few_scores"
    TIE = "tie"
    IDENTICAL = "identical"


@dataclass(frozen=True)
class PreferencePair:
    """The judge's best and worst completion of a prompt, and the exploration response."""

    prompt: Prompt
    prompt_ids: list[int]
    chosen: Completion
    rejected: Completion
    response: Completion | None
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True)
class PairSet:
    """Pairs, and what was dropped: `invalid_scores` counts completions, `dropped_prompts` counts
    prompts."""

    pairs: list[PreferencePair]
    invalid_scores: Counter[str]
    dropped_prompts: Counter[str]


def best_and_worst(scores: Sequence[float]) -> tuple[int, int]:
    """Indices of the highest and of the lowest score; among equals the first counts."""
    indices = range(len(scores))
    return max(indices, key=scores.__getitem__), min(indices, key=scores.__getitem__)


def build_pairs(
    candidates: Sequence[Candidates], scores: Sequence[Sequence[float | InvalidScore]]
) -> PairSet:
    """One pair per prompt from its validly scored completions; `scores[i][j]` belongs to
    `candidates[i].completions[j]`."""
    result = PairSet([], Counter(), Counter())
    for item, item_scores in zip(candidates, scores, strict=True):
        result.invalid_scores.update(s for s in item_scores if isinstance(s, InvalidScore))
        outcome = _pair(item, item_scores)
        if isinstance(outcome, DroppedPrompt):
            result.dropped_prompts[outcome] += 1
        else:
            result.pairs.append(outcome)
    return result


def _pair(
    item: Candidates, scores: Sequence[float | InvalidScore]
) -> PreferencePair | DroppedPrompt:
    scored = [
        (c, s)
        for c, s in zip(item.completions, scores, strict=True)
        if not isinstance(s, InvalidScore)
    ]
    if len(scored) < 2:
        return DroppedPrompt.TOO_FEW_SCORES
    best, worst = best_and_worst([s for _, s in scored])
    (chosen, chosen_score), (rejected, rejected_score) = scored[best], scored[worst]
    if chosen_score == rejected_score:
        return DroppedPrompt.TIE
    if chosen.token_ids == rejected.token_ids:
        return DroppedPrompt.IDENTICAL
    return PreferencePair(
        item.prompt, item.prompt_ids, chosen, rejected, item.response, chosen_score, rejected_score
    )
