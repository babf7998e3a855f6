"""What the loop reads (prompts, with or without preference pairs) and how it becomes token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]]
"""Plain text, or a conversation that ends with the user's turn (TRL's standard and conversational
formats)."""


@dataclass(frozen=True)
class Row:
    """One example: a prompt, and its preference pair where the data set has one."""

    prompt: Prompt
    chosen: str | None = None
    rejected: str | None = None


def read_rows(dataset: Iterable[Mapping[str, Any]], *, name: str) -> list[Row]:
    """Rows of a `datasets.Dataset` or any iterable of mappings with `prompt` and, all or none,
    `chosen` and `rejected`.

    Completions are text or one assistant message. Other columns are not read. Raises ValueError
    that names the row for anything else.
    """
    rows = [_read_row(mapping, f"{name}[{index}]") for index, mapping in enumerate(dataset)]
    if not rows:
        raise ValueError(f"{name}: expected at least one row, got none")
    if len({row.chosen is None for row in rows}) > 1:
        raise ValueError(
            f"{name}: expected 'chosen' and 'rejected' in every row or in none, got a mixture"
        )
    return rows


def _read_row(mapping: Mapping[str, Any], where: str) -> Row:
    if not isinstance(mapping, Mapping) or "prompt" not in mapping:
        raise ValueError(f"{where}: expected a mapping with a 'prompt', got {mapping!r}")
    if ("chosen" in mapping) != ("rejected" in mapping):
        raise ValueError(
            f"{where}: expected both 'chosen' and 'rejected' or neither, got {sorted(mapping)}"
        )
    prompt = mapping["prompt"]
    if not _is_text(prompt) and not _is_conversation(prompt):
        raise ValueError(
            f"{where}: expected 'prompt' to be text or a list of messages that is not empty, "
            f"got {prompt!r}"
        )
    if "chosen" not in mapping:
        return Row(prompt)
    return Row(
        prompt,
        *(_completion_text(mapping[key], f"{where}['{key}']") for key in ("chosen", "rejected")),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_conversation(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)
    )


def _completion_text(value: object, where: str) -> str:
    if isinstance(value, list) and len(value) == 1 and _is_conversation(value):
        value = value[0]["content"]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: expected text or one message that is not empty, got {value!r}")
    return value


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt: of a conversation, its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids that a completion continues; a conversation goes through the chat template, as in
    TRL."""
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    return cast(list[int], ids)


def portion(rows: Sequence[Row], iteration: int, iterations: int) -> Sequence[Row]:
    """The part of the rows that belongs to an iteration (counted from 1): Algorithm 1's D_t, equal
    to within one row."""
    bounds = [len(rows) * step // iterations for step in (iteration - 1, iteration)]
    return rows[bounds[0] : bounds[1]]


def shared_prompt(rows: Sequence[Row], others: Sequence[Row]) -> Prompt | None:
    """A prompt that occurs in both, if there is one."""
    known = {json.dumps(row.prompt) for row in others}
    return next((row.prompt for row in rows if json.dumps(row.prompt) in known), None)


def rows_sha256(rows: Sequence[Row]) -> str:
    """Identifies the data in a run's settings."""
    lines = (json.dumps([row.prompt, row.chosen, row.rejected], sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
