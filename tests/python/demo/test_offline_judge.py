import pytest
from selm_core.demo.judge import OfflineJudge, ends_like_a_sentence, repeated_bigrams

QUESTION = "How do I teach my dog to sit?"
GOOD = "Reward your dog with a treat and kind words each time it sits."


@pytest.fixture(scope="module")
def judge():
    return OfflineJudge()


def test_the_score_is_the_sum_of_its_parts(judge):
    completions = [GOOD, "no", "the dog the dog the dog the dog"]
    parts = judge.parts([QUESTION] * 3, completions)
    assert list(parts) == [
        "sentiment",
        "relevance",
        "complete",
        "repetition",
        "too_short",
        "too_long",
    ]
    assert judge([QUESTION] * 3, completions) == [
        pytest.approx(sum(values[index] for values in parts.values())) for index in range(3)
    ]


@pytest.mark.parametrize(
    ("worse", "part"),
    [
        ("Shout at your dog and punish it cruelly each time it sits.", "sentiment"),
        ("Bake the bread with a treat and kind words each hour.", "relevance"),
        ("Reward your dog with a treat and kind words each time it", "complete"),
        ("Reward your dog, reward your dog, reward your dog, reward your dog.", "repetition"),
        ("Reward it kindly.", "too_short"),
        (f"{GOOD[:-1]} in {' or '.join('abcdefghij')} or at home.", "too_long"),
    ],
)
def test_each_part_sees_its_fault(judge, worse, part):
    good, bad = judge.parts([QUESTION] * 2, [GOOD, worse])[part]
    assert good > bad
    assert judge([QUESTION] * 2, [GOOD, worse])[1] < judge([QUESTION], [GOOD])[0]


def test_a_prompt_of_messages_is_its_last_message(judge):
    messages = [
        {"role": "system", "content": "Speak of bread."},
        {"role": "user", "content": QUESTION},
    ]
    assert judge([messages], [GOOD]) == pytest.approx(judge([QUESTION], [GOOD]))


def test_scores_do_not_depend_on_the_batch(judge):
    together = judge([QUESTION, "Why?"], [GOOD, "Because it is a good and happy day."])
    alone = judge([QUESTION], [GOOD]) + judge(["Why?"], ["Because it is a good and happy day."])
    assert together == pytest.approx(alone, abs=1e-5)


def test_an_empty_completion_has_a_low_score_and_no_error(judge):
    (score,) = judge([QUESTION], [""])
    assert score < 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", True),
        ('He said "yes."', True),
        ("Really?!", True),
        ("Yes", False),
        ("Yes,", False),
        ("", False),
    ],
)
def test_ends_like_a_sentence(text, expected):
    assert ends_like_a_sentence(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0.0), ("one", 0.0), ("a b c d", 0.0), ("a b A B", 1 / 3), ("a a a a a", 3 / 4)],
)
def test_repeated_bigrams(text, expected):
    assert repeated_bigrams(text) == pytest.approx(expected)
