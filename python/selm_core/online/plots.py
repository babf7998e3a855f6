"""The report's plots, as SVG text that needs nothing from outside."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

COLORS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#475569",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def line_plot(
    title: str,
    lines: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float],
    x_label: str,
    boundaries: Sequence[float] = (),
    y_range: tuple[float, float] | None = None,
) -> str:
    """One panel; `boundaries` are dashed verticals (where iterations meet), a single line needs no
    legend."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(3.6, 2.4), layout="constrained")
        axes = figure.subplots()
        for color, (label, values) in zip(COLORS, lines.items(), strict=False):
            axes.plot(
                x,
                values,
                color=color,
                label=label,
                linewidth=1.8,
                marker="o" if len(x) <= 12 else None,
                markersize=4,
            )
        for boundary in boundaries:
            axes.axvline(boundary, color="#94a3b8", linewidth=0.8, linestyle="--")
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.locator_params(axis="x", integer=True)
        if y_range is not None:
            axes.set_ylim(y_range)
        if len(lines) > 1:
            figure.legend(loc="outside lower center", ncols=3)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML prolog, which has no place inside HTML
