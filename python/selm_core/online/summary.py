"""One line per iteration for the terminal."""

from __future__ import annotations

from selm_core.online.evaluate import Evaluation
from selm_core.online.record import IterationRecord
from selm_core.online.training import Training


def summary_line(record: IterationRecord) -> str:
    """The iteration's numbers; what was not measured is left out."""
    fields = [f"iteration {record.iteration}" if record.iteration else "initial model"]
    if record.evaluation is not None:
        fields += _evaluation(record.evaluation, versus_initial=record.iteration > 0)
    if record.training is not None:
        fields += _training(record.training)
        fields.append(f"pairs {record.pairs}/{record.prompts}{_dropped(record)}")
    return " | ".join(fields)


def _evaluation(evaluation: Evaluation, *, versus_initial: bool) -> list[str]:
    parts = ", ".join(f"{name} {value:+.2f}" for name, value in evaluation.parts.items())
    fields = [
        f"score {evaluation.score:.2f}" + (f" ({parts})" if parts else ""),
        f"finished {evaluation.finish_rate:.0%}",
        f"{evaluation.response_tokens:.1f} tokens",
    ]
    if versus_initial:
        fields += [f"wins {evaluation.win_rate:.0%}", f"KL {evaluation.kl:.1f}"]
    if evaluation.invalid_scores:
        fields.append(f"invalid scores {evaluation.invalid_scores}")
    return fields


def _training(training: Training) -> list[str]:
    shown = {"reward_margin": "margin", "reward_accuracy": "accuracy", "exploration": "exploration"}
    return [
        f"{label} {value:.2g}"
        for name, label in shown.items()
        if (value := training.means[name]) is not None
    ]


def _dropped(record: IterationRecord) -> str:
    counts = {
        **record.dropped_prompts,
        **{f"{k} score": v for k, v in record.invalid_scores.items()},
    }
    return (
        f" (dropped: {', '.join(f'{reason} {count}' for reason, count in counts.items())})"
        if counts
        else ""
    )
