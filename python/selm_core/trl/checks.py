"""What ``SELMTrainer`` looks at before it loads or prepares anything."""

from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset

from selm_core.trl.config import SELMConfig
from selm_core.trl.data import DataCollatorForSELM, needed_completions, text_columns
from selm_core.trl.unsupported import refuse


def check_setup(
    model: Any,
    ref_model: Any,
    args: Any,
    train_dataset: Any,
    data_collator: Any,
    compute_metrics: Any,
    peft_config: Any,
) -> None:
    """Refuse what would fail or mislead later; the arguments are those of ``SELMTrainer``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an empty dataset, or a collator that does not do what `args` says.
        UnsupportedError: what `UNSUPPORTED_SETUPS` lists.
    """
    if not isinstance(args, SELMConfig):
        raise TypeError(
            f"SELMTrainer: expected 'args' to be a SELMConfig, got {type(args).__name__}"
        )
    if ref_model is not None and not isinstance(ref_model, torch.nn.Module):
        raise TypeError(
            f"SELMTrainer: expected 'ref_model' to be a model, got {type(ref_model).__name__}"
        )
    if data_collator is not None:
        _check_collator(data_collator, args)
    if isinstance(train_dataset, Dataset | IterableDataset):
        text_columns(train_dataset, "train")
    if compute_metrics is not None:
        refuse("compute_metrics and predict()")
    pretrained = not isinstance(model, str) and is_peft_model(model)
    adapters = model.peft_config if pretrained else {}
    for adapter in (peft_config, *adapters.values()):
        if getattr(adapter, "is_prompt_learning", False):
            refuse("prompt-learning PEFT", type(adapter).__name__)
    if ref_model is None and "ref" in adapters:
        refuse("a second frozen copy of a PEFT adapter")
    deepspeed = args.deepspeed_plugin
    if args.distributed_state.distributed_type == "FSDP" or (
        deepspeed is not None and deepspeed.zero_stage == 3
    ):
        refuse("sharded parameters (FSDP, DeepSpeed ZeRO-3)")
    parallelism = args.parallelism_config
    if parallelism is not None and parallelism.non_data_parallel_size > 1:
        refuse("tensor, context or sequence parallelism")


def _check_collator(collator: Any, args: SELMConfig) -> None:
    if not isinstance(collator, DataCollatorForSELM):
        raise TypeError(
            "SELMTrainer: expected 'data_collator' to be a DataCollatorForSELM, got "
            f"{type(collator).__name__}"
        )
    for option in ("max_length", "truncation_mode", "pad_to_multiple_of"):
        here, there = getattr(collator, option), getattr(args, option)
        if here != there:
            raise ValueError(
                f"SELMTrainer: expected 'data_collator' to have the '{option}' of 'args', "
                f"{there!r}, got {here!r}"
            )
    needed = needed_completions(args.explores)
    if tuple(collator.completions) != needed:
        raise ValueError(
            f"SELMTrainer: expected 'data_collator' to have the completions {needed} for "
            f"alpha={args.alpha}, final_alpha={args.final_alpha}, got {tuple(collator.completions)}"
        )
