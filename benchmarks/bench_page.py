"""docs/performance.md: puts what is in build/bench between the page's marks, and draws its plots.

python benchmarks/bench_page.py
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from accuracy_page import wrapped
from bench_files import load
from bench_tables import Case, bare_seconds, columns, logps_table, page_tables, step_table
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from selm_core.online.plots import COLORS, STYLE

DOCS = Path(__file__).parents[1] / "docs"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def write_page() -> None:
    """Fails where nothing was measured on a CPU."""
    page = DOCS / "performance.md"
    text = page.read_text()
    for name, render in {
        "linear_logps": linear_logps,
        "logps": logps_table,
        "step": step_table,
    }.items():
        sections = []
        for device, title in DEVICES.items():
            content = load(name, device)
            sections.append(
                f"### {title}\n\nNot measured."
                if content is None
                else f"### {title}\n\n{wrapped(content['conditions'])}\n\n{render(content)}"
            )
        text = between_marks(text, name, "\n\n".join(sections))
    page.write_text(text)


def between_marks(text: str, name: str, new: str) -> str:
    """Replaces what stands there."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    found, count = re.subn(
        f"{re.escape(start)}.*?{re.escape(end)}",
        lambda _: f"{start}\n{new}\n\n{end}",
        text,
        flags=re.S,
    )
    if count != 1:
        raise ValueError(f"the page has {count} places for {name}")
    return found


def linear_logps(content: dict[str, Any]) -> str:
    """Plots and tables."""
    cases, device = content["found"], content["device"]
    plotted = [case for case in cases if (case["mode"], case["layout"]) == ("full", "padded")]
    plots = []
    for name, title, unit in (
        ("time", "Time, multiples of the bare matrix products", bare_seconds),
        ("memory", "Peak extra memory, MiB", lambda case: 2**20),
    ):
        key = "seconds" if name == "time" else "peak_bytes"
        path = DOCS / f"performance-{name}-{device}.svg"
        path.write_text(bars(title, plotted, key, unit))
        plots.append(f"![{title}, padded batches, both gradients]({path.name})")
    return "\n\n".join([*plots, page_tables(cases)])


def bars(title: str, cases: Sequence[Case], key: str, unit: Any) -> str:
    """A panel for each head and type, a group for each number of positions that count; logarithmic."""
    panels: dict[str, list[Case]] = {}
    for case in cases:
        panels.setdefault(f"{case['shape']}, {case['dtype']}", []).append(case)
    names = columns(cases)
    # The colours of the peers repeat where there are more of them: their hatches differ.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        rows = (len(panels) + 1) // 2
        figure = Figure(figsize=(9, 2.2 * rows + 0.8), layout="constrained")
        every = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes in every[len(panels) :]:
            axes.set_visible(False)
        for axes, (head, group) in zip(every, panels.items(), strict=False):
            for k, name in enumerate(names):
                heights = [
                    c["methods"].get(name, {}).get(key, float("nan")) / unit(c) for c in group
                ]
                axes.bar(
                    [i + (k + 0.5) * 0.8 / len(names) - 0.4 for i in range(len(group))],
                    heights,
                    0.8 / len(names),
                    color=COLORS[k % len(COLORS)],
                    hatch="" if k < len(COLORS) else "///",
                    label=name,
                )
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(head)
            axes.set_xticks(range(len(group)), [f"{c['valid']:,} of {c['rows']:,}" for c in group])
            axes.grid(visible=False, axis="x")
            axes.set_axisbelow(True)
        figure.suptitle(title)
        figure.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return svg(figure)


def svg(figure: Figure) -> str:
    """The same text for the same numbers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(text.rstrip() for text in buffer.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    write_page()
