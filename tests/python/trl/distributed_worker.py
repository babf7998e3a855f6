"""What `test_trl_distributed.py` runs, in one process and in two; saves what it found."""

import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from selm_core.trl import SELMTrainer
from tiny_models import (
    batch_of,
    gradients,
    text_examples,
    tiny_config,
    tiny_llama,
    tiny_tokenizer,
)

RANK = int(os.environ.get("RANK", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def make_trainer(folder, examples, peft=False, **options):
    return SELMTrainer(
        tiny_llama(),
        args=tiny_config(folder, **{"alpha": 0.5, "beta": 0.3, **options}),
        train_dataset=Dataset.from_list(examples),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if peft else None,
    )


def one_backward(folder, examples, **options):
    """Gradients and metrics of four examples, split over the processes in order."""
    trainer = make_trainer(folder, examples, **options)
    # Away from the reference, so that no gradient vanishes.
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.ones_like(parameter))
    share = len(examples) // WORLD
    batch = batch_of(trainer, list(range(RANK * share, (RANK + 1) * share)))
    model = trainer.accelerator.prepare_model(trainer.model.train())
    trainer.accelerator.backward(trainer.compute_loss(model, batch))
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return {
        "gradients": gradients(trainer.model),
        "metrics": metrics,
        "rows": len(batch["input_ids"]),
    }


def whole_run(folder, examples, **options):
    """Two steps on the whole dataset, with precomputed references, and an evaluation before them.

    The order of the examples depends on the number of processes, so every step takes all of them.
    """
    trainer = make_trainer(
        folder,
        examples,
        per_device_train_batch_size=len(examples) // WORLD,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        precompute_ref_log_probs=True,
        **options,
    )
    evaluated = trainer.evaluate(Dataset.from_list(text_examples(8)[4:]))
    trainer.train()
    columns = [f"ref_{name}_logps" for name in ("chosen", "rejected", "response")]
    return {
        "reference": {name: list(trainer.train_dataset[name]) for name in columns},
        "weights": trainer.model.state_dict(),
        "evaluated": evaluated["eval_loss"],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def shared(examples, first):
    """From `first` on, the response is the chosen one: no third rows."""
    return [
        {**example, "response": example["chosen"]} if i >= first else example
        for i, example in enumerate(examples)
    ]


def main(folder):
    examples = text_examples(4)
    found = {
        "all": one_backward(folder, examples),
        "one rank without third rows": one_backward(folder, shared(examples, 2)),
        "alpha 0": one_backward(folder, examples, alpha=0.0),
        "lora": one_backward(folder, examples, peft=True),
        "run": whole_run(folder, text_examples(8)),
    }
    torch.save(found, Path(folder, f"found-{WORLD}-{RANK}.pt"))


if __name__ == "__main__":
    main(sys.argv[1])
