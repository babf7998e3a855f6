"""A run that is stopped and resumed ends bit for bit where an undisturbed one ends."""

import shutil

import pytest
import torch
from peft import LoraConfig
from selm_core.trl import SELMTrainer
from tiny_models import text_dataset, tiny_config, tiny_llama, tiny_tokenizer
from transformers import TrainerCallback


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def make_trainer(folder, callbacks=(), peft=False, **options):
    return SELMTrainer(
        tiny_llama(),
        args=tiny_config(
            folder,
            **{
                "alpha": 0.5,
                "beta": 0.3,
                "max_steps": 6,
                "save_strategy": "steps",
                "save_steps": 3,
                "learning_rate": 1e-2,
                **options,
            },
        ),
        train_dataset=text_dataset(10),
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
        peft_config=LoraConfig(r=4, target_modules=["q_proj"]) if peft else None,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"peft": True},
        {"precompute_ref_log_probs": True},
        {"gradient_accumulation_steps": 2},
        {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_resuming_is_exact(tmp_path, options):
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    make_trainer(tmp_path / "parts", [StopAfter(3)], **options).train()
    resumed = make_trainer(tmp_path / "parts", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    keys = ("loss", "loss/selm", "logps/response", "rewards/margins", "grad_norm")
    for entry, wanted in zip(
        resumed.state.log_history[3:6], whole.state.log_history[3:6], strict=True
    ):
        assert {key: entry[key] for key in keys} == {key: wanted[key] for key in keys}


def test_a_missing_reference_model_is_noticed(tmp_path):
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1}
    make_trainer(tmp_path, [StopAfter(3)], **options).train()
    shutil.rmtree(tmp_path / "checkpoint-3" / "ref_model")
    trainer = make_trainer(tmp_path, **options)
    with pytest.raises(FileNotFoundError, match="ref_model is missing"):
        trainer.train(resume_from_checkpoint=True)
    for name, weight in tiny_llama().state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight)
