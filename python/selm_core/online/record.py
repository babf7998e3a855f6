"""What is known about an iteration afterwards; `record.json` holds it, the summary line and the
report show it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from selm_core.online.evaluate import Evaluation, JudgedResponse
from selm_core.online.pairs import PreferencePair
from selm_core.online.training import Training


@dataclass(frozen=True)
class IterationRecord:
    """Iteration 0 is the initial model: no prompts, no training. `seconds` is by phase."""

    iteration: int
    prompts: int
    pairs: int
    invalid_scores: dict[str, int]
    dropped_prompts: dict[str, int]
    training: Training | None
    evaluation: Evaluation | None
    seconds: dict[str, float]


def write_record(folder: Path, record: IterationRecord) -> None:
    """Writes `record.json`."""
    (folder / "record.json").write_text(json.dumps(asdict(record), indent=1))


def read_record(folder: Path) -> IterationRecord:
    """What `write_record` wrote."""
    fields = json.loads((folder / "record.json").read_text())
    fields["training"] = _build(Training, fields["training"])
    fields["evaluation"] = _build(Evaluation, fields["evaluation"])
    return IterationRecord(**fields)


def write_responses(folder: Path, responses: list[JudgedResponse]) -> None:
    """Writes `evaluation.json`."""
    (folder / "evaluation.json").write_text(json.dumps([asdict(r) for r in responses], indent=1))


def read_responses(folder: Path) -> list[JudgedResponse]:
    """What `write_responses` wrote."""
    return [
        JudgedResponse(**fields) for fields in json.loads((folder / "evaluation.json").read_text())
    ]


def write_pairs(folder: Path, pairs: Sequence[PreferencePair]) -> None:
    """Writes `pairs.jsonl`: the iteration's training data, with texts, token ids and scores."""
    lines = (json.dumps(asdict(pair)) for pair in pairs)
    (folder / "pairs.jsonl").write_text("\n".join([*lines, ""]))


T = TypeVar("T")


def _build(kind: type[T], fields: Mapping[str, Any] | None) -> T | None:
    return None if fields is None else kind(**fields)
