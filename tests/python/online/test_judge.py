import math

import numpy as np
import pytest
import torch
from selm_core.online.judge import InvalidScore, score, score_in_batches


def judge_that_answers(answer):
    return lambda prompts, completions: answer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (-0.5, -0.5),
        (np.float32(0.25), 0.25),
        (math.nan, InvalidScore.NAN),
        (math.inf, InvalidScore.INFINITE),
        (-math.inf, InvalidScore.INFINITE),
        pytest.param(10**400, InvalidScore.INFINITE, id="huge integer"),
        (None, InvalidScore.NONE),
        ("0.5", InvalidScore.NOT_A_NUMBER_TYPE),
        (True, InvalidScore.NOT_A_NUMBER_TYPE),
        (np.bool_(True), InvalidScore.NOT_A_NUMBER_TYPE),
        ([0.5], InvalidScore.NOT_A_NUMBER_TYPE),
    ],
)
def test_one_bad_score_is_named_and_its_neighbour_is_kept(value, expected):
    assert score(judge_that_answers([value, 2.0]), ["p", "p"], ["a", "b"]) == [expected, 2.0]


@pytest.mark.parametrize(
    "answer",
    [[1.0], [1.0, 2.0, 3.0], [], None, 1.0, "ab", b"ab", {0: 1.0, 1: 2.0}, iter([1.0, 2.0])],
)
def test_an_answer_that_is_not_one_score_per_completion_makes_the_whole_batch_invalid(answer):
    assert (
        score(judge_that_answers(answer), ["p", "p"], ["a", "b"]) == [InvalidScore.WRONG_COUNT] * 2
    )


@pytest.mark.parametrize(
    "answer", [np.array([1.0, math.nan]), torch.tensor([1.0, math.nan]), (1.0, math.nan)]
)
def test_arrays_and_tensors_are_scores_too(answer):
    assert score(judge_that_answers(answer), ["p", "p"], ["a", "b"]) == [1.0, InvalidScore.NAN]


def test_batches_arrive_in_order_and_only_the_broken_one_is_lost():
    calls = []

    def judge(prompts, completions):
        calls.append((prompts, completions))
        return [float(c) for c in completions] if "2" not in completions else [0.0]

    scores = score_in_batches(judge, list("pqrst"), list("01234"), batch_size=2, description="")
    assert calls == [(["p", "q"], ["0", "1"]), (["r", "s"], ["2", "3"]), (["t"], ["4"])]
    assert scores == [0.0, 1.0, InvalidScore.WRONG_COUNT, InvalidScore.WRONG_COUNT, 4.0]


def test_an_exception_of_the_judge_is_not_a_low_score():
    def judge(prompts, completions):
        raise ConnectionError("no answer")

    with pytest.raises(ConnectionError, match="no answer"):
        score(judge, ["p"], ["a"])
