import pytest
from selm_core.online.candidates import Candidates
from selm_core.online.generate import Completion
from selm_core.online.judge import InvalidScore
from selm_core.online.pairs import DroppedPrompt, best_and_worst, build_pairs


def completion(token):
    return Completion(str(token), [token], finished=True)


def candidates(count=3):
    completions = [completion(token) for token in range(count)]
    return Candidates("p", [9], completions, completions[0])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 2.0], (1, 0)),
        ([2.0, 1.0], (0, 1)),
        ([1.0, 3.0, 2.0], (1, 0)),
        ([2.0, 1.0, 2.0], (0, 1)),  # the first of the best
        ([1.0, 2.0, 1.0], (1, 0)),  # the first of the worst
        ([2.0, 2.0, 1.0, 1.0], (0, 2)),
        ([-1.0, -2.0, 0.0], (2, 1)),
        ([5.0, 5.0], (0, 0)),
    ],
)
def test_best_and_worst(scores, expected):
    assert best_and_worst(scores) == expected


def test_the_best_is_chosen_the_worst_rejected_and_the_response_is_kept():
    result = build_pairs([candidates()], [[0.5, 0.9, 0.1]])
    (pair,) = result.pairs
    assert (pair.chosen.token_ids, pair.rejected.token_ids, pair.response.token_ids) == (
        [1],
        [2],
        [0],
    )
    assert (pair.chosen_score, pair.rejected_score) == (0.9, 0.1)
    assert (pair.prompt, pair.prompt_ids) == ("p", [9])
    assert not result.invalid_scores
    assert not result.dropped_prompts


def test_an_invalid_score_drops_its_completion_only():
    result = build_pairs([candidates()], [[InvalidScore.NAN, 0.9, 0.1]])
    assert result.pairs[0].chosen.token_ids == [1]
    assert result.invalid_scores == {InvalidScore.NAN: 1}


def test_each_reason_is_counted():
    identical = Candidates("p", [9], [completion(1), completion(1)], None)
    result = build_pairs(
        [candidates(2), candidates(3), candidates(2), identical, candidates(2)],
        [
            [1.0, 1.0],
            [InvalidScore.NONE, InvalidScore.INFINITE, 1.0],
            [InvalidScore.WRONG_COUNT, InvalidScore.WRONG_COUNT],
            [0.0, 1.0],
            [0.0, 1.0],
        ],
    )
    assert len(result.pairs) == 1
    assert result.dropped_prompts == {
        DroppedPrompt.TIE: 1,
        DroppedPrompt.TOO_FEW_SCORES: 2,
        DroppedPrompt.IDENTICAL: 1,
    }
    assert result.invalid_scores == {
        InvalidScore.NONE: 1,
        InvalidScore.INFINITE: 1,
        InvalidScore.WRONG_COUNT: 2,
    }


def test_scores_that_do_not_match_the_completions_are_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="zip"):
        build_pairs([candidates(3)], [[1.0, 2.0]])
