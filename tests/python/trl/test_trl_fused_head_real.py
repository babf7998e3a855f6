"""Real text and a real model: TRL's own trainers log and learn the same inside `use_linear_logps`."""

import contextlib
import re
from functools import partial

import pytest
import selm_core
import torch
from datasets import Dataset
from selm_core.demo.model import demo_model
from selm_core.trl import use_linear_logps
from test_trl_fused_head import length_reward
from test_trl_real_data import PREFERENCES, perturbed, real_preferences
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PREFERENCES.is_file(),
        reason="shared/data with real preferences is not beside the project",
    ),
]

# One step of plain gradient descent, so large that the weights show the gradient and not their own rounding.
# (Adam divides by the gradient's size, which makes rounding errors as large as gradients.)
SETTINGS = {
    "use_cpu": True,
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": 1.0,
    "per_device_train_batch_size": 2,
    "activation_checkpointing": False,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "seed": 3,
}


def real_model():
    return AutoModelForCausalLM.from_pretrained(demo_model())


def tokenizer():
    return AutoTokenizer.from_pretrained(demo_model())


def dpo(folder):
    return DPOTrainer(
        real_model(),
        ref_model=perturbed(real_model()),
        args=DPOConfig(
            str(folder),
            bf16=False,
            max_length=48,
            **SETTINGS,
        ),
        train_dataset=real_preferences(1),
        processing_class=tokenizer(),
    )


def sft(folder, bf16=False):
    texts = [row["prompt"] + "\n" + row["chosen"] for row in real_preferences(2)]
    return SFTTrainer(
        real_model(),
        args=SFTConfig(
            str(folder),
            bf16=bf16,
            max_length=48,
            **SETTINGS,
        ),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=tokenizer(),
    )


def grpo(folder):
    return GRPOTrainer(
        real_model(),
        reward_funcs=length_reward,
        args=GRPOConfig(
            str(folder),
            bf16=False,
            max_completion_length=6,
            num_generations=2,
            beta=0.0,
            entropy_coef=0.01,
            **SETTINGS,
        ),
        train_dataset=real_preferences(2).select_columns("prompt"),
        processing_class=tokenizer(),
    )


def both_ways(make, folder, monkeypatch):
    """The log entries and weights of TRL's trainer as it is, and inside the switch."""
    calls = []
    own = selm_core.linear_logps
    monkeypatch.setattr(
        selm_core, "linear_logps", lambda *args, **kw: (calls.append(kw), own(*args, **kw))[1]
    )
    runs = []
    for switch in (contextlib.nullcontext, use_linear_logps):
        with switch():
            torch.manual_seed(0)
            trainer = make(folder)
            trainer.train()
        runs.append((trainer.state.log_history, trainer.model.state_dict()))
        assert bool(calls) == (len(runs) == 2)
    return runs


def measured(entry):
    """What an entry says of the model; the rest is of the clock."""
    return {k: v for k, v in entry.items() if not re.search("time|per_second", k)}


def update_error(weights, switched_weights):
    """The worst parameter's difference, as a part of how far it moved."""
    before = real_model().state_dict()
    return max(
        (switched_weights[name] - weight).norm() / (weight - before[name]).norm()
        for name, weight in weights.items()
    )


@pytest.mark.parametrize("make", [dpo, sft, grpo])
def test_float32(make, tmp_path, monkeypatch):
    """All that is logged, and what the weights learned, agree within float32's rounding."""
    (logs, weights), (switched_logs, switched_weights) = both_ways(make, tmp_path, monkeypatch)
    for entry, expected in zip(switched_logs, logs, strict=True):
        # DPO's rewards are 0.1 times differences of sums near 100, whose spacing is 8e-6.
        assert measured(entry) == pytest.approx(measured(expected), rel=1e-5, abs=4e-6)
    # Weights near 1 move by 1e-4 on average, and their spacing is 1e-7.
    assert update_error(weights, switched_weights) < 5e-4


def test_bfloat16(tmp_path, monkeypatch):
    """TRL rounds its logits to bfloat16, 2^-9 of their size, and we do not."""
    (logs, weights), (switched_logs, switched_weights) = both_ways(
        partial(sft, bf16=True), tmp_path, monkeypatch
    )
    for name in ("loss", "entropy", "grad_norm"):
        assert switched_logs[0][name] == pytest.approx(logs[0][name], rel=2**-8), name
    assert update_error(weights, switched_weights) < 0.1
