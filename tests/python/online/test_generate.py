import pytest
import torch
from selm_core.errors import InputError
from selm_core.online.generate import Sampling, end_token_ids, generate, left_pad
from transformers import GenerationConfig

PROMPTS = ["abc", "what is this?", "b", "hello there", "why"]


@pytest.fixture
def prompt_ids(tokenizer):
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


def greedy_alone(model, ids, max_new_tokens):
    """Token by token, without batch, padding or cache."""
    ids = list(ids)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            token = (
                model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()
            )
        ids.append(token)
        if token == model.generation_config.eos_token_id:
            break
    return ids


def test_a_padded_batch_gives_what_each_prompt_gives_alone(model, tokenizer, prompt_ids):
    completions = generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=3)
    for ids, completion in zip(prompt_ids, completions, strict=True):
        assert ids + completion.token_ids == greedy_alone(model, ids, 12)


def test_only_an_end_token_that_was_generated_is_kept(model, tokenizer, prompt_ids):
    completions = generate(
        model,
        tokenizer,
        prompt_ids * 8,
        max_new_tokens=12,
        batch_size=40,
        sampling=Sampling(1.0, 0, 1.0),
        seed=1,
    )
    eos = tokenizer.eos_token_id
    assert {c.finished for c in completions} == {True, False}
    for c in completions:
        assert c.finished == (c.token_ids[-1] == eos)
        assert eos not in c.token_ids[:-1]
        assert c.finished or len(c.token_ids) == 12
        assert "<eos>" not in c.text


def test_padding_with_the_end_token_changes_nothing(model, tokenizer, prompt_ids):
    expected = generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=5)
    tokenizer.pad_token = tokenizer.eos_token
    assert generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=5) == expected
    tokenizer.pad_token = None
    assert generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=5) == expected


def test_every_end_token_of_the_model_ends_a_completion(model, tokenizer, prompt_ids):
    first = generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=5)
    other_end = first[0].token_ids[0]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other_end]
    again = generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=5)
    assert again[0].token_ids == [other_end]
    assert again[0].finished


def test_the_seed_decides_and_the_global_generator_is_left_alone(model, tokenizer, prompt_ids):
    def sample(seed):
        return generate(
            model,
            tokenizer,
            prompt_ids,
            max_new_tokens=12,
            batch_size=2,
            sampling=Sampling(1.0, 0, 0.9),
            seed=seed,
        )

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = sample(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert sample(3) == first
    assert sample(4) != first


def test_samples_of_one_prompt_differ(model, tokenizer, prompt_ids):
    completions = generate(
        model,
        tokenizer,
        prompt_ids[:1] * 8,
        max_new_tokens=12,
        batch_size=4,
        sampling=Sampling(1.0, 0, 1.0),
        seed=0,
    )
    assert len({tuple(c.token_ids) for c in completions}) > 4


def test_the_models_own_sampling_options_do_not_leak_in(model, tokenizer, prompt_ids):
    expected = generate(
        model,
        tokenizer,
        prompt_ids,
        max_new_tokens=12,
        batch_size=5,
        sampling=Sampling(1.0, 0, 1.0),
    )
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, eos_token_id=tokenizer.eos_token_id
    )
    assert expected == generate(
        model,
        tokenizer,
        prompt_ids,
        max_new_tokens=12,
        batch_size=5,
        sampling=Sampling(1.0, 0, 1.0),
    )


def test_top_k_leaves_the_likeliest_tokens_only(model, tokenizer, prompt_ids):
    greedy = generate(model, tokenizer, prompt_ids, max_new_tokens=12, batch_size=5)
    assert greedy == generate(
        model,
        tokenizer,
        prompt_ids,
        max_new_tokens=12,
        batch_size=5,
        sampling=Sampling(1.0, 1, 1.0),
    )


def test_left_pad():
    ids, mask = left_pad([[1, 2, 3], [4]], 0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == torch.int64


def test_a_model_without_an_end_token_is_refused(model, tokenizer):
    model.generation_config.eos_token_id = None
    assert end_token_ids(model, tokenizer) == {tokenizer.eos_token_id}
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="end token"):
        end_token_ids(model, tokenizer)
