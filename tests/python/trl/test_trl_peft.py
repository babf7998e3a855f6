"""Adapters: trained, switched off for the reference, refused where they would be ignored."""

import copy

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from selm_core.trl import SELMTrainer
from tiny_models import batch_of, text_dataset, tiny_config, tiny_llama, tiny_tokenizer

ROWS = [0, 1, 2, 3]


def lora(**options):
    return LoraConfig(
        **{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    )


def make_trainer(folder, model=None, peft_config=None, ref_model=None, **options):
    return SELMTrainer(
        tiny_llama() if model is None else model,
        ref_model=ref_model,
        args=tiny_config(folder, **{"alpha": 0.5, "beta": 0.3, "max_steps": 2, **options}),
        train_dataset=text_dataset(),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


def loss_of(trainer):
    return trainer.compute_loss(trainer.model, batch_of(trainer, ROWS)).item()


def perturbed_adapter():
    """An adapter that was trained before: it differs from the base model."""
    torch.manual_seed(2)
    return get_peft_model(tiny_llama(), lora(init_lora_weights=False))


def test_only_the_adapter_trains_and_the_base_is_the_reference(tmp_path):
    trainer = make_trainer(tmp_path, peft_config=lora(), learning_rate=1e-2)
    assert trainer.ref_model is None
    reference = trainer._reference_logps(batch_of(trainer, ROWS))
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.requires_grad == ("lora" in name)
    for name, weight in tiny_llama().state_dict().items():
        trained = trainer.model.get_base_model().state_dict()
        name = name if name in trained else name.replace("_proj.", "_proj.base_layer.")
        assert torch.equal(trained[name], weight)
    after = trainer._reference_logps(batch_of(trainer, ROWS))
    assert all(torch.equal(after[name], reference[name]) for name in reference)
    assert any(
        parameter.abs().max() > 0
        for name, parameter in trainer.model.named_parameters()
        if "lora_B" in name
    )


def test_the_loss_is_that_of_the_merged_model(tmp_path):
    adapter = perturbed_adapter()
    merged = copy.deepcopy(adapter).merge_and_unload()
    wanted = make_trainer(tmp_path, merged, ref_model=tiny_llama())
    trainer = make_trainer(tmp_path, adapter, ref_model=tiny_llama())
    assert loss_of(trainer) == pytest.approx(loss_of(wanted), rel=1e-5)


def test_the_reference_of_a_pretrained_adapter_is_a_frozen_copy_of_it(tmp_path):
    trainer = make_trainer(tmp_path, perturbed_adapter(), learning_rate=1e-2)
    merged = copy.deepcopy(perturbed_adapter()).merge_and_unload()
    wanted = make_trainer(tmp_path, merged, ref_model=copy.deepcopy(merged))
    batch = batch_of(trainer, ROWS)
    for _ in range(2):  # before and after training
        reference = trainer._reference_logps(batch)
        for name, values in wanted._reference_logps(batch).items():
            torch.testing.assert_close(reference[name], values)
        if trainer.state.global_step == 0:
            trainer.train()


def test_the_reference_has_no_dropout(tmp_path):
    """TRL switches `nn.Dropout` off, but not the dropout inside of attention."""
    model = tiny_llama(attention_dropout=0.5)
    trainer = make_trainer(tmp_path, model, peft_config=lora())
    batch = batch_of(trainer, ROWS)
    trainer.model.train()
    first, second = (trainer._reference_logps(batch) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert trainer.model.training


def test_a_third_trainer_of_one_adapter_says_what_to_do(tmp_path):
    model = perturbed_adapter()
    make_trainer(tmp_path, model).train()
    with pytest.raises(NotImplementedError, match=r"merge_and_unload.*delete_adapter\('ref'\)"):
        make_trainer(tmp_path, model)
    model.delete_adapter("ref")
    make_trainer(tmp_path, model).train()


def test_an_adapter_on_the_head_is_refused(tmp_path):
    peft = lora(target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        make_trainer(tmp_path, peft_config=peft)
    adapted = get_peft_model(tiny_llama(), peft)
    with pytest.raises(NotImplementedError, match=r"adapter on the output head.*modules_to_save"):
        make_trainer(tmp_path, ref_model=adapted)


def test_a_head_that_is_trained_in_full_is_supported(tmp_path):
    peft = lora(modules_to_save=["lm_head"])
    trainer = make_trainer(tmp_path, peft_config=peft, learning_rate=1e-2)
    reference = trainer._reference_logps(batch_of(trainer, ROWS))
    trainer.train()
    head = trainer.model.get_base_model().get_output_embeddings()
    assert not torch.equal(head.weight, tiny_llama().lm_head.weight)
    after = trainer._reference_logps(batch_of(trainer, ROWS))
    assert all(torch.equal(after[name], reference[name]) for name in reference)


def test_prompt_learning_is_refused(tmp_path):
    peft = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    with pytest.raises(NotImplementedError, match=r"prompt-learning PEFT.*PromptTuningConfig"):
        make_trainer(tmp_path, peft_config=peft)
    with pytest.raises(NotImplementedError, match="prompt-learning PEFT"):
        make_trainer(tmp_path, get_peft_model(tiny_llama(), peft), ref_model=tiny_llama())


def test_a_trained_adapter_can_be_saved_merged_and_generates(tmp_path):
    trainer = make_trainer(tmp_path, peft_config=lora(), learning_rate=1e-2)
    trainer.train()
    batch = batch_of(trainer, ROWS)
    ids = batch["input_ids"][:1]
    with torch.no_grad():
        wanted = trainer.model(input_ids=ids).logits
        merged = trainer.model.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        merged.save_pretrained(tmp_path / "merged")
        loaded = type(merged).from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(loaded(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
