"""One iteration's training: SELM moves a copy of the reference policy on the iteration's pairs."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)

from selm_core.online.pairs import PreferencePair
from selm_core.trl import SELMConfig, SELMTrainer

METRICS = {
    "loss": "loss",
    "reward_margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
    "exploration": "loss/selm",
}
"""Name in an iteration's record -> name in the trainer's log."""

SET_BY_THE_LOOP = {
    "output_dir",
    "seed",
    "data_seed",
    "save_strategy",
    "eval_strategy",
    "disable_tqdm",
    "resume_from_checkpoint",
    "load_best_model_at_end",
    "push_to_hub",  # a loop must never publish what it trained
}

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "max_length": None,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
}
"""Where the loop's defaults differ from SELMConfig's: one epoch per iteration as in the paper,
lengths that generation bounds already, and a record of each step as it is."""


@dataclass(frozen=True)
class Training:
    """Means over the iteration's steps (None where the trainer did not log one), and the values of
    each step."""

    means: dict[str, float | None]
    steps: list[dict[str, float]]


def selm_config(training: Mapping[str, Any], *, output_dir: Path, seed: int) -> SELMConfig:
    """SELMConfig from the keyword arguments in `training`. Raises ValueError for those that the
    loop sets itself."""
    conflicts = sorted(SET_BY_THE_LOOP & training.keys())
    if conflicts:
        raise ValueError(
            f"OnlineConfig: expected 'training' without {conflicts}: "
            "the loop sets them for each iteration"
        )
    return SELMConfig(
        **{**DEFAULTS, **training},
        output_dir=str(output_dir),
        seed=seed,
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
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

    Raises FloatingPointError if a step's loss was not finite.
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
        train_dataset=pair_dataset(pairs, with_response=args.alpha != 0),
        processing_class=tokenizer,
        peft_config=None if lora is None else LoraConfig(task_type="CAUSAL_LM", **lora),
        callbacks=[_ShowSteps(description)],
    )
    # Progress is shown by the callback above; these two print every step's metrics.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    trained = trainer.model if lora is None else trainer.model.merge_and_unload()
    training = _checked([_record(log) for log in trainer.state.log_history if "loss" in log])
    trained.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    del policy, trained, trainer
    # They refer to each other: without this the next phase would need their memory too.
    gc.collect()
    return training


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


def _checked(steps: list[dict[str, float]]) -> Training:
    for number, step in enumerate(steps, start=1):
        if not math.isfinite(step["loss"]):
            raise FloatingPointError(
                f"training: the loss of logged step {number} is {step['loss']}; "
                "nothing was committed: lower learning_rate or alpha"
            )
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
