"""From a preference dataset with a third response to batches of distinct rows."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.data.data_collator import DataCollatorMixin
from transformers.utils import logging
from trl.data_utils import _tokenize, common_prefix_length, extract_prompt, is_conversational
from trl.trainer.utils import pad

from selm_core.trl.unsupported import refuse

logger = logging.get_logger(__name__)

PAIR = ("chosen", "rejected")
TRIPLE = ("chosen", "rejected", "response")
IGNORE_INDEX = -100


def needed_completions(explores: bool) -> tuple[str, ...]:
    """The completions that training with or without an exploration term scores."""
    return TRIPLE if explores else PAIR


def prepare_dataset(
    dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    *,
    completions: Sequence[str] = TRIPLE,
    max_length: int | None = None,
    truncation_mode: str = "keep_start",
    num_proc: int | None = None,
    name: str = "train",
) -> Dataset | IterableDataset:
    """Tokenise a preference dataset into `prompt_ids` and one column of ids for each completion.

    Standard (text) and conversational datasets are read as TRL's ``DPOTrainer`` reads them, with
    `response` (or `reference_response`) in the place of a third completion: text gets the end token
    if it lacks it, a conversation gets what the chat template writes. A dataset that holds
    `prompt_ids`, `chosen_ids`, `rejected_ids` and `response_ids` is taken as it is, so that a
    generation that was cut off does not get an end token.

    Args:
        dataset: `chosen` and `rejected`, with `prompt` or with the prompt implied by their common
            beginning.
        processing_class: the tokenizer.
        completions: the columns that are needed: `TRIPLE`, or `PAIR` for plain DPO.
        max_length: number of tokens that a row may have; an example whose prompt alone fills it is
            dropped under ``"keep_start"``, and the number of dropped ones is logged.
        truncation_mode: ``"keep_start"`` or ``"keep_end"``.
        num_proc: number of processes.
        name: what progress bars and errors call the dataset.

    Raises:
        ValueError: columns that are missing or ambiguous, an empty dataset or completion, an
            unknown `truncation_mode`.
        TypeError: a completion of another format than the others.
        UnsupportedError: vision data.
    """
    check_truncation("prepare_dataset", max_length, truncation_mode)
    columns = text_columns(dataset, name)
    mapping: dict[str, Any] = {"num_proc": num_proc} if isinstance(dataset, Dataset) else {}

    if not _is_tokenised(columns, completions):
        if missing := [column for column in PAIR if column not in columns]:
            raise ValueError(
                f"SELMTrainer: expected the columns {list(PAIR)} in the {name} dataset, {missing} "
                f"missing, got {sorted(columns)}"
            )
        if "response" in completions:
            column = response_column(columns)
            if column != "response":
                dataset = dataset.rename_column(column, "response")
        dataset = dataset.map(
            _tokenise_example,
            with_indices=True,
            fn_kwargs={
                "processing_class": processing_class,
                "completions": tuple(completions),
                "name": name,
            },
            **mapping,
            **_description(dataset, f"Tokenizing {name} dataset"),
        )

    room = max_length if truncation_mode == "keep_start" else None
    kept = dataset.filter(
        _has_room,
        with_indices=True,
        fn_kwargs={"max_length": room, "completions": tuple(completions), "name": name},
        **mapping,
        **_description(dataset, f"Checking {name} dataset"),
    )
    if isinstance(kept, Dataset) and len(kept) < len(dataset):
        _report_dropped(len(dataset) - len(kept), len(dataset), max_length, name)
    return kept


def check_truncation(operation: str, max_length: int | None, truncation_mode: str) -> None:
    """An unknown mode would truncate by the other one, and a row of one token scores nothing.

    Raises:
        ValueError: either; it names `operation`.
    """
    if truncation_mode not in ("keep_start", "keep_end"):
        raise ValueError(
            f"{operation}: expected 'truncation_mode' to be 'keep_start' or 'keep_end', "
            f"got {truncation_mode!r}"
        )
    if max_length is not None and max_length < 2:
        raise ValueError(
            f"{operation}: expected 'max_length' to be None or at least 2, got {max_length}"
        )


def response_column(columns: Collection[str]) -> str:
    """Name of the column that holds the exploration response.

    Raises:
        ValueError: there is none, there are two, or the only candidate is TPO's `reference`.
    """
    found = [column for column in ("response", "reference_response") if column in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            "SELMTrainer: expected one of the columns 'response' and 'reference_response', got both"
        )
    if "reference" in columns:
        raise ValueError(
            "SELMTrainer: expected a column 'response', got 'reference'. In TRL that name means a "
            "gold answer, which TPO makes more likely; SELM makes its third response less likely. "
            "If the column holds responses of the reference policy, rename it to 'response'"
        )
    raise ValueError(
        "SELMTrainer: expected a column 'response' (what the reference policy answers to 'prompt') "
        f"because alpha > 0, got the columns {sorted(columns)}; alpha=0 needs none"
    )


def text_tokenizer(
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
) -> PreTrainedTokenizerBase:
    """The tokenizer itself, also where it is a part of a processor."""
    if isinstance(processing_class, ProcessorMixin):
        tokenizer: PreTrainedTokenizerBase = processing_class.tokenizer
        return tokenizer
    return processing_class


def text_columns(dataset: Dataset | IterableDataset, name: str) -> set[str]:
    """Columns of a dataset without images, read from its first example.

    Raises:
        ValueError: the dataset is empty.
        UnsupportedError: it has images.
    """
    example = next(iter(dataset), None)
    if example is None:
        raise ValueError(f"SELMTrainer: the {name} dataset is empty")
    columns = set(example)
    if columns & {"image", "images"}:
        refuse("vision data", f"{name} dataset")
    return columns


def _is_tokenised(columns: Collection[str], completions: Sequence[str]) -> bool:
    needed = ["prompt_ids", *(f"{completion}_ids" for completion in completions)]
    missing = [column for column in needed if column not in columns]
    if missing and len(missing) < len(needed):
        raise ValueError(
            f"SELMTrainer: expected a tokenised dataset to have {', '.join(needed)}; "
            f"{', '.join(missing)} missing"
        )
    return not missing


def _description(dataset: Dataset | IterableDataset, text: str) -> dict[str, str]:
    """`IterableDataset` knows no progress bars."""
    return {"desc": text} if isinstance(dataset, Dataset) else {}


def _report_dropped(dropped: int, total: int, max_length: int | None, name: str) -> None:
    if dropped == total:
        raise ValueError(
            f"SELMTrainer: no example of the {name} dataset is left, because every prompt has at "
            f"least max_length={max_length} tokens"
        )
    logger.warning(
        f"Dropped {dropped} of {total} examples of the {name} dataset: their prompt alone has at "
        f"least max_length={max_length} tokens"
    )


def _has_room(
    example: dict[str, Any],
    row: int,
    max_length: int | None,
    completions: Sequence[str],
    name: str,
) -> bool:
    # Without a token before it, a completion's first token has no position that predicts it.
    for part in ("prompt", *completions):
        if not example[f"{part}_ids"]:
            raise ValueError(
                f"SELMTrainer: '{part}_ids' is empty in row {row} of the {name} dataset"
            )
        if wrong := [token for token in example[f"{part}_ids"] if not _is_token(token)]:
            raise ValueError(
                f"SELMTrainer: expected '{part}_ids' to hold token ids, got {wrong[0]!r} in row {row} "
                f"of the {name} dataset"
            )
    return max_length is None or len(example["prompt_ids"]) < max_length


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tokenise_example(
    example: dict[str, Any],
    row: int,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    completions: Sequence[str],
    name: str,
) -> dict[str, list[int]]:
    for completion in completions:
        if type(example[completion]) is not type(example["chosen"]):
            raise TypeError(
                f"SELMTrainer: expected '{completion}' to be a {type(example['chosen']).__name__} "
                f"like 'chosen', got {type(example[completion]).__name__}"
            )
    if "prompt" not in example:
        example = {**example, **_split_prompt(example, completions)}
    _check_texts(example, completions, where=f"row {row} of the {name} dataset")

    template: dict[str, Any] = {}
    prompt_template: dict[str, Any] = {}
    end = ""
    if is_conversational(example):
        tools = example.get("tools")
        template["tools"] = json.loads(tools) if isinstance(tools, str) else tools
        template |= example.get("chat_template_kwargs") or {}
        prompt_template["add_generation_prompt"] = True
    else:
        end = text_tokenizer(processing_class).eos_token
        if end is None:
            raise ValueError("SELMTrainer: plain text needs a tokenizer with an end token")

    def with_end(completion: Any) -> Any:
        return completion.removesuffix(end) + end if end else completion

    def tokenise(text: Any, **options: Any) -> list[int]:
        return list(_tokenize(processing_class, text, **options)["input_ids"])

    prompt = tokenise(example["prompt"], **template, **prompt_template)
    rows = {c: tokenise(example["prompt"] + with_end(example[c]), **template) for c in completions}
    # Tokens may merge across the boundary: the completion starts where prompt and row part.
    start = min(common_prefix_length(prompt, row) for row in rows.values())
    if start < len(prompt):
        logger.warning_once(
            "A tokenised prompt is not the beginning of the tokenised prompt with its completion: "
            "the chat template writes them differently, or tokens merge across the boundary. The "
            "completion is taken to start where they part."
        )
    return {"prompt_ids": prompt[:start], **{f"{c}_ids": row[start:] for c, row in rows.items()}}


def _check_texts(example: dict[str, Any], completions: Sequence[str], *, where: str) -> None:
    for part in ("prompt", *completions):
        if not example[part]:
            raise ValueError(f"SELMTrainer: '{part}' is empty in {where}")
    for completion in completions:
        first = example[completion][0]
        if isinstance(first, dict) and first["role"] in ("system", "user"):
            raise ValueError(
                f"SELMTrainer: expected '{completion}' to begin with an assistant's message, got one "
                f"of role {first['role']!r} in {where}"
            )


def _split_prompt(example: dict[str, Any], completions: Sequence[str]) -> dict[str, Any]:
    """Take the beginning that `chosen` and `rejected` share as the prompt of every completion."""
    parts: dict[str, Any] = extract_prompt(example)
    for completion in set(completions) - set(PAIR):
        text = example[completion]
        if text[: len(parts["prompt"])] != parts["prompt"]:
            raise ValueError(
                f"SELMTrainer: expected '{completion}' to start with the prompt that 'chosen' and "
                "'rejected' share; give the prompt in a column 'prompt'"
            )
        parts[completion] = text[len(parts["prompt"]) :]
    return parts


@dataclass
class DataCollatorForSELM(DataCollatorMixin):
    """Collate tokenised examples into the distinct rows of a batch.

    A completion that equals another one of the same prompt becomes one row, so that a response
    that is also the chosen one is scored once. The batch holds

    * `chosen_rows`, `rejected_rows`, `response_rows`: `(batch,)`, int64, the row of each one;
    * `input_ids`, `attention_mask`: `(rows, time)`, int64, padded on the right;
    * `shift_labels`: `(rows, time)`, int64: the completion token that each position predicts, -100
      for positions that predict a prompt token, padding or nothing;
    * `ref_chosen_logps` and so on: `(batch,)`, float32, if the examples have them.

    Args:
        pad_token_id: token of the padding.
        max_length: longest row; longer ones are cut as `truncation_mode` says.
        truncation_mode: ``"keep_start"`` or ``"keep_end"``.
        pad_to_multiple_of: pad the time dimension to a multiple of this.
        completions: `TRIPLE`, or `PAIR` for plain DPO.
        return_tensors: ``"pt"``.

    Raises:
        ValueError: an unknown `truncation_mode`, or a `max_length` below 2.

    Example:
        >>> collate = DataCollatorForSELM(pad_token_id=0)
        >>> collate([{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5],
        ...           "response_ids": [3]}])
        {'chosen_rows': tensor([0]), 'rejected_rows': tensor([1]), 'response_rows': tensor([0]),
         'input_ids': tensor([[1, 2, 3, 0], [1, 2, 4, 5]]),
         'attention_mask': tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
         'shift_labels': tensor([[-100, 3, -100, -100], [-100, 4, 5, -100]])}
    """

    pad_token_id: int
    max_length: int | None = None
    truncation_mode: str = "keep_start"
    pad_to_multiple_of: int | None = None
    completions: Sequence[str] = TRIPLE
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        """Checks `max_length` and `truncation_mode`."""
        check_truncation("DataCollatorForSELM", self.max_length, self.truncation_mode)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate `examples` as the class describes."""
        # The order of first appearance: all chosen rows, then rejected and response, as in TRL.
        rows: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        batch = {
            f"{completion}_rows": torch.tensor(
                [rows.setdefault(self._row(example, completion), len(rows)) for example in examples]
            )
            for completion in self.completions
        }
        ids, labels = zip(*rows, strict=True)
        batch["input_ids"] = self._pad(ids, self.pad_token_id)
        batch["attention_mask"] = self._pad([[1] * len(row) for row in ids], 0)
        batch["shift_labels"] = self._pad(labels, IGNORE_INDEX)
        for completion in self.completions:
            column = f"ref_{completion}_logps"
            if column in examples[0]:
                batch[column] = torch.tensor([example[column] for example in examples])
        return batch

    def _row(
        self, example: dict[str, Any], completion: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of a completion with its prompt, and the token that each position predicts."""
        prompt, scored = tuple(example["prompt_ids"]), tuple(example[f"{completion}_ids"])
        ids = prompt + scored
        labels = (IGNORE_INDEX,) * len(prompt) + scored
        if self.max_length is not None and self.truncation_mode == "keep_start":
            ids, labels = ids[: self.max_length], labels[: self.max_length]
        elif self.max_length is not None:
            ids, labels = ids[-self.max_length :], labels[-self.max_length :]
        return ids, (*labels[1:], IGNORE_INDEX)

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        padded: torch.Tensor = pad(
            [torch.tensor(row) for row in rows],
            padding_value=value,
            padding_side="right",
            pad_to_multiple_of=self.pad_to_multiple_of,
        )
        return padded
