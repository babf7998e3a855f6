"""With alpha = 0 the trainer is TRL's DPOTrainer: same tokens, loss, gradients and metrics."""

import pytest
import torch
from peft import LoraConfig
from selm_core.trl import SELMTrainer
from tiny_models import (
    batch_of,
    chat_dataset,
    gradients,
    text_dataset,
    tiny_config,
    tiny_llama,
    tiny_tokenizer,
)
from trl import DPOConfig, DPOTrainer

NEW_METRICS = {"loss/dpo", "loss/selm", "logps/response", "rewards/response"}


def trl_config(config):
    """The DPOConfig with the same values."""
    names = DPOConfig.__dataclass_fields__
    return DPOConfig(**{name: getattr(config, name) for name in names if names[name].init})


def reference_model():
    return tiny_llama(seed=1)


def both_trainers(tmp_path, dataset, peft=None, **options):
    config = tiny_config(tmp_path, alpha=0.0, beta=0.1, **options)
    arguments = {"train_dataset": dataset, "processing_class": tiny_tokenizer()}
    if peft is None:
        arguments["ref_model"] = reference_model()
    ours = SELMTrainer(tiny_llama(), args=config, peft_config=peft, **arguments)
    if peft is None:
        arguments["ref_model"] = reference_model()
    trls = DPOTrainer(tiny_llama(), args=trl_config(config), peft_config=peft, **arguments)
    return ours, trls


def step(trainer, indices=(0, 1, 2, 3)):
    """Loss, gradients and metrics of one batch."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, list(indices)))
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return loss.detach(), gradients(trainer.model), metrics


def assert_same_step(ours, trls):
    loss, grads, metrics = step(ours)
    trl_loss, trl_grads, trl_metrics = step(trls)
    torch.testing.assert_close(loss, trl_loss, rtol=2e-6, atol=0)
    assert grads.keys() == trl_grads.keys()
    scale = max(grad.abs().max() for grad in trl_grads.values())
    assert scale > 1e-4
    for name, grad in trl_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=2e-6 * float(scale))
    assert metrics.keys() == trl_metrics.keys()
    for name, value in trl_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo"])
def test_loss_gradients_and_metrics_are_those_of_trl(tmp_path, loss_type):
    assert_same_step(*both_trainers(tmp_path, text_dataset(), loss_type=loss_type))


def test_conversations_are_scored_as_by_trl(tmp_path):
    assert_same_step(*both_trainers(tmp_path, chat_dataset()))


def test_lora_is_trained_as_by_trl(tmp_path):
    peft = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    assert_same_step(*both_trainers(tmp_path, text_dataset(), peft=peft))


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.filterwarnings("ignore:.*keep_end.*:FutureWarning")
def test_truncation_is_that_of_trl(tmp_path, mode):
    assert_same_step(*both_trainers(tmp_path, text_dataset(), max_length=18, truncation_mode=mode))


@pytest.mark.parametrize("dataset", [text_dataset, chat_dataset])
def test_tokens_are_those_of_trl(tmp_path, dataset):
    ours, trls = both_trainers(tmp_path, dataset())
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours.train_dataset[column][:] == trls.train_dataset[column][:]


def test_training_logs_what_trl_logs(tmp_path):
    ours, trls = both_trainers(tmp_path, text_dataset(), max_steps=3)
    ours.train()
    trls.train()
    timing = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
    for entry, trl_entry in zip(ours.state.log_history, trls.state.log_history, strict=True):
        assert entry.keys() == trl_entry.keys()
        for name in entry.keys() - timing:
            assert entry[name] == pytest.approx(trl_entry[name], rel=1e-4, abs=1e-5), name
    for name, parameter in trls.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], parameter, rtol=0, atol=1e-5)


def test_exploration_adds_four_metrics_and_leaves_the_others(tmp_path):
    trainer = SELMTrainer(
        tiny_llama(),
        ref_model=reference_model(),
        args=tiny_config(tmp_path, alpha=0.5, beta=0.1),
        train_dataset=text_dataset(),
        processing_class=tiny_tokenizer(),
    )
    _, trls = both_trainers(tmp_path, text_dataset())
    metrics, trl_metrics = step(trainer)[2], step(trls)[2]
    assert metrics.keys() - trl_metrics.keys() == NEW_METRICS
    assert metrics.pop("num_tokens") > trl_metrics.pop("num_tokens")  # the third rows count
    for name, value in trl_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
