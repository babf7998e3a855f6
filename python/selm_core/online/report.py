"""A run as one HTML file: plots, numbers, samples, settings; nothing is loaded from anywhere."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from selm_core.online.data import prompt_text
from selm_core.online.evaluate import Evaluation
from selm_core.online.plots import line_plot
from selm_core.online.record import IterationRecord, read_record, read_responses
from selm_core.online.state import iteration_path


def write_report(run: str | Path, *, title: str, notes: Sequence[str] = ()) -> Path:
    """Writes `report.html` about the committed iterations of `run`, and returns its path."""
    run = Path(run)
    records = _records(run)
    environment = Environment(
        loader=PackageLoader("selm_core.online", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        notes=notes,
        records=records,
        headline=_headline(records),
        plots=[Markup(svg) for svg in _plots(records)],
        samples=_samples(run, records),
        settings=_rows(json.loads((run / "run.json").read_text())["settings"]),
        versions=json.loads((iteration_path(run, 0) / "manifest.json").read_text())["versions"],
    )
    path = run / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _records(run: Path) -> list[IterationRecord]:
    last = json.loads((run / "HEAD").read_text())["iteration"]
    return [read_record(iteration_path(run, number)) for number in range(last + 1)]


def _headline(records: Sequence[IterationRecord]) -> list[tuple[str, str, str]]:
    """Name, value of the initial model, value now."""
    first, last = records[0].evaluation, records[-1].evaluation
    if first is None or last is None:
        return []
    return [
        ("judge score", f"{first.score:.2f}", f"{last.score:.2f}"),
        ("finished responses", f"{first.finish_rate:.0%}", f"{last.finish_rate:.0%}"),
        ("response length (tokens)", f"{first.response_tokens:.1f}", f"{last.response_tokens:.1f}"),
        ("wins against the initial model", f"{first.win_rate:.0%}", f"{last.win_rate:.0%}"),
        ("KL to the initial model (nats)", f"{first.kl:.1f}", f"{last.kl:.1f}"),
    ]


def _plots(records: Sequence[IterationRecord]) -> list[str]:
    evaluations = [record.evaluation for record in records if record.evaluation is not None]
    return [*_evaluation_plots(evaluations), *_training_plots(records)]


def _evaluation_plots(evaluations: Sequence[Evaluation]) -> list[str]:
    if not evaluations:
        return []

    def plot(title: str, lines: dict[str, list[float]], **options: Any) -> str:
        return line_plot(title, lines, x=range(len(evaluations)), x_label="iteration", **options)

    def values(name: str) -> list[float]:
        return [getattr(evaluation, name) for evaluation in evaluations]

    plots = [plot("Judge score, held-out prompts", {"score": values("score")})]
    if evaluations[0].parts:
        parts = {name: [e.parts[name] for e in evaluations] for name in evaluations[0].parts}
        plots.append(plot("Parts of the score", parts))
    return [
        *plots,
        plot(
            "Finished responses and wins",
            {"finished": values("finish_rate"), "wins": values("win_rate")},
            y_range=(-0.05, 1.05),
        ),
        plot("Response length (tokens)", {"tokens": values("response_tokens")}),
        plot("KL to the initial model (nats)", {"KL": values("kl")}),
    ]


def _training_plots(records: Sequence[IterationRecord]) -> list[str]:
    by_iteration = [record.training.steps for record in records if record.training is not None]
    steps = list(itertools.chain.from_iterable(by_iteration))
    boundaries = [
        total + 0.5 for total in itertools.accumulate(len(part) for part in by_iteration)
    ][:-1]
    titles = {
        "loss": "Training loss",
        "reward_margin": "Reward margin, chosen minus rejected",
        "reward_accuracy": "Reward accuracy",
        "exploration": "Exploration term",
    }
    return [
        line_plot(
            title,
            {name: [step[name] for step in steps]},
            x=range(1, len(steps) + 1),
            x_label="training step",
            boundaries=boundaries,
        )
        for name, title in titles.items()
        if steps and all(name in step for step in steps)
    ]


def _samples(run: Path, records: Sequence[IterationRecord]) -> list[dict[str, Any]]:
    """Held-out prompts with the first and the last response, side by side."""
    if records[-1].evaluation is None:
        return []
    before, after = (
        read_responses(iteration_path(run, record.iteration))
        for record in (records[0], records[-1])
    )
    return [
        {"prompt": prompt_text(b.prompt), "before": asdict(b), "after": asdict(a)}
        for b, a in zip(before, after, strict=True)
    ]


def _rows(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        rows += _rows(value, f"{name}.") if isinstance(value, dict) else [(name, str(value))]
    return rows
