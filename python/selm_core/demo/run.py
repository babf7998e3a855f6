"""`selm demo`: three SELM iterations that improve a small chat model, on a CPU, in minutes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from selm_core.demo.judge import OfflineJudge
from selm_core.demo.model import demo_model
from selm_core.demo.prompts import Split, load_prompts
from selm_core.online import OnlineConfig, OnlineSELM
from selm_core.online.data import prompt_text
from selm_core.online.record import read_responses
from selm_core.online.report import write_report
from selm_core.online.state import SettingsMismatchError, iteration_path

SAMPLES_SHOWN = 4

NOTES = (
    "SmolLM2-135M-Instruct, trained online with SELM: it answers short everyday questions, an "
    "offline judge ranks its answers, and it learns from the best and the worst.",
    "The judge adds sentiment (VADER), relevance (cosine of MiniLM embeddings of question and "
    "answer) and 1 for a text that ends like a sentence, and subtracts for repetition, for fewer "
    "than 4 and for more than 15 words. It knows nothing about truth. Most of the gain is learning "
    "to finish a short, friendly answer: read the samples, not only the score.",
)


def demo_config(output_dir: str | Path, *, seed: int = 0, **training: Any) -> OnlineConfig:
    """The demo's options, chosen on the dev prompts; `training` overrides single ones of
    SELMConfig."""
    return OnlineConfig(
        output_dir=str(output_dir),
        iterations=3,
        samples_per_prompt=4,
        response="sample",
        max_new_tokens=40,
        temperature=0.8,
        top_k=50,
        generation_batch_size=48,
        seed=seed,
        lora={"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        training={
            "alpha": 1e-3,
            "beta": 0.1,
            "learning_rate": 3e-4,
            "per_device_train_batch_size": 4,
            "activation_checkpointing": False,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            **training,
        },
    )


def demo_loop(config: OnlineConfig, *, eval_split: Split) -> OnlineSELM:
    """The demo's model, judge and prompts under any options."""
    return OnlineSELM(
        demo_model(),
        OfflineJudge(),
        load_prompts("train"),
        config=config,
        eval_dataset=load_prompts(eval_split),
    )


def run_demo(output: Path, *, seed: int = 0, restart: bool = False) -> None:
    """Runs or continues the demo in `output`, then shows samples and says where the report and the
    model lie."""
    start = time.perf_counter()
    online = demo_loop(demo_config(output, seed=seed), eval_split="held_out")
    if restart and (output / "run.json").is_file():
        shutil.rmtree(output)
    try:
        online.run()
    except SettingsMismatchError as error:
        raise SettingsMismatchError(
            f"{error}; `selm demo --restart` deletes it and starts again"
        ) from error
    last = online.config.iterations
    report = write_report(output, title="SELM demo: SmolLM2-135M-Instruct", notes=NOTES)
    _show_samples(output, last)
    print(f"\nreport: {report}\nmodel:  {online.policy(last)}  (loads with from_pretrained)")
    print(
        f"{time.perf_counter() - start:.0f} s; `selm demo --restart` runs it again from the start"
    )


def _show_samples(run: Path, last: int) -> None:
    before, after = (
        read_responses(iteration_path(run, number))[:SAMPLES_SHOWN] for number in (0, last)
    )
    print("\nHeld-out prompts, before and after:")
    for old, new in zip(before, after, strict=True):
        print(f"\n  {prompt_text(old.prompt)}")
        for label, response in (("before", old), ("after", new)):
            cut = "" if response.finished else " [cut off]"
            print(f"    {label:<7}{' '.join(response.text.split())}{cut}")
