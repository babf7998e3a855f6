"""What the loop reads (prompts, with or without preference pairs) and how it becomes token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from selm_core.errors import InputError

T = TypeVar("T")

ROLES = ("system", "user", "assistant")

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

    Completions are text or one assistant message. Other columns are not read. Raises InputError
    that names the row for anything else.
    """
    rows = [_read_row(mapping, f"{name}[{index}]") for index, mapping in enumerate(dataset)]
    if not rows:
        raise InputError(f"{name}: expected at least one row, got none")
    if len({row.chosen is None for row in rows}) > 1:
        raise InputError(
            f"{name}: expected 'chosen' and 'rejected' in every row or in none, got a mixture"
        )
    return rows


def _read_row(mapping: Mapping[str, Any], where: str) -> Row:
    if not isinstance(mapping, Mapping) or "prompt" not in mapping:
        raise InputError(f"{where}: expected a mapping with a 'prompt', got {mapping!r}")
    if ("chosen" in mapping) != ("rejected" in mapping):
        raise InputError(
            f"{where}: expected both 'chosen' and 'rejected' or neither, got {sorted(mapping)}"
        )
    prompt = _read_prompt(mapping["prompt"], f"{where}['prompt']")
    if "chosen" not in mapping:
        return Row(prompt)
    return Row(
        prompt,
        *(_read_completion(mapping[key], f"{where}['{key}']") for key in ("chosen", "rejected")),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _read_prompt(value: object, where: str) -> Prompt:
    if isinstance(value, list) and value:
        _check_messages(value, where)
        if (role := value[-1]["role"]) != "user":
            raise InputError(f"{where}: expected the user's turn at the end, got the {role}'s")
    elif not _is_text(value):
        raise InputError(f"{where}: expected text or messages that are not empty, got {value!r}")
    return cast(Prompt, value)


def _read_completion(value: object, where: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        _check_messages(value, where)
        if (role := value[0]["role"]) != "assistant":
            raise InputError(f"{where}: expected the assistant's message, got the {role}'s")
        value = value[0]["content"]
    if not _is_text(value):
        raise InputError(f"{where}: expected text or one message that is not empty, got {value!r}")
    return cast(str, value)


def _check_messages(messages: Sequence[Any], where: str) -> None:
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise InputError(
                f"{where}[{index}]: expected a message with 'role' and 'content', got {message!r}"
            )
        if message["role"] not in ROLES:
            raise InputError(
                f"{where}[{index}]['role']: expected one of {ROLES}, got {message['role']!r}"
            )
        if not _is_text(message["content"]):
            raise InputError(
                f"{where}[{index}]['content']: expected text that is not empty, "
                f"got {message['content']!r}"
            )


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt: of a conversation, its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, name: str
) -> list[list[int]]:
    """Token ids that a completion continues, of each row's prompt; a conversation goes through the
    chat template, as in TRL.

    Raises:
        InputError: names the row whose prompt the tokenizer does not take, or takes for nothing:
            the first token of a completion would have no position that predicts it.
    """
    return [
        _tokenize(tokenizer, row.prompt, f"{name}[{index}]['prompt']")
        for index, row in enumerate(rows)
    ]


def _tokenize(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, where: str) -> list[int]:
    ids = (
        tokenizer(prompt)["input_ids"]
        if isinstance(prompt, str)
        else _apply_chat_template(tokenizer, prompt, where)
    )
    if not ids:
        raise InputError(f"{where}: expected text that gives tokens, got none from {prompt!r}")
    return cast(list[int], ids)


def _apply_chat_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], where: str
) -> Any:
    if tokenizer.chat_template is None:
        raise InputError(
            f"{where}: expected text, because the tokenizer has no chat template, got messages"
        )
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        raise InputError(f"{where}: the tokenizer's chat template refuses it: {error}") from error


def portion(rows: Sequence[T], iteration: int, iterations: int) -> Sequence[T]:
    """The part of the rows that belongs to an iteration (counted from 1): Algorithm 1's D_t, equal
    to within one row."""
    bounds = [len(rows) * step // iterations for step in (iteration - 1, iteration)]
    return rows[bounds[0] : bounds[1]]


def shared_prompt(rows: Sequence[Row], others: Sequence[Row]) -> Prompt | None:
    """A prompt that occurs in both, if there is one."""
    known = {_canonical(row.prompt) for row in others}
    return next((row.prompt for row in rows if _canonical(row.prompt) in known), None)


def _canonical(prompt: Prompt) -> str:
    return json.dumps(prompt, sort_keys=True)


def rows_sha256(rows: Sequence[Row]) -> str:
    """Identifies the data in a run's settings."""
    lines = (json.dumps([row.prompt, row.chosen, row.rejected], sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
