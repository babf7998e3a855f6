"""The LoRA adapter that is trained, and merged, in each iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import PreTrainedModel

from selm_core.errors import InputError
from selm_core.online.arguments import check_arguments
from selm_core.trl.head import output_head

# What LoraConfig inherits describes a saved adapter; those fields are PEFT's to fill.
OPTIONS = {field.name for field in fields(LoraConfig)} - {
    field.name for field in fields(PeftConfig)
}


def lora_config(lora: Mapping[str, Any]) -> LoraConfig:
    """LoraConfig from the keyword arguments in `lora`. Raises InputError if it takes them not."""
    check_arguments("lora", lora, LoraConfig, allowed=OPTIONS)
    try:
        return LoraConfig(task_type="CAUSAL_LM", **lora)
    except (TypeError, ValueError) as error:
        raise InputError(f"OnlineConfig: 'lora': {error}") from error


def check_adapter(policy: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Puts the adapter on `policy`, a model on the meta device: modules that are not there would
    otherwise be noticed after the first iteration's generation.

    Raises:
        InputError: the adapter does not fit the model.
        UnsupportedError: the trainer refuses it.
    """
    lora_config(lora)
    with torch.device("meta"):
        # Without initial values: some kinds are computed from the weights.
        adapter = lora_config({**lora, "init_lora_weights": False})
        try:
            get_peft_model(policy, adapter)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise InputError(f"OnlineConfig: 'lora': {error}") from error
    output_head(policy)
