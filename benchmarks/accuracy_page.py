"""docs/accuracy.md: the text, and tables of what was measured."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import selm_core
from accuracy_errors import Errors, joined
from accuracy_logps import EAGER
from accuracy_peers import Library
from accuracy_promises import Promise

TEMPLATE = Path(__file__).with_name("accuracy_template.md")

Rows = Mapping[str, Mapping[str, Errors]]
"""By the row's label, then by library."""


@dataclass(frozen=True)
class Table:
    """Of the libraries in `columns`; `unit` is that of the errors."""

    title: str
    unit: str
    columns: Sequence[str]
    rows: Rows

    def markdown(self, libraries: Mapping[str, Library]) -> str:
        head = [f"{self.unit}: max / mean / signed mean", *self.columns]
        lines = [line(head), line(["---"] * len(head))]
        for name, errors in self.rows.items():
            cells = [cell(errors.get(column), libraries.get(column)) for column in self.columns]
            lines.append(line([name, *cells]))
        return "\n".join([f"### {self.title}", "", *lines, ""])


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(errors: Errors | None, library: Library | None) -> str:
    if errors is None:
        missing = library is not None and library.version is None
        return "not installed" if missing else "-"
    lost = f" ({errors.lost} lost)" if errors.lost else ""
    return f"{number(errors.largest)} / {number(errors.mean)} / {number(errors.bias, '+')}{lost}"


def number(value: float, sign: str = "") -> str:
    """Two digits or so."""
    if value == 0.0:
        return "0"
    if 0.00995 <= abs(value) < 1000.0:
        digits = 2 if abs(value) < 10.0 else 1 if abs(value) < 100.0 else 0
        return f"{value:{sign}.{digits}f}"
    mantissa, _, exponent = f"{value:{sign}.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def at_a_glance(tables: Mapping[str, Rows], columns: Sequence[str], pairs: int) -> Rows:
    """Each table in one row, over the losses that all installed libraries have."""
    rows = {}
    for name, table in tables.items():
        present = {column for errors in table.values() for column in errors}
        shared = [errors for errors in table.values() if present <= errors.keys()]
        rows[f"{name} ({len(shared)} losses)"] = {
            column: joined([(errors[column], pairs) for errors in shared])
            for column in columns
            if column in present
        }
    return rows


def closer_peers(tables: Iterable[Table]) -> str:
    """Where another library's mean error, or number of lost results, is below ours."""
    found = []
    for table in tables:
        for peer in table.columns[1:]:
            closer = [
                f"{name} ({number(errors[peer].mean)} against {number(errors['selm_core'].mean)})"
                for name, errors in table.rows.items()
                if peer in errors and is_closer(errors[peer], errors["selm_core"])
            ]
            if closer:
                found.append(f"* {table.title}, {peer}: {'; '.join(closer)}")
    return "\n".join(wrapped(item, "  ") for item in found) or "Nowhere."


def is_closer(errors: Errors, ours: Errors) -> bool:
    return (errors.lost, errors.mean) < (ours.lost, ours.mean)


def wrapped(prose: str, indent: str = "") -> str:
    return textwrap.fill(
        prose, 115, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


# ---------------------------------------------------------------------------------------------
# What the tables show


def findings(losses: Sequence[Table], logps: Table) -> str:
    """The first four tables of losses are those in float32, the next four in float64."""
    values, gradients, *stress = losses[:4]
    ours = max(errors["selm_core"].largest for t in losses[:4] for errors in t.rows.values())
    responses = {
        dtype: logps.rows[f"responses from hidden states, {dtype}"]
        for dtype in ("float32", "bfloat16")
    }
    single, half = responses["float32"], responses["bfloat16"]
    sampled = logps.rows["sampled tokens, float32 logits"]["selm_core"]
    libraries = dict.fromkeys(name for found in stress[0].rows.values() for name in found)
    lost = {name: sum(e.lost for e in column(stress[0], name)) for name in libraries}
    counts = ", ".join(f"{name} {count}" for name, count in lost.items())
    items = [
        "In float32, every loss and gradient of selm_core is within "
        f"{number(ours)} ulp of the exact value, under stress too: that is the rounding itself.",
        "On realistic pairs the values of the others are good as well; the farthest is "
        f"{farthest(values)}. Gradients in which nearly equal numbers are subtracted are not: "
        f"{farthest(gradients)}.",
        f"Under stress the others lose all digits in places ({farthest(stress[0])}; gradients: "
        f"{farthest(stress[1])}). Results lost altogether: {counts}.",
        "In float64 selm_core is no better than torch eager, and in places a little worse, where "
        "nothing cancels: both round each step. The promise there is relative to the condition number.",
        "The logits' type matters more than any loss. The log-probability of a response from "
        f"bfloat16 hidden states is off by {number(half['selm_core'].mean)} nats on average here, and by "
        f"{number(half[EAGER].mean)} where logits are rounded to bfloat16, as by torch eager; from float32 "
        f"ones by {number(single['selm_core'].mean)} and {number(single[EAGER].mean)}.",
        "Our token log-probabilities are not free of bias: on sampled tokens of float32 logits the mean "
        f"error is {number(sampled.mean)} nats and the signed mean {number(sampled.bias, '+')}.",
    ]
    return "\n".join(wrapped(f"* {item}", "  ") for item in items)


def column(table: Table, library: str) -> list[Errors]:
    return [errors[library] for errors in table.rows.values() if library in errors]


def farthest(table: Table) -> str:
    """The largest error of another library, and every library that has it."""
    worst, row = max(
        (errors.largest, row)
        for row, found in table.rows.items()
        for library, errors in found.items()
        if library != "selm_core"
    )
    names = [name for name, errors in table.rows[row].items() if errors.largest == worst]
    return f"{row} of {', '.join(names)} with {number(worst)} ulp"


def promises_table(promises: Sequence[Promise]) -> str:
    head = ["promise", "largest error / what is promised", ""]
    lines = [line(head), line(["---"] * len(head))]
    for promise in promises:
        verdict = "kept" if promise.kept else "**broken**"
        lines.append(line([promise.text, number(promise.share), verdict]))
    return "\n".join(lines)


def machine(libraries: Iterable[Library]) -> str:
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{library.name} {library.version or 'not installed'}" for library in libraries]
    instructions = selm_core.info()["cpu_instruction_set"]
    return wrapped(
        f"Measured with {', '.join(versions)}, on {processor()}, one thread, instruction set {instructions}."
    )


def processor() -> str:
    """Its type as Linux tells it."""
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = text.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
