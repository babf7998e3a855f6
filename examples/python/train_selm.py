"""Train a language model with SELM on any preference dataset in TRL's format.

The dataset has `chosen` and `rejected`, mostly `prompt`, as text or as conversations. SELM needs a
third completion, `response`: what the model itself answers before training. Where the dataset has
none, it is generated greedily first.

On a GPU:

    python train_selm.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
        --dataset_name trl-lib/ultrafeedback_binarized --output_dir smollm2-selm \
        --alpha 1e-3 --beta 0.01 --learning_rate 5e-7 --num_train_epochs 1

On a CPU, from files, training an adapter:

    python train_selm.py --model_name_or_path path/to/model \
        --dataset_name train.jsonl --eval_dataset_name test.jsonl --eval_strategy steps \
        --output_dir selm-model --use_cpu --bf16 False --use_peft --learning_rate 1e-4

Every field of `SELMConfig`, `trl.ModelConfig` and `ScriptArguments` is an option; `--config` reads
them from a YAML file. Several processes: `accelerate launch train_selm.py ...`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, load_dataset
from selm_core.online.generate import generate
from selm_core.trl import SELMConfig, SELMTrainer, prepare_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config


@dataclass
class ScriptArguments:
    """Which data to train on."""

    dataset_name: str = field(
        metadata={"help": "JSON-lines file (also .gz), or the name of a dataset."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(default="test", metadata={"help": "Split to evaluate on."})
    eval_dataset_name: str | None = field(
        default=None,
        metadata={"help": "File or dataset to evaluate on, if it is not the one to train on."},
    )
    max_new_tokens: int = field(
        default=256, metadata={"help": "Length of the responses that are generated."}
    )
    generation_batch_size: int = field(
        default=16, metadata={"help": "Number of responses that are generated together."}
    )


def load_preferences(name: str, config: str | None, split: str) -> Dataset:
    """Read a JSON-lines file, which has no splits, or one split of a named dataset."""
    if Path(name).is_file():
        return load_dataset("json", data_files=name, split="train")
    if Path(name).suffix in (".json", ".jsonl"):
        raise FileNotFoundError(f"--dataset_name or --eval_dataset_name: no such file: {name}")
    return load_dataset(name, config, split=split)


def with_responses(
    dataset: Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    script: ScriptArguments,
    training: SELMConfig,
    name: str,
) -> Dataset:
    """Add the model's greedy answers, unless the dataset has responses or needs none."""
    given = {"response", "reference_response", "response_ids", "reference"}
    if not training.explores or given & set(dataset.column_names):
        return dataset
    # Kept as token ids: an answer that was cut off must not get an end token.
    tokens = prepare_dataset(
        dataset,
        tokenizer,
        completions=("chosen", "rejected"),
        max_length=training.max_length,
        truncation_mode=training.truncation_mode,
        num_proc=training.dataset_num_proc,
        name=name,
    ).select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    with PartialState().split_between_processes(list(tokens["prompt_ids"])) as prompts:
        answers = generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=script.max_new_tokens,
            batch_size=script.generation_batch_size,
            description=f"Generating responses for {name} dataset",
        )
    return tokens.add_column("response_ids", gather_object([a.token_ids for a in answers]))


def main(arguments: Sequence[str] | None = None) -> SELMTrainer:
    """Train as the command line says, and save the model to `output_dir`."""
    parser = TrlParser((ScriptArguments, SELMConfig, ModelConfig))
    script, training, model_args = parser.parse_args_and_config(arguments)

    quantization = get_quantization_config(model_args)
    model = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
        trust_remote_code=training.trust_remote_code,
    )
    if quantization is None:
        model.to(training.device)
    tokenizer = AutoTokenizer.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        trust_remote_code=training.trust_remote_code,
    )

    def prepared(name: str, split: str) -> Dataset:
        dataset = load_preferences(name, script.dataset_config, split)
        return with_responses(dataset, model, tokenizer, script, training, split)

    evaluates = training.eval_strategy != "no"
    eval_name = script.eval_dataset_name or script.dataset_name
    if evaluates and script.eval_dataset_name is None and Path(script.dataset_name).is_file():
        raise ValueError("--eval_strategy needs --eval_dataset_name: a file has no test split")
    trainer = SELMTrainer(
        model=model,
        args=training,
        train_dataset=prepared(script.dataset_name, script.dataset_train_split),
        eval_dataset=prepared(eval_name, script.dataset_test_split) if evaluates else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main()
