"""One iteration's training: SELM moves a copy of the reference policy on the iteration's pairs."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)

from selm_core.errors import InputError, UnsupportedError, UserError
from selm_core.online.adapter import lora_config
from selm_core.online.arguments import check_arguments
from selm_core.online.pairs import PreferencePair
from selm_core.trl import SELMConfig, SELMTrainer

METRICS = {
    "loss": "loss",
    "reward_margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
    "exploration": "loss/selm",
}
"""Name in an iteration's record -> name in the trainer's log."""

SET_BY_THE_LOOP = {"output_dir", "seed", "data_seed", "disable_tqdm", "logging_nan_inf_filter"}

# An iteration's trainer neither evaluates nor saves nor resumes: the loop does, between iterations.
# It never publishes. Options with such a word in their name would do nothing, or interfere.
DONE_BY_THE_LOOP = {"best", "checkpoint", "do", "eval", "hub", "save"}
WITHOUT_EFFECT = {
    "greater_is_better",
    "ignore_data_skip",
    "include_for_metrics",
    "label_names",
    "prediction_loss_only",
    "model_init_kwargs",  # models come loaded
    "trust_remote_code",
    "sync_ref_model",  # the loop moves the reference
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
}

FOR_MORE_PROCESSES = {"ddp_backend", "deepspeed", "fsdp", "fsdp_config", "parallelism_config"}

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "max_length": None,
    "logging_steps": 1,
}
"""Where the loop's defaults differ from SELMConfig's: one epoch per iteration as in the paper,
lengths that generation bounds already, and a record of each step."""


PAIRS_CHECKED = 8

ADVICE = "nothing was committed: lower learning_rate or alpha"


class TrainingDivergedError(UserError, FloatingPointError):
    """A step's loss was not finite, or the trained policy gives no probabilities."""


@dataclass(frozen=True)
class Training:
    """Means over the iteration's steps (None where the trainer did not log one), and the values of
    each step."""

    means: dict[str, float | None]
    steps: list[dict[str, float]]


def selm_config(training: Mapping[str, Any], *, output_dir: Path, seed: int) -> SELMConfig:
    """SELMConfig from the keyword arguments in `training`.

    Raises:
        InputError: one that SELMConfig does not take, or that would do nothing in the loop.
        UnsupportedError: one that is for several processes.
    """
    _check_training(training)
    try:
        config = SELMConfig(
            **{**DEFAULTS, **training},
            output_dir=str(output_dir),
            seed=seed,
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
            logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        )
    except (ImportError, NotImplementedError, OSError, TypeError, ValueError) as error:
        raise InputError(f"OnlineConfig: 'training': {error}") from error
    if config.exploration != "selm":
        raise InputError(
            "OnlineConfig: expected 'exploration' in 'training' to be 'selm', got "
            f"{config.exploration!r}: the loop is SELM's and moves the reference policy"
        )
    return config


def _check_training(training: Mapping[str, Any]) -> None:
    options = {field.name for field in fields(SELMConfig)}
    check_arguments("training", training, SELMConfig, allowed=options)
    if launched := sorted(training.keys() & FOR_MORE_PROCESSES):
        raise UnsupportedError(
            f"OnlineConfig: expected 'training' without {launched}: the loop runs in one process"
        )
    if conflicts := sorted(name for name in training if _is_the_loops(name)):
        raise InputError(
            f"OnlineConfig: expected 'training' without {conflicts}: the loop itself names folders "
            "and seeds, loads, saves, evaluates, continues and moves the reference, and it never "
            "publishes"
        )


def _is_the_loops(option: str) -> bool:
    return option in SET_BY_THE_LOOP | WITHOUT_EFFECT or not DONE_BY_THE_LOOP.isdisjoint(
        option.split("_")
    )


def load_model(path: str | Path, *, dtype: str, device: torch.device) -> PreTrainedModel:
    """The causal language model in `path`, on `device`."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return cast(PreTrainedModel, model.to(device))


def train(
    reference: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    *,
    args: SELMConfig,
    lora: Mapping[str, Any] | None,
    dtype: str,
    destination: Path,
    description: str,
) -> Training:
    """Loads the policy from `reference`, trains it on `pairs`, and saves it, adapters merged, with
    its tokenizer.

    Raises TrainingDivergedError if a step's loss was not finite, or the result gives no
    probabilities.
    """
    policy = load_model(reference, dtype=dtype, device=args.device)
    # With an adapter the reference is the policy without it, else a second copy. The trainer would
    # load one by the name in the model's configuration, which may still be the first policy's.
    trainer = SELMTrainer(
        model=policy,
        ref_model=None
        if lora is not None
        else load_model(reference, dtype=dtype, device=args.device),
        args=args,
        train_dataset=pair_dataset(pairs, with_response=args.explores),
        processing_class=tokenizer,
        peft_config=None if lora is None else lora_config(lora),
        callbacks=[_ShowSteps(description)],
    )
    # Progress is shown by the callback above; these two print every step's metrics.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    mean_loss = trainer.train().training_loss
    steps = [_record(log) for log in trainer.state.log_history if "loss" in log]
    _check_finite(mean_loss, steps)
    trained = trainer.model if lora is None else trainer.model.merge_and_unload()
    for pair in pairs[:PAIRS_CHECKED]:
        _check_probabilities(trained, pair)
    trained.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    del policy, trained, trainer
    # They refer to each other: without this the next phase would need their memory too.
    gc.collect()
    return _means(steps)


def pair_dataset(pairs: Sequence[PreferencePair], *, with_response: bool) -> Dataset:
    """Token ids as they were generated. Without a response column the trainer computes plain DPO,
    at DPO's cost."""
    columns = {
        "prompt_ids": [pair.prompt_ids for pair in pairs],
        "chosen_ids": [pair.chosen.token_ids for pair in pairs],
        "rejected_ids": [pair.rejected.token_ids for pair in pairs],
    }
    if with_response:
        columns["response_ids"] = [
            pair.response.token_ids for pair in pairs if pair.response is not None
        ]
    return Dataset.from_dict(columns)


def _record(log: Mapping[str, float]) -> dict[str, float]:
    return {name: float(log[key]) for name, key in METRICS.items() if key in log}


def _check_finite(mean_loss: float, steps: Sequence[Mapping[str, float]]) -> None:
    """`mean_loss` is of all steps, also of those that were not logged."""
    logged = enumerate((step["loss"] for step in steps), start=1)
    first = next((f" (first in log entry {n}: {x})" for n, x in logged if not math.isfinite(x)), "")
    if first or not math.isfinite(mean_loss):
        raise TrainingDivergedError(
            f"training: the mean loss of the iteration is {mean_loss}{first}; {ADVICE}"
        )


@torch.no_grad()
def _check_probabilities(policy: PreTrainedModel, pair: PreferencePair) -> None:
    """The losses do not show what the last step did."""
    ids = torch.tensor([pair.prompt_ids + pair.chosen.token_ids], device=policy.device)
    if policy(input_ids=ids, use_cache=False).logits.log_softmax(-1).isnan().any():
        raise TrainingDivergedError(
            f"training: the trained policy's logits are not finite for {pair.prompt!r}; {ADVICE}"
        )


def _means(steps: list[dict[str, float]]) -> Training:
    values = {name: [step[name] for step in steps if name in step] for name in METRICS}
    return Training({name: fmean(v) if v else None for name, v in values.items()}, steps)


class _ShowSteps(TrainerCallback):
    """One progress bar over the optimizer's steps."""

    def __init__(self, description: str) -> None:
        self.description = description

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc=self.description, unit="step", leave=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        if logs is not None and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()
