"""Tiny models, tokenizers and datasets made on the spot; nothing is downloaded."""

import os

os.environ.setdefault("CI", "1")  # TRL then sends no telemetry
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from selm_core.trl import SELMConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, with an end token and a chat template."""
    special = ["<pad>", "</s>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_llama(seed: int = 0, **options: Any) -> LlamaForCausalLM:
    """A two-layer Llama whose logits spread enough to tell losses apart."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 260,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
            **options,
        }
    )
    return LlamaForCausalLM(config).eval()


def tiny_config(folder: Path | str, **options: Any) -> SELMConfig:
    """Float32 on the CPU, two examples a step, a log entry for every step."""
    return SELMConfig(
        str(folder),
        **{
            "use_cpu": True,
            "bf16": False,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "activation_checkpointing": False,
            "report_to": "none",
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "learning_rate": 1e-3,
            **options,
        },
    )


WORDS = ("river", "lamp", "seven", "moss", "quiet", "button", "salt", "north")


def text_examples(count: int = 8) -> list[dict[str, str]]:
    """Preference examples with completions of different lengths, all distinct."""
    return [
        {
            "prompt": f"Say {WORDS[i % 8]} {i}: ",
            "chosen": f"{WORDS[(i + 1) % 8]} {i}" + "!" * (i % 3),
            "rejected": f"no {WORDS[(i + 2) % 8]}" + "." * (i % 4),
            "response": f"well, {WORDS[(i + 3) % 8]}" + "," * (i % 2),
        }
        for i in range(count)
    ]


def text_dataset(count: int = 8, drop: tuple[str, ...] = ()) -> Dataset:
    examples = text_examples(count)
    return Dataset.from_list(
        [{k: v for k, v in example.items() if k not in drop} for example in examples]
    )


def chat_dataset(count: int = 8) -> Dataset:
    return Dataset.from_list(
        [
            {
                key: [{"role": "user" if key == "prompt" else "assistant", "content": text}]
                for key, text in example.items()
            }
            for example in text_examples(count)
        ]
    )


def batch_of(trainer: Any, indices: list[int], dataset: Dataset | None = None) -> dict[str, Any]:
    """What the trainer's collator makes of these examples."""
    dataset = trainer.train_dataset if dataset is None else dataset
    return trainer.data_collator([dataset[i] for i in indices])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
