"""The reference policy: which one it is, computed beforehand, kept on disk, kept in step."""

import copy
import operator

import pytest
import torch
from datasets import Dataset, load_from_disk
from peft import LoraConfig
from selm_core.trl import SELMTrainer
from selm_core.trl.data import PAIR
from tiny_models import (
    batch_of,
    text_dataset,
    text_examples,
    tiny_config,
    tiny_llama,
    tiny_tokenizer,
)

ROWS = [0, 1, 2, 3]


def make_trainer(folder, model=None, dataset=None, ref_model=None, peft_config=None, **options):
    return SELMTrainer(
        tiny_llama() if model is None else model,
        ref_model=ref_model,
        args=tiny_config(folder, **{"alpha": 0.5, "beta": 0.3, **options}),
        train_dataset=text_dataset() if dataset is None else dataset,
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


def reference_logps(trainer):
    """Reference log-probabilities of the first rows, by completion."""
    return {
        name: values.tolist()
        for name, values in trainer._reference_logps(batch_of(trainer, ROWS)).items()
    }


def assert_same(logps, wanted):
    assert logps.keys() == wanted.keys()
    for name, values in wanted.items():
        assert logps[name] == pytest.approx(values, rel=1e-5), name


def on_disk(tmp_path, dataset):
    """A dataset whose cache outlives the process, as one that was loaded from files."""
    dataset.save_to_disk(tmp_path / "data")
    return load_from_disk(tmp_path / "data")


@pytest.fixture
def reference_passes(monkeypatch):
    """Number of batches that were scored beforehand."""
    calls = []
    original = SELMTrainer.compute_ref_log_probs

    def counted(self, model, inputs):
        calls.append(len(inputs["chosen_rows"]))
        return original(self, model, inputs)

    monkeypatch.setattr(SELMTrainer, "compute_ref_log_probs", counted)
    return calls


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_precomputed_log_probabilities_are_those_of_training(tmp_path, alpha):
    beforehand = make_trainer(
        tmp_path, alpha=alpha, ref_model=tiny_llama(seed=1), precompute_ref_log_probs=True
    )
    during = make_trainer(tmp_path, alpha=alpha, ref_model=tiny_llama(seed=1))
    assert ("ref_response_logps" in beforehand.train_dataset.column_names) == (alpha > 0)
    assert_same(reference_logps(beforehand), reference_logps(during))


def test_precomputed_log_probabilities_of_an_adapter_are_those_of_the_base(tmp_path):
    peft = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    beforehand = make_trainer(tmp_path, peft_config=peft, precompute_ref_log_probs=True)
    during = make_trainer(tmp_path, ref_model=tiny_llama())
    assert_same(reference_logps(beforehand), reference_logps(during))


def test_evaluation_data_is_precomputed_too(tmp_path):
    trainer = make_trainer(tmp_path, ref_model=tiny_llama(seed=1), precompute_ref_log_probs=True)
    during = make_trainer(tmp_path, ref_model=tiny_llama(seed=1))
    held_out = text_dataset(12).select(range(8, 12))
    loss = trainer.evaluate(held_out)["eval_loss"]
    assert loss == pytest.approx(during.evaluate(held_out)["eval_loss"], rel=1e-5)


def test_the_cache_is_used_again(tmp_path, reference_passes):
    dataset = on_disk(tmp_path, text_dataset())
    first = make_trainer(tmp_path, dataset=dataset, precompute_ref_log_probs=True)
    assert sum(reference_passes) == 8
    second = make_trainer(tmp_path, dataset=dataset, precompute_ref_log_probs=True)
    assert sum(reference_passes) == 8
    assert reference_logps(first) == reference_logps(second)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.0},
        {"max_length": 30},
        {"max_length": 30, "truncation_mode": "keep_end"},
        {"model": "seed"},
        {"bf16": True},
        {"dtype": torch.bfloat16},
        {"responses": "other"},
        {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*keep_end.*:FutureWarning")
def test_whatever_changes_the_reference_misses_the_cache(tmp_path, reference_passes, change):
    change = dict(change)
    make_trainer(tmp_path, dataset=on_disk(tmp_path, text_dataset()), precompute_ref_log_probs=True)
    before = len(reference_passes)
    model = tiny_llama(seed=1) if change.pop("model", None) else tiny_llama()
    model = model.to(change.pop("dtype", torch.float32))
    dataset = text_dataset()
    if change.pop("responses", None):
        dataset = Dataset.from_list([{**e, "response": "another"} for e in text_examples()])
        dataset.save_to_disk(tmp_path / "other")
        dataset = load_from_disk(tmp_path / "other")
    else:
        dataset = load_from_disk(tmp_path / "data")
    make_trainer(tmp_path, model, dataset, precompute_ref_log_probs=True, **change)
    assert len(reference_passes) > before


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        ("data_collator", "max_length", 7),
        ("data_collator", "truncation_mode", "keep_end"),
        ("data_collator", "completions", PAIR),
        ("accelerator.state", "_mixed_precision", "bf16"),
        ("", "_precompute_model_hash", "other weights"),
        ("train_dataset", "_fingerprint", "other data"),
    ],
)
def test_the_key_names_all_that_matters(tmp_path, monkeypatch, owner, name, value):
    trainer = make_trainer(tmp_path)
    key = trainer._reference_key(trainer.train_dataset)
    assert trainer._reference_key(trainer.train_dataset) == key
    target = operator.attrgetter(owner)(trainer) if owner else trainer
    monkeypatch.setattr(target, name, value)
    assert trainer._reference_key(trainer.train_dataset) != key


def test_the_key_names_the_adapter(tmp_path):
    trainer = make_trainer(tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    key = trainer._reference_key(trainer.train_dataset)
    trainer.model.add_adapter("ref", trainer.model.peft_config["default"])
    assert trainer._reference_key(trainer.train_dataset) != key


def test_a_damaged_cache_raises(tmp_path):
    dataset = on_disk(tmp_path, text_dataset())
    make_trainer(tmp_path, dataset=dataset, precompute_ref_log_probs=True)
    (cache,) = (tmp_path / "data").glob("*.safetensors")
    cache.write_bytes(cache.read_bytes()[:-8])
    with pytest.raises(Exception, match=r"(?i)safetensor|incomplete|header"):
        make_trainer(tmp_path, dataset=dataset, precompute_ref_log_probs=True)


def test_streams_cannot_be_precomputed(tmp_path):
    stream = text_dataset().to_iterable_dataset()
    with pytest.raises(ValueError, match="precompute_ref_log_probs=True needs a Dataset"):
        make_trainer(tmp_path, dataset=stream, precompute_ref_log_probs=True, max_steps=1)


def test_without_ref_model_the_reference_is_the_policy_as_it_is_now(tmp_path):
    """TRL would load the weights of `_name_or_path`: the initial ones, in every iteration."""
    tiny_llama().save_pretrained(tmp_path / "initial")
    model = type(tiny_llama()).from_pretrained(tmp_path / "initial")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    wanted = make_trainer(tmp_path, ref_model=copy.deepcopy(model))
    assert_same(reference_logps(make_trainer(tmp_path, model)), reference_logps(wanted))


def test_a_model_without_a_path_needs_no_ref_model(tmp_path):
    model = tiny_llama()
    model.config._name_or_path = "no/such/model.gguf"
    trainer = make_trainer(tmp_path, model)
    assert trainer.ref_model is not model
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, ROWS))
    assert loss.item() == pytest.approx(0.693147, rel=1e-4)  # policy and reference agree


def test_a_path_is_loaded_twice(tmp_path):
    tiny_llama(seed=3).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    trainer = SELMTrainer(
        str(tmp_path / "model"), args=tiny_config(tmp_path), train_dataset=text_dataset()
    )
    assert_same(
        reference_logps(trainer), reference_logps(make_trainer(tmp_path, tiny_llama(seed=3)))
    )


def test_a_trained_reference_model_is_refused_if_it_is_the_policy(tmp_path):
    model = tiny_llama()
    with pytest.raises(ValueError, match="cannot be the same object"):
        make_trainer(tmp_path, model, ref_model=model)


def test_the_reference_stays_while_the_policy_trains(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, learning_rate=1e-2)
    before = reference_logps(trainer)
    trainer.train()
    assert reference_logps(trainer) == before


def test_sync_ref_model_moves_the_reference(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=2,
        learning_rate=1e-2,
        sync_ref_model=True,
        ref_model_sync_steps=2,
        ref_model_mixup_alpha=0.5,
    )
    start = tiny_llama().state_dict()
    trainer.train()
    policy = trainer.model.state_dict()
    for name, weight in trainer.ref_model.state_dict().items():
        torch.testing.assert_close(weight, (start[name] + policy[name]) / 2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"precompute_ref_log_probs": True}, ValueError),
        ({"peft_config": LoraConfig(r=2, target_modules=["q_proj"])}, NotImplementedError),
    ],
)
def test_sync_ref_model_raises_where_there_is_no_second_model(tmp_path, options, error):
    with pytest.raises(error, match="sync_ref_model"):
        make_trainer(tmp_path, sync_ref_model=True, **options)
