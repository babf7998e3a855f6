"""The demo's prompts: short everyday questions, written for it. One file, three splits that share
no prompt."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Literal

Split = Literal["train", "dev", "held_out"]

SYSTEM_PROMPT = "Answer in one short sentence."


def load_prompts(split: Split) -> list[dict[str, list[dict[str, str]]]]:
    """Rows with `prompt` as messages. Options are chosen on `dev`; nothing is ever trained or
    chosen on `held_out`."""
    lines = (
        files("selm_core.demo").joinpath("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    )
    rows = [json.loads(line) for line in lines]
    return [{"prompt": _messages(row["prompt"])} for row in rows if row["split"] == split]


def _messages(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]
