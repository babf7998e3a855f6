"""Mistakes in SELMConfig's options that transformers finds only when it builds a trainer or trains:
after the first iteration's generation has been paid for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, Trainer, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from selm_core.errors import InputError
from selm_core.trl import SELMConfig

_POSITIVE = ("a number above 0", lambda value: value > 0)
_AT_LEAST_ONE = ("at least 1", lambda value: value >= 1)
_AT_LEAST_ZERO = ("at least 0", lambda value: value >= 0)
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "dataloader_num_workers": _AT_LEAST_ZERO,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "logging_steps": _POSITIVE,
    "max_grad_norm": _AT_LEAST_ZERO,
    "max_steps": ("-1 or at least 1", lambda value: value == -1 or value >= 1),
    "num_train_epochs": _POSITIVE,
    "per_device_train_batch_size": _AT_LEAST_ONE,
    "precompute_ref_batch_size": _AT_LEAST_ONE,
}


def check_trainer_options(args: SELMConfig, model: PreTrainedModel) -> None:
    """Checks ranges and builds what a trainer builds from names: callbacks, optimizer and schedule.

    Args:
        args: the options.
        model: has the names of the policy's parameters; it may be on the meta device.

    Raises:
        InputError: an option outside its range, or one that names what is unknown or not installed.
    """
    for name, (expected, holds) in _RANGES.items():
        value = getattr(args, name)
        if value is not None and not holds(value):
            raise InputError(
                f"OnlineConfig: expected '{name}' in 'training' to be {expected}, got {value!r}"
            )
    _build(
        ["report_to"], lambda: [c() for c in get_reporting_integration_callbacks(args.report_to)]
    )
    _build(
        ["optim", "optim_args", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon"],
        lambda: _optimizer(args, model),
    )
    _build(["lr_scheduler_type", "lr_scheduler_kwargs"], lambda: _schedule(args))


def check_max_length(max_length: int | None, prompt_ids: Sequence[Sequence[int]]) -> None:
    """The trainer would drop an example whose prompt leaves no room for a completion.

    Raises:
        InputError: `max_length` is not above the longest prompt's number of tokens.
    """
    longest = max(map(len, prompt_ids))
    if max_length is not None and max_length <= longest:
        raise InputError(
            f"OnlineConfig: expected 'max_length' in 'training' to be above {longest}, the tokens "
            f"of the longest prompt in 'train_dataset', got {max_length}"
        )


def _build(options: Sequence[str], build: Callable[[], object]) -> None:
    try:
        build()
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"OnlineConfig: {' / '.join(options)} in 'training': {error}") from error


def _optimizer(args: SELMConfig, model: PreTrainedModel) -> None:
    """The optimizer on a parameter of its own; some are of the model's and are only looked up."""
    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if options.keys().isdisjoint({"model", "optimizer_dict", "params"}):
        optimizer([torch.nn.Parameter(torch.zeros(1))], **options)


def _schedule(args: SELMConfig) -> None:
    get_scheduler(
        args.lr_scheduler_type,
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]),
        num_warmup_steps=0,
        num_training_steps=1,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs or {},  # type: ignore[arg-type] # parsed
    )
