"""TRL's own trainers inside `use_linear_logps`: the same numbers, another function."""

import copy

import pytest
import selm_core
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from selm_core.errors import MissingPackageError, UnsupportedError
from selm_core.trl import use_linear_logps
from selm_core.trl.fused_head import LinearLogprobFunction
from tiny_models import batch_of, gradients, text_dataset, text_examples, tiny_llama, tiny_tokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.trainer import utils

OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "learning_rate": 1e-3,
    "seed": 3,
}


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of linear_logps."""
    counted = []
    own = selm_core.linear_logps

    def counting(*args, **kwargs):
        counted.append(kwargs)
        return own(*args, **kwargs)

    monkeypatch.setattr(selm_core, "linear_logps", counting)
    return counted


def fused_outputs(model, ids, labels):
    """All outputs, and the gradients of a loss of those that carry one."""
    model.zero_grad()
    out = model(input_ids=ids, labels=labels, fused_lm_head=True)
    weights = torch.linspace(-1, 1, out.log_probs.numel()).view_as(out.log_probs)
    (out.loss + (weights * out.entropy).sum()).backward()
    return out, gradients(model)


IDS = torch.randint(4, 260, (3, 12), generator=torch.Generator().manual_seed(0))
LABELS = IDS.masked_fill(torch.arange(12) < torch.tensor([[3], [7], [12]]), -100)


def assert_same_outputs(out, expected):
    for name in ("loss", "log_probs", "entropy", "log_sum_sq_probs", "mean_logits"):
        torch.testing.assert_close(
            getattr(out, name), getattr(expected, name), rtol=1e-5, atol=2e-5
        )
    assert torch.equal(out.is_top1, expected.is_top1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"final_logit_softcapping": 5.0},
        {"logit_scale": 0.4},
        {"tie_word_embeddings": True},
    ],
)
@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_output_and_its_gradient(temperature, frozen_head, options, calls):
    model = tiny_llama(**options)
    model.lm_head.requires_grad_(not frozen_head)
    utils.add_fused_lm_head(model, temperature, outputs=OUTPUTS)
    expected, expected_grads = fused_outputs(model, IDS, LABELS)
    assert not calls
    with use_linear_logps():
        out, grads = fused_outputs(model, IDS, LABELS)
    assert len(calls) == 1
    assert_same_outputs(out, expected)
    assert grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        torch.testing.assert_close(
            grads[name], grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item()
        )


def test_a_batch_without_a_label(calls):
    """A zero that can be differentiated, as on a rank whose completions were all cut off."""
    model = tiny_llama()
    utils.add_fused_lm_head(model, outputs=OUTPUTS)
    with use_linear_logps():
        out, grads = fused_outputs(model, IDS, torch.full_like(IDS, -100))
    assert len(calls) == 1
    assert out.loss == 0
    assert grads.keys() == dict(model.named_parameters()).keys()
    assert all(grad.count_nonzero() == 0 for grad in grads.values())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_gradients(context, calls):
    """As of a reference model."""
    model = tiny_llama()
    utils.add_fused_lm_head(model, outputs=OUTPUTS)
    with context():
        expected = model(input_ids=IDS, labels=LABELS, fused_lm_head=True)
        with use_linear_logps():
            out = model(input_ids=IDS, labels=LABELS, fused_lm_head=True)
    assert len(calls) == 1
    assert_same_outputs(out, expected)
    assert not out.log_probs.requires_grad


def dpo(folder, model, **options):
    return DPOTrainer(
        model,
        ref_model=tiny_llama(seed=1),
        args=DPOConfig(str(folder), **SETTINGS, **options),
        train_dataset=text_dataset(drop=("response",)),
        processing_class=tiny_tokenizer(),
    )


def sft(folder, model, **options):
    rows = [{"text": row["prompt"] + row["chosen"]} for row in text_examples()]
    return SFTTrainer(
        model,
        args=SFTConfig(str(folder), **SETTINGS, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
    )


def kto(folder, model, **options):
    rows = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0}
        for i, row in enumerate(text_examples())
    ]
    return KTOTrainer(
        model,
        ref_model=tiny_llama(seed=1),
        args=KTOConfig(str(folder), **SETTINGS, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
    )


def length_reward(completions, **_):
    return [float(len(completion) % 7) for completion in completions]


def online(trainer, config, folder, model, **options):
    return trainer(
        model,
        reward_funcs=length_reward,
        args=config(
            str(folder), num_generations=2, max_completion_length=8, beta=0.0, **SETTINGS, **options
        ),
        train_dataset=text_dataset(drop=("chosen", "rejected", "response")),
        processing_class=tiny_tokenizer(),
    )


def grpo(folder, model, **options):
    return online(GRPOTrainer, GRPOConfig, folder, model, **options)


def grpo_with_entropy_bonus(folder, model, **options):
    return grpo(folder, model, entropy_coef=0.1, **options)


def rloo(folder, model, **options):
    return online(RLOOTrainer, RLOOConfig, folder, model, **options)


def adapted_llama(**options):
    """A model with LoRA, whose adapter differs from 0."""
    config = LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return get_peft_model(tiny_llama(), config)


def llama_with_a_whole_head():
    return adapted_llama(target_modules=["q_proj"], modules_to_save=["lm_head"])


def assert_same_training(plain, switched):
    """Logged numbers and weights."""
    for entry, expected in zip(switched.state.log_history, plain.state.log_history, strict=True):
        assert entry.keys() == expected.keys()
        for name in {"loss", "grad_norm", "entropy", "mean_token_accuracy"} & entry.keys():
            assert entry[name] == pytest.approx(expected[name], rel=2e-4, abs=2e-5), name
    for name, parameter in plain.model.state_dict().items():
        torch.testing.assert_close(
            switched.model.state_dict()[name], parameter, rtol=0, atol=1e-4, msg=name
        )


@pytest.mark.parametrize(
    ("make", "make_model"),
    [
        *((make, tiny_llama) for make in (dpo, sft, kto, grpo, grpo_with_entropy_bonus, rloo)),
        (sft, llama_with_a_whole_head),
    ],
)
def test_trainers_learn_the_same(make, make_model, tmp_path, calls):
    model = make_model()
    torch.manual_seed(0)
    plain = make(tmp_path / "plain", copy.deepcopy(model))
    plain.train()
    assert not calls
    torch.manual_seed(0)
    with use_linear_logps():
        switched = make(tmp_path / "switched", model)
        switched.train()
    assert len(calls) >= 2
    assert_same_training(plain, switched)


@pytest.mark.parametrize("make", [dpo, sft, kto, grpo, rloo])
def test_an_adapter_on_the_head_is_refused(make, tmp_path):
    """By TRL itself: it would be left out, as the head's own weight is all that is read."""
    model = adapted_llama(target_modules=["q_proj", "lm_head"])
    with use_linear_logps(), pytest.raises(ValueError, match="adapter to `lm_head` is not support"):
        make(tmp_path, model)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [dpo, sft])
def test_activation_checkpointing(make, reentrant, tmp_path):
    with use_linear_logps():
        kept = make(tmp_path / "kept", tiny_llama(), activation_checkpointing=False)
        kept.train()
        recomputed = make(
            tmp_path / "recomputed",
            tiny_llama(),
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": reentrant},
        )
        recomputed.train()
    assert not kept.model.is_activation_checkpointing
    assert recomputed.model.is_activation_checkpointing
    assert_same_training(kept, recomputed)


def test_positions_without_a_label_are_dropped_first(tmp_path, monkeypatch):
    """Also on a CPU, where TRL scores every position."""
    rows = []
    own = LinearLogprobFunction.apply
    monkeypatch.setattr(
        LinearLogprobFunction,
        "apply",
        staticmethod(lambda hidden, *rest: (rows.append(len(hidden)), own(hidden, *rest))[1]),
    )
    trainer = dpo(tmp_path, tiny_llama())
    batch = batch_of(trainer, [0, 1])
    with use_linear_logps():
        trainer.compute_loss(trainer.model, batch)
    assert set(rows) == {int(batch["completion_mask"].sum())}


def test_the_switch_is_undone():
    function, question = utils._ChunkedLogProbFunction, utils._use_triton
    with use_linear_logps(), use_linear_logps():
        assert utils._ChunkedLogProbFunction is LinearLogprobFunction
    assert (utils._ChunkedLogProbFunction, utils._use_triton) == (function, question)
    with pytest.raises(ZeroDivisionError), use_linear_logps():
        raise ZeroDivisionError
    switch = use_linear_logps()
    assert utils._use_triton(torch.device("cpu"))
    switch.undo()
    switch.undo()
    assert (utils._ChunkedLogProbFunction, utils._use_triton) == (function, question)


class OtherFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight):
        """Arguments of another version."""


@pytest.mark.parametrize("found", [OtherFunction, None])
def test_unknown_hooks_are_refused(monkeypatch, found):
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", found)
    with pytest.raises(MissingPackageError, match=r"use_linear_logps is written for TRL 1\.16"):
        use_linear_logps()
    assert utils._ChunkedLogProbFunction is found


def test_a_partitioned_head_is_refused():
    model = tiny_llama()
    utils.add_fused_lm_head(model)
    model.lm_head.weight.ds_id = 1
    ids = torch.arange(4, 10).unsqueeze(0)
    with use_linear_logps(), pytest.raises(UnsupportedError, match="ZeRO-3"):
        LinearLogprobFunction.apply(
            torch.randn(5, 32), model.lm_head.weight, None, ids[0, 1:], 1.0, 32768, None, 1.0, ()
        )
