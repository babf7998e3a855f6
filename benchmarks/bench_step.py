"""Measures a training step of SmolLM2, forward and backward: SELMTrainer beside TRL's DPOTrainer.

    python benchmarks/bench_step.py
    python benchmarks/bench_step.py --quick --write

Each trainer runs in a process of its own, on the same real preferences, which lie beside the project in
shared/data. Results are in build/bench/step-DEVICE.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_files import keep_freed_memory, parse, save
from bench_measure import Times, seconds_of
from bench_page import write_page
from bench_tables import step_table

PREFERENCES = Path(__file__).parents[2] / "shared" / "data" / "preferences.test.jsonl.gz"
TRAINERS = (
    "TRL DPOTrainer",
    "TRL DPOTrainer, use_linear_logps",
    "SELMTrainer, alpha 0",
    "SELMTrainer, alpha 0.001",
)
DTYPES = ("bfloat16", "float32")
REPETITIONS = 3
PAIRS, MAX_LENGTH = 4, 512
QUICK_PAIRS, QUICK_MAX_LENGTH = 2, 128


def preferences(count: int) -> list[dict[str, str]]:
    """The next pair's rejected completion stands in for the response that explores: only its length matters
    here, and that it is a third one. One that is in the pair would be scored once for both."""
    with gzip.open(PREFERENCES, "rt") as file:
        rows = [json.loads(text) for text in itertools.islice(file, count)]
    return [
        {key: row[key] for key in ("prompt", "chosen", "rejected")}
        | {"response": after["rejected"]}
        for row, after in zip(rows, rows[1:] + rows[:1], strict=True)
    ]


def make_trainer(
    name: str, dtype: str, pairs: int, max_length: int, device: str, folder: str
) -> Any:
    """With the model as policy and as reference."""
    from datasets import Dataset
    from selm_core.demo.model import demo_model
    from selm_core.trl import SELMConfig, SELMTrainer
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    options = {
        "output_dir": folder,
        "beta": 0.1,
        "max_length": max_length,
        "per_device_train_batch_size": pairs,
        "use_cpu": device == "cpu",
        "bf16": False,  # the model is of the type that is measured
        "report_to": "none",
        "disable_tqdm": True,
    }
    rows = preferences(pairs)
    if name.startswith("TRL"):
        kind, config = DPOTrainer, DPOConfig(**options)
        rows = [{k: v for k, v in row.items() if k != "response"} for row in rows]
    else:
        alpha = float(name.rpartition(" ")[2])
        kind, config = SELMTrainer, SELMConfig(**options, alpha=alpha)
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(demo_model(), dtype=getattr(torch, dtype))
        for _ in range(2)
    )
    return kind(
        policy,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(demo_model()),
    )


def step(trainer: Any, batch: dict[str, Any]) -> None:
    """Loss and gradients of the batch."""
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, dict(batch)).backward()


def scored_tokens(batch: dict[str, Any]) -> int:
    """Of completions; TRL passes them as a mask, our trainer as labels."""
    mask = batch["completion_mask"] if "completion_mask" in batch else batch["shift_labels"] != -100
    return int(mask.sum())


def gradient_norm(model: torch.nn.Module) -> float:
    """Tells whether two trainers did the same; the loss of a policy that is its reference does not."""
    norms = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(norms).norm())


def measure_here(name: str, dtype: str, pairs: int, max_length: int, device: str) -> dict[str, Any]:
    """In this process, after one step that warms up."""
    from selm_core.trl import use_linear_logps

    switched = name.endswith("use_linear_logps")
    with (
        tempfile.TemporaryDirectory() as folder,
        use_linear_logps() if switched else contextlib.nullcontext(),
    ):
        trainer = make_trainer(name, dtype, pairs, max_length, device, folder)
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        step(trainer, batch)
        kind = torch.device(device)
        times = Times([seconds_of(lambda: step(trainer, batch), kind) for _ in range(REPETITIONS)])
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {
        "seconds": times.median,
        "spread": times.spread,
        "peak_bytes": peak,
        "gradient_norm": gradient_norm(trainer.model),
        "positions": batch["input_ids"].numel(),
        "scored": scored_tokens(batch),
    }


def measure(name: str, dtype: str, pairs: int, max_length: int, device: str) -> dict[str, Any]:
    """In a fresh process, whose peak is its own."""
    arguments = [name, dtype, str(pairs), str(max_length), device]
    environment = {"CI": "1", "HF_HUB_OFFLINE": "1"} | dict(os.environ)  # no telemetry, no hub
    command = [sys.executable, __file__, "--worker", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if result.returncode:
        raise SystemExit(f"{name}, {dtype}: the measuring process failed")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parse(parser, arguments)
    if options.worker:
        name, dtype, pairs, max_length, device = options.worker
        print(json.dumps(measure_here(name, dtype, int(pairs), int(max_length), device)))
        return
    if not PREFERENCES.is_file():
        print("bench_step: skipped, shared/data with real preferences is not beside the project")
        return
    size = (QUICK_PAIRS, QUICK_MAX_LENGTH) if options.quick else (PAIRS, MAX_LENGTH)
    found: dict[str, Any] = {}
    for dtype in DTYPES[:1] if options.quick else DTYPES:
        trainers = {}
        for name in TRAINERS:
            print(f"{dtype}, {name} ...", flush=True)
            trainers[name] = measure(name, dtype, *size, options.device)
        first = trainers[TRAINERS[0]]
        batch = (
            f"{size[0]} pairs of at most {size[1]} tokens, {first['scored']:,} tokens of "
            f"completions among {first['positions']:,} positions"
        )
        found[dtype] = {"batch": batch, "trainers": trainers}
        print(step_table({"found": {dtype: found[dtype]}}), flush=True)
    save("step", torch.device(options.device), options.quick, REPETITIONS, found)
    if options.write:
        write_page()


if __name__ == "__main__":
    keep_freed_memory()
    main()
