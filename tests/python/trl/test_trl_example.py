"""examples/python/train_selm.py, run as its command line is."""

import importlib.util
import json
from pathlib import Path

import pytest
from tiny_models import chat_dataset, text_examples, tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM

EXAMPLE = Path(__file__).parents[3] / "examples" / "python" / "train_selm.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_selm", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(example, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")

    def run(examples, *options):
        data = tmp_path / "train.jsonl"
        data.write_text("".join(json.dumps(example) + "\n" for example in examples))
        return example.main(
            [
                *("--model_name_or_path", str(tmp_path / "model")),
                *("--dataset_name", str(data), "--output_dir", str(tmp_path / "trained")),
                *("--use_cpu", "--bf16", "False", "--report_to", "none", "--logging_steps", "1"),
                *("--max_steps", "2", "--per_device_train_batch_size", "2"),
                *("--max_new_tokens", "5", "--activation_checkpointing", "False"),
                *options,
            ]
        )

    return run


def without_response(examples):
    return [{k: v for k, v in example.items() if k != "response"} for example in examples]


def test_responses_are_generated_where_there_are_none(run, tmp_path):
    trainer = run(without_response(text_examples(4)), "--learning_rate", "1e-2")
    assert trainer.state.global_step == 2
    model, end = tiny_llama(), tiny_tokenizer().eos_token_id
    for row in trainer.train_dataset:
        greedy = model.generate(
            tiny_tokenizer().pad({"input_ids": [row["prompt_ids"]]}, return_tensors="pt").input_ids,
            max_new_tokens=5,
            do_sample=False,
        )[0, len(row["prompt_ids"]) :].tolist()
        assert row["response_ids"] == greedy
        assert row["response_ids"].count(end) <= 1
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert not trained.lm_head.weight.equal(model.lm_head.weight)


def test_given_responses_are_kept(run):
    trainer = run(text_examples(4))
    responses = tiny_tokenizer().batch_decode(list(trainer.train_dataset["response_ids"]))
    assert responses == [example["response"] + "</s>" for example in text_examples(4)]


def test_alpha_zero_generates_nothing(run):
    trainer = run(without_response(text_examples(4)), "--alpha", "0")
    assert "response_ids" not in trainer.train_dataset.column_names


def test_conversations_evaluation_and_adapters(run, tmp_path):
    held_out = tmp_path / "test.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in chat_dataset(3)))
    trainer = run(
        list(chat_dataset(4)),
        *("--eval_dataset_name", str(held_out), "--eval_strategy", "steps", "--eval_steps", "1"),
        *("--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj"),
    )
    assert any("eval_loss/selm" in entry for entry in trainer.state.log_history)
    assert (tmp_path / "trained" / "adapter_model.safetensors").is_file()


def test_evaluation_of_a_file_needs_a_second_one(run):
    with pytest.raises(ValueError, match="--eval_dataset_name"):
        run(text_examples(4), "--eval_strategy", "steps")
