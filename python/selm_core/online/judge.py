"""Judges: whatever can score completions. A score that is not a finite number is never used, but
named and counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from tqdm.auto import tqdm

from selm_core.online.data import Prompt


class Judge(Protocol):
    """Scores `completions[i]` as an answer to `prompts[i]`, higher is better; one finite number
    each.

    Prompts come as they stand in the data set (text or messages), completions as text. A function
    will do.
    """

    def __call__(self, prompts: list[Prompt], completions: list[str], /) -> Sequence[float]:
        """One score per completion."""


@runtime_checkable
class JudgeWithParts(Protocol):
    """A judge that can say what its scores are made of; evaluations show the mean of each part."""

    def parts(self, prompts: list[Prompt], completions: list[str], /) -> dict[str, list[float]]:
        """For each part its values, one per completion."""


class InvalidScore(StrEnum):
    """Why a judge's answer is no score."""

    WRONG_COUNT = "wrong_count"
    NONE = "none"
    NOT_A_NUMBER_TYPE = "not_a_number_type"
    NAN = "nan"
    INFINITE = "infinite"


def score(
    judge: Judge, prompts: list[Prompt], completions: list[str]
) -> list[float | InvalidScore]:
    """The judge's scores, each checked. An answer of the wrong length says nothing about any item:
    all are invalid.

    Exceptions of the judge are the caller's: a judge that raises is not a judge that found an
    answer bad.
    """
    answer: Any = judge(prompts, completions)
    values = answer.tolist() if hasattr(answer, "tolist") else answer
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str | bytes | bytearray)
        or len(values) != len(completions)
    ):
        return [InvalidScore.WRONG_COUNT] * len(completions)
    return [_check(value) for value in values]


def _check(value: object) -> float | InvalidScore:
    if value is None:
        return InvalidScore.NONE
    if isinstance(value, bool) or not isinstance(value, Real):
        return InvalidScore.NOT_A_NUMBER_TYPE
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        return InvalidScore.INFINITE
    if math.isnan(number):
        return InvalidScore.NAN
    return InvalidScore.INFINITE if math.isinf(number) else number


def score_in_batches(
    judge: Judge,
    prompts: list[Prompt],
    completions: list[str],
    *,
    batch_size: int,
    description: str,
) -> list[float | InvalidScore]:
    """`score`, at most `batch_size` completions per call of the judge, with a progress bar."""
    scores: list[float | InvalidScore] = []
    with tqdm(total=len(completions), desc=description, unit="completion", leave=False) as bar:
        for start in range(0, len(completions), batch_size):
            batch = slice(start, start + batch_size)
            scores += score(judge, prompts[batch], completions[batch])
            bar.update(len(scores) - bar.n)
    return scores
