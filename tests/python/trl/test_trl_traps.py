"""What a subclass of TRL's DPOTrainer runs into; the other traps stand with their subjects."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import selm_core.trl.trainer as trainer_module
import torch
from datasets import Dataset
from selm_core.errors import UnsupportedError
from selm_core.trl import UNSUPPORTED_SETUPS, DataCollatorForSELM, SELMConfig, SELMTrainer
from selm_core.trl.checks import check_setup
from selm_core.trl.data import PAIR
from selm_core.trl.unsupported import refuse
from tiny_models import (
    batch_of,
    text_dataset,
    tiny_config,
    tiny_llama,
    tiny_tokenizer,
)
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

ROWS = [0, 1, 2, 3]


def make_trainer(folder, model=None, dataset=None, args=None, **options):
    arguments = {
        name: options.pop(name)
        for name in ("compute_metrics", "ref_model", "eval_dataset", "data_collator")
        if name in options
    }
    return SELMTrainer(
        tiny_llama() if model is None else model,
        args=tiny_config(folder, **options) if args is None else args,
        train_dataset=text_dataset() if dataset is None else dataset,
        processing_class=tiny_tokenizer(),
        **arguments,
    )


def test_no_forward_is_bound_to_the_models(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.compute_loss(trainer.model, batch_of(trainer, ROWS))
    assert "forward" not in vars(trainer.model)
    assert "forward" not in vars(trainer.ref_model)


def test_a_failing_forward_leaves_the_model_as_it_was(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = batch_of(trainer, ROWS)
    batch["input_ids"] = batch["input_ids"] + 1000
    with pytest.raises(IndexError):
        trainer.compute_loss(trainer.model, batch)
    assert "forward" not in vars(trainer.model)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_a_deep_copy_of_the_trained_model_runs_its_own_weights(tmp_path, precision):
    trainer = make_trainer(tmp_path, max_steps=1, **precision)
    trainer.train()
    copied = copy.deepcopy(trainer.model)
    ids = batch_of(trainer, ROWS)["input_ids"]
    with torch.no_grad():
        before = copied(input_ids=ids).logits
        for parameter in trainer.model.parameters():
            parameter.zero_()
        assert torch.equal(copied(input_ids=ids).logits, before)
        assert before.abs().max() > 0
        generated = copied.generate(ids[:1, :4], max_new_tokens=4, do_sample=False)
        assert generated[0, 4:].tolist() != [0] * 4


def test_the_model_generates_during_training(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.compute_loss(trainer.model, batch_of(trainer, ROWS))
    ids = torch.tensor([[5, 6, 7]])
    arguments = {"max_new_tokens": 4, "do_sample": False}
    wanted = tiny_llama().generate(ids, **arguments)
    assert torch.equal(trainer.model.generate(ids, **arguments), wanted)


def test_trl_itself_is_left_as_it_was(tmp_path):
    original = trainer_module.dpo_trainer.add_fused_lm_head
    make_trainer(tmp_path)
    assert trainer_module.dpo_trainer.add_fused_lm_head is original
    with pytest.raises(ValueError, match="response"):
        make_trainer(tmp_path, dataset=text_dataset(drop=("response",)))
    assert trainer_module.dpo_trainer.add_fused_lm_head is original


def test_datasets_of_tokens_alone_train(tmp_path):
    """TRL 1.16 looks for the column 'chosen'."""
    tokens = make_trainer(tmp_path).train_dataset.select_columns(
        ["prompt_ids", "chosen_ids", "rejected_ids", "response_ids"]
    )
    trainer = make_trainer(tmp_path, dataset=tokens, max_steps=1)
    trainer.train()
    assert trainer.train_dataset[0] == tokens[0]


def test_streams_train(tmp_path):
    trainer = make_trainer(tmp_path, dataset=text_dataset().to_iterable_dataset(), max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2


def test_reference_column_raises_in_the_trainer(tmp_path):
    dataset = text_dataset().rename_column("response", "reference")
    with pytest.raises(ValueError, match="'response', got 'reference'"):
        make_trainer(tmp_path, dataset=dataset)


def test_evaluation_data_needs_the_response_too(tmp_path):
    with pytest.raises(ValueError, match="column 'response'"):
        make_trainer(tmp_path, eval_dataset=text_dataset(drop=("response",)))


def test_vision_data_is_refused(tmp_path):
    dataset = text_dataset().add_column("images", [["x"]] * 8)
    with pytest.raises(NotImplementedError, match="vision data"):
        make_trainer(tmp_path, dataset=dataset)


def mixture_of_experts():
    config = MixtralConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    return MixtralForCausalLM(config)


def test_the_auxiliary_loss_of_experts_is_refused(tmp_path):
    with pytest.raises(NotImplementedError, match=r"auxiliary loss.*router_aux_loss_coef=0.0"):
        make_trainer(tmp_path, mixture_of_experts(), ref_model=mixture_of_experts())
    trainer = make_trainer(tmp_path, mixture_of_experts(), router_aux_loss_coef=0.0)
    assert trainer.compute_loss(trainer.model, batch_of(trainer, ROWS)).isfinite()


def test_compute_metrics_and_predict_are_refused(tmp_path):
    with pytest.raises(NotImplementedError, match="compute_metrics"):
        make_trainer(tmp_path, compute_metrics=lambda prediction: {})
    trainer = make_trainer(tmp_path)
    with pytest.raises(NotImplementedError, match="predict"):
        trainer.predict(trainer.train_dataset)


class SpreadConfig(SELMConfig):
    """Says that the model is spread over devices in some way."""

    def __init__(self, distributed_type="NO", zero_stage=None, non_data_parallel_size=None):
        self._type, self._stage = distributed_type, zero_stage
        size = non_data_parallel_size
        self.parallelism_config = size and SimpleNamespace(non_data_parallel_size=size)

    @property
    def distributed_state(self):
        return SimpleNamespace(distributed_type=self._type)

    @property
    def deepspeed_plugin(self):
        return self._stage and SimpleNamespace(zero_stage=self._stage)

    @deepspeed_plugin.setter
    def deepspeed_plugin(self, value):
        pass


@pytest.mark.parametrize(
    ("spread", "message"),
    [
        ({"distributed_type": "FSDP"}, "sharded parameters"),
        ({"distributed_type": "DEEPSPEED", "zero_stage": 3}, "sharded parameters"),
        ({"non_data_parallel_size": 2}, "tensor, context or sequence parallelism"),
    ],
)
def test_split_models_are_refused(spread, message):
    with pytest.raises(NotImplementedError, match=message):
        check_setup(tiny_llama(), None, SpreadConfig(**spread), None, None, None, None)


@pytest.mark.parametrize(
    "spread",
    [{}, {"zero_stage": 2}, {"distributed_type": "MULTI_GPU", "non_data_parallel_size": 1}],
)
def test_copied_models_are_not_refused(spread):
    check_setup(tiny_llama(), None, SpreadConfig(**spread), None, None, None, None)


def test_arguments_of_another_type_are_refused(tmp_path):
    with pytest.raises(TypeError, match="'ref_model' to be a model, got str"):
        make_trainer(tmp_path, ref_model="some/model")
    collator = DataCollatorForPreference(pad_token_id=0)
    with pytest.raises(TypeError, match="'data_collator' to be a DataCollatorForSELM"):
        make_trainer(tmp_path, data_collator=collator)


@pytest.mark.parametrize(
    ("options", "collator", "message"),
    [
        ({}, {"max_length": None}, "'max_length' of 'args', 1024, got None"),
        ({"max_length": None}, {"max_length": 20}, "'max_length' of 'args', None, got 20"),
        ({}, {"truncation_mode": "keep_end"}, "'truncation_mode' of 'args', 'keep_start', got"),
        ({"pad_to_multiple_of": 8}, {}, "'pad_to_multiple_of' of 'args', 8, got None"),
        ({"alpha": 0.0}, {}, r"completions \('chosen', 'rejected'\) for alpha=0.0"),
        ({}, {"completions": PAIR}, r"completions \('chosen', 'rejected', 'response'\) for alpha"),
    ],
)
def test_a_collator_that_does_not_do_what_args_say_is_refused(tmp_path, options, collator, message):
    collator = DataCollatorForSELM(pad_token_id=0, **{"max_length": 1024, **collator})
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, data_collator=collator, **options)


def test_a_collator_that_agrees_is_used(tmp_path):
    collator = DataCollatorForSELM(pad_token_id=0, max_length=20)
    assert make_trainer(tmp_path, data_collator=collator, max_length=20).data_collator is collator


class ScaledLlama(LlamaForCausalLM):
    """Changes its logits in a way that no configuration announces."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize(
    ("unsupported", "message"),
    [
        (lambda: ScaledLlama(tiny_llama().config), "an output head of this kind"),
        (lambda: mixture_of_experts(), "auxiliary loss"),
    ],
    ids=["head", "experts"],
)
def test_models_are_refused_before_reference_log_probabilities_are_computed(
    tmp_path, monkeypatch, unsupported, message, reference
):
    monkeypatch.setattr(SELMTrainer, "compute_ref_log_probs", None)
    models = {"ref_model": unsupported()} if reference else {}
    with pytest.raises(UnsupportedError, match=message):
        make_trainer(tmp_path, unsupported(), precompute_ref_log_probs=True, **models)


def test_an_unsupported_reference_is_refused_too(tmp_path):
    with pytest.raises(UnsupportedError, match="an output head of this kind"):
        make_trainer(tmp_path, ref_model=ScaledLlama(tiny_llama().config))


@pytest.mark.slow
def test_a_compiled_model_trains_alike(tmp_path):
    losses = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        trainer = make_trainer(tmp_path, max_steps=2, **options)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_config_of_another_trainer_is_refused(tmp_path):
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match="SELMConfig, got DPOConfig"):
        make_trainer(tmp_path, args=args)


def test_every_refusal_is_listed():
    for setup, advice in UNSUPPORTED_SETUPS.items():
        with pytest.raises(NotImplementedError) as error:
            refuse(setup)
        assert setup in str(error.value)
        assert advice in str(error.value)
    with pytest.raises(KeyError):
        refuse("something that the list lacks")


def test_without_args_the_defaults_are_used(tmp_path, monkeypatch):
    @dataclass
    class CpuConfig(SELMConfig):
        use_cpu: bool = True
        bf16: bool | None = False

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer_module, "SELMConfig", CpuConfig)
    model = tiny_llama()
    model.config._name_or_path = "somewhere/tiny"
    trainer = SELMTrainer(model, train_dataset=text_dataset(), processing_class=tiny_tokenizer())
    assert trainer.args.output_dir == "tiny-SELM"
    assert trainer.args.alpha == 1e-3


def test_the_model_card_names_the_paper(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "2405.19332" in card
    assert "SELM" in card


def test_a_generation_that_was_cut_off_gets_no_end_token(tmp_path):
    tokens = [
        {"prompt_ids": [5, 6], "chosen_ids": [7, 1], "rejected_ids": [8, 1], "response_ids": [9]}
    ]
    trainer = make_trainer(tmp_path, dataset=Dataset.from_list(tokens * 4))
    labels = batch_of(trainer, [0])["shift_labels"]
    assert labels[2].tolist() == [-100, 9, -100, -100]
