"""Batched generation that keeps the generated token ids: text tokenised again may give other ids,
and a truncated completion must not get an end token that the model never wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from selm_core.errors import InputError
from selm_core.online.seeds import derive_seed


@dataclass(frozen=True)
class Completion:
    """`token_ids` end with an end-of-sequence token exactly if the completion is `finished`; `text`
    has no special tokens."""

    text: str
    token_ids: list[int]
    finished: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling from the `top_k` likeliest tokens (0: all), of those from the smallest set with
    probability `top_p` (arXiv 1904.09751). Generation without it is greedy."""

    temperature: float
    top_k: int
    top_p: float


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    description: str = "generate",
) -> list[Completion]:
    """One completion per prompt, in the prompts' order. Sampling depends on `seed` and
    `batch_size`, and leaves torch's global random state as it was."""
    eos_ids = end_token_ids(model, tokenizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos_ids)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(eos_ids),
        pad_token_id=pad_id,
        **_decoding(sampling),
    )
    model.eval()
    completions: list[Completion] = []
    with tqdm(
        total=len(prompt_ids) * max_new_tokens, desc=description, unit="tok", leave=False
    ) as bar:
        for start in range(0, len(prompt_ids), batch_size):
            batch = prompt_ids[start : start + batch_size]
            rows = _generate_batch(model, batch, pad_id, config, derive_seed(seed, start), bar)
            completions += [_completion(tokenizer, row, eos_ids) for row in rows]
            bar.update(len(completions) * max_new_tokens - bar.n)
    return completions


def _decoding(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None:
        return {"do_sample": False}
    return {"do_sample": True, **asdict(sampling)}


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a completion: the generation config's (several for some chat models),
    else the tokenizer's."""
    generation_config = model.generation_config
    eos = None if generation_config is None else generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    if eos is None:
        raise InputError(
            "generate: neither the model's generation config nor the tokenizer has an end token"
        )
    return set(eos) if isinstance(eos, list) else {eos}


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 of shape (len(rows), longest row)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids, mask


class _ShowTokens(StoppingCriteria):
    """Advances the progress bar at each decoding step; never stops one."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.bar.update(input_ids.shape[0])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate_batch(
    model: PreTrainedModel,
    batch: Sequence[list[int]],
    pad_id: int,
    config: GenerationConfig,
    seed: int,
    bar: tqdm,
) -> list[list[int]]:
    ids, mask = left_pad(batch, pad_id)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        output = cast(Any, model).generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_ShowTokens(bar)]),
        )
    return cast(list[list[int]], output[:, ids.shape[1] :].tolist())


def _completion(
    tokenizer: PreTrainedTokenizerBase, row: list[int], eos_ids: set[int]
) -> Completion:
    end = next((index for index, token in enumerate(row) if token in eos_ids), None)
    token_ids = row if end is None else row[: end + 1]
    text = cast(str, tokenizer.decode(token_ids, skip_special_tokens=True))
    return Completion(text.strip(), token_ids, finished=end is not None)
