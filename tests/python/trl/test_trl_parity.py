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


def assert_same_step(ours, trls, amplified=1):
    """`amplified`: by how much the loss enlarges the rounding of TRL's float32 sums over tokens."""
    loss, grads, metrics = step(ours)
    trl_loss, trl_grads, trl_metrics = step(trls)
    torch.testing.assert_close(loss, trl_loss, rtol=2e-6 * amplified, atol=0)
    assert grads.keys() == trl_grads.keys()
    scale = max(grad.abs().max() for grad in trl_grads.values())
    assert scale > 1e-4
    for name, grad in trl_grads.items():
        torch.testing.assert_close(
            grads[name], grad, rtol=1e-4, atol=2e-6 * amplified * float(scale)
        )
    assert metrics.keys() == trl_metrics.keys()
    for name, value in trl_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


SMOOTHED = {"exo_pair": 0.1, "robust": 0.2, "aot": 0.1, "aot_unpaired": 0.3}


@pytest.mark.parametrize(
    "loss_type",
    [
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
        *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ],
)
def test_loss_gradients_and_metrics_are_those_of_trl(tmp_path, loss_type):
    options = {"loss_type": loss_type, "label_smoothing": SMOOTHED.get(loss_type, 0.0)}
    assert_same_step(*both_trainers(tmp_path, text_dataset(), **options))


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
        {"f_divergence_type": "forward_kl"},
        {"f_divergence_type": "js_divergence", "loss_type": "hinge"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        {"loss_type": "discopop", "discopop_tau": 0.3},
        {"ld_alpha": 0.25},
        {"ld_alpha": 0.0, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"ld_alpha": 0.5, "loss_type": ["hinge", "sft"], "f_divergence_type": "js_divergence"},
        {"ld_alpha": 0.5, "precompute_ref_log_probs": True},
        {"use_weighting": True},
        {"use_weighting": True, "loss_type": ["sigmoid", "nca_pair"], "loss_weights": [1.0, 2.0]},
        {"use_weighting": True, "ld_alpha": 0.5, "f_divergence_type": "forward_kl"},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_to_trl(tmp_path, options):
    # The scores of forward KL are 1 - exp(-rho), and some rho of these untrained models is -3.
    amplified = 20 if options.get("f_divergence_type") == "forward_kl" else 1
    assert_same_step(*both_trainers(tmp_path, text_dataset(), **options), amplified)


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
