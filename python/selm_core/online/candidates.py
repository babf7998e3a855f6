"""The completions that the judge ranks for each prompt, and the exploration response (Algorithm 1,
lines "generate")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selm_core.online.config import OnlineConfig
from selm_core.online.data import Prompt, Row
from selm_core.online.generate import Completion, Sampling, generate
from selm_core.online.seeds import derive_seed

DEFAULT_SAMPLES = 2


@dataclass(frozen=True)
class Candidates:
    """Completions of one prompt that the judge ranks, and the response whose likelihood SELM's term
    moves."""

    prompt: Prompt
    prompt_ids: list[int]
    completions: list[Completion]
    response: Completion | None


@dataclass(frozen=True)
class Generator:
    """Generates with one policy; the same `seed` gives the same completions."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: OnlineConfig
    seed: int
    description: str

    def __call__(
        self, prompt_ids: Sequence[list[int]], *, purpose: str, greedy: bool = False
    ) -> list[Completion]:
        """One completion per prompt; `purpose` names it on the progress bar and varies the seed."""
        config = self.config
        sampling = None if greedy else Sampling(config.temperature, config.top_k, config.top_p)
        return generate(
            self.model,
            self.tokenizer,
            prompt_ids,
            max_new_tokens=self.config.max_new_tokens,
            batch_size=self.config.generation_batch_size,
            sampling=sampling,
            seed=derive_seed(self.seed, purpose),
            description=f"{self.description}: {purpose}",
        )


def candidates_from_pairs(
    generator: Generator, rows: Sequence[Row], prompt_ids: Sequence[list[int]]
) -> list[Candidates]:
    """{response, chosen, rejected} for rows with a preference pair: Algorithm 1 as the paper states
    it."""
    responses = generator(
        prompt_ids, purpose="responses", greedy=generator.config.response == "greedy"
    )
    return [
        Candidates(row.prompt, ids, [response, *_given(generator.tokenizer, row)], response)
        for row, ids, response in zip(rows, prompt_ids, responses, strict=True)
    ]


def candidates_from_samples(
    generator: Generator,
    rows: Sequence[Row],
    prompt_ids: Sequence[list[int]],
    *,
    with_response: bool,
) -> list[Candidates]:
    """Samples of the policy for rows with a prompt alone. The exploration response is needed only
    for alpha > 0."""
    count = generator.config.samples_per_prompt or DEFAULT_SAMPLES
    flat = generator([ids for ids in prompt_ids for _ in range(count)], purpose="samples")
    samples = [flat[start : start + count] for start in range(0, len(flat), count)]
    responses: Sequence[Completion | None] = [None] * len(rows)
    if with_response and generator.config.response == "greedy":
        responses = generator(prompt_ids, purpose="responses", greedy=True)
    elif with_response:
        responses = [completions[0] for completions in samples]
    return [
        Candidates(row.prompt, ids, completions, response)
        for row, ids, completions, response in zip(
            rows, prompt_ids, samples, responses, strict=True
        )
    ]


def _given(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[Completion]:
    return [_completion(tokenizer, text) for text in (row.chosen, row.rejected) if text is not None]


def _completion(tokenizer: PreTrainedTokenizerBase, text: str) -> Completion:
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Completion(text, [*token_ids, tokenizer.eos_token_id], finished=True)
