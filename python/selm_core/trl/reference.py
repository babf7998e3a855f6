"""Reference log-probabilities that are computed once and kept on disk."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file


def add_columns(dataset: Dataset, columns: Mapping[str, torch.Tensor]) -> Dataset:
    """Append `columns`, each `(len(dataset),)`, to `dataset`.

    Raises:
        ValueError: a column of another length.
    """
    for name, values in columns.items():
        if len(values) != len(dataset):
            raise ValueError(
                f"SELMTrainer: expected {len(dataset)} reference log-probabilities in '{name}', "
                f"got {len(values)}"
            )
    table = Dataset.from_dict({name: values.numpy() for name, values in columns.items()})
    return concatenate_datasets([dataset, table], axis=1)


def save_columns(columns: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write `columns` to `path` as safetensors; `path` never holds a part of them."""
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    save_file({name: values.contiguous() for name, values in columns.items()}, partial)
    os.replace(partial, path)


def load_columns(path: Path) -> dict[str, torch.Tensor]:
    """Read what `save_columns` wrote; a damaged file raises."""
    columns: dict[str, torch.Tensor] = load_file(path)
    return columns
