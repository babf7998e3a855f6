import math

import pytest
import torch
from selm_core.online.evaluate import (
    JudgedResponse,
    judge_responses,
    mean_kl,
    response_kl,
    summarize,
)
from selm_core.online.generate import Completion
from transformers import LlamaForCausalLM


@pytest.fixture
def other_model(tiny_model):
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def kl_by_definition(policy, initial, prompt_ids, completion_ids):
    """Sum of p * (log p - log q) over the vocabulary at each step of the completion, one prefix at
    a time, in float64."""
    total = 0.0
    for step in range(len(completion_ids)):
        prefix = torch.tensor([prompt_ids + completion_ids[:step]])
        with torch.no_grad():
            p, q = (
                torch.softmax(m(input_ids=prefix).logits[0, -1].double(), -1)
                for m in (policy, initial)
            )
        total += math.fsum(
            pi * math.log(pi / qi) for pi, qi in zip(p.tolist(), q.tolist(), strict=True)
        )
    return total


def test_kl_is_the_sum_over_the_completions_positions(model, other_model):
    prompt_ids, completion_ids = [5, 6, 7, 8], [9, 10, 11, 1]
    expected = kl_by_definition(other_model, model, prompt_ids, completion_ids)
    assert expected > 0.1
    assert response_kl(other_model, model, prompt_ids, completion_ids) == pytest.approx(
        expected, rel=1e-4
    )


def test_kl_to_itself_is_zero(model):
    assert response_kl(model, model, [5, 6], [7, 8]) == 0.0


def test_kl_between_policies_that_hardly_differ_is_not_negative(model, tiny_model):
    other = LlamaForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        other.lm_head.weight *= 1 + 1e-6
    divergences = [response_kl(other, model, [token], [7, 8, 9]) for token in range(3, 30)]
    assert all(0 <= kl < 1e-6 for kl in divergences)


def test_mean_kl_weighs_responses_equally(model, other_model):
    prompts, responses = (
        [[5, 6], [7]],
        [Completion("", [8, 9, 10], True), Completion("", [11], False)],
    )
    each = [
        response_kl(other_model, model, p, r.token_ids)
        for p, r in zip(prompts, responses, strict=True)
    ]
    assert mean_kl(other_model, model, prompts, responses, description="") == pytest.approx(
        sum(each) / 2
    )


def responses(*scores):
    return [
        JudgedResponse("p", "text", True, 3, s, None if s is not None else "nan", {})
        for s in scores
    ]


def test_wins_count_one_ties_half_and_prompts_without_two_scores_not_at_all():
    now, initial = responses(2.0, 1.0, 1.0, None, 5.0), responses(1.0, 2.0, 1.0, 0.0, None)
    evaluation = summarize(now, initial, kl=1.5)
    assert evaluation.win_rate == 0.5
    assert evaluation.score == 2.25
    assert evaluation.invalid_scores == {"nan": 1}
    assert evaluation.kl == 1.5


class Length:
    def __call__(self, prompts, completions):
        return [float(len(c)) for c in completions]


class LengthWithParts(Length):
    def parts(self, prompts, completions):
        return {"length": [float(len(c)) for c in completions], "bonus": [1.0] * len(completions)}


COMPLETIONS = [
    Completion("ab", [1, 2, 3], True),
    Completion("abcd", [1], False),
    Completion("", [1], True),
]


def judged(judge):
    return judge_responses(judge, ["p", "q", "r"], COMPLETIONS, batch_size=2, description="")


def test_responses_carry_the_verdict_and_are_averaged():
    found = judged(Length())
    assert [
        (r.prompt, r.text, r.finished, r.tokens, r.score, r.invalid, r.parts) for r in found
    ] == [
        ("p", "ab", True, 3, 2.0, None, {}),
        ("q", "abcd", False, 1, 4.0, None, {}),
        ("r", "", True, 1, 0.0, None, {}),
    ]
    evaluation = summarize(found, found, kl=0.0)
    assert (evaluation.score, evaluation.response_tokens) == (2.0, pytest.approx(5 / 3))
    assert evaluation.finish_rate == pytest.approx(2 / 3)
    assert evaluation.parts == {}


def test_the_judges_parts_are_averaged():
    found = judged(LengthWithParts())
    assert found[1].parts == {"length": 4.0, "bonus": 1.0}
    assert summarize(found, found, kl=0.0).parts == {"length": 2.0, "bonus": 1.0}


def test_parts_that_do_not_match_the_responses_are_refused():
    class Wrong(Length):
        def parts(self, prompts, completions):
            return {"length": [1.0]}

    with pytest.raises(ValueError, match="zip"):
        judged(Wrong())


@pytest.mark.parametrize(
    ("now", "initial"), [((None, None), (1.0, 1.0)), ((1.0, None), (None, 1.0))]
)
def test_without_a_valid_score_there_is_no_evaluation(now, initial):
    with pytest.raises(ValueError, match="none has a valid score"):
        summarize(responses(*now), responses(*initial), kl=0.0)
