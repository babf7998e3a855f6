"""Tables of what was measured: for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accuracy_page import line, number
from bench_peers import LEAN, OURS

Case = dict[str, Any]
Report = dict[str, Any]


def bare_seconds(case: Case) -> float:
    """Of the products together."""
    return float(sum(product["seconds"] for product in case["bare"].values()))


def best_peer(case: Case) -> Report | None:
    """The fastest library other than ours."""
    peers = (r for n, r in case["methods"].items() if n not in (OURS, LEAN))
    return min((r for r in peers if "seconds" in r), key=lambda r: r["seconds"], default=None)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(line(cells) for cells in (head, rule, *rows))


def ratio(report: Report, unit: float | Report | None) -> str:
    """Of times, with as many digits as the spread of a measurement leaves; a star: timed once."""
    if unit is None:
        return "-"
    other = unit["seconds"] if isinstance(unit, dict) else unit
    return f"{report['seconds'] / other:.2f}" + ("*" if report["spread"] is None else "")


def mebibytes(size: float) -> str:
    """Of memory."""
    return f"{size / 2**20:,.0f}"


# ---------------------------------------------------------------------------------------------
# The terminal

ERRORS = ("logps", "hidden", "weight")


def case_table(case: Case) -> str:
    """All about a case; padded with blanks."""
    head = ["method", "ms", "spread", "x bare", "x best peer", "peak MiB"]
    head += ["logp error", "dX error", "dW error"]
    bare, best = bare_seconds(case), best_peer(case)
    rows = [head]
    for name, report in case["methods"].items():
        if "missing" in report:
            rows.append([name, report["missing"]])
            continue
        spread = "once" if report["spread"] is None else f"{report['spread']:.0%}"
        times = [f"{report['seconds'] * 1e3:,.1f}", spread, ratio(report, bare)]
        sizes = [ratio(report, best), mebibytes(report["peak_bytes"])]
        rows.append([name, *times, *sizes, *(error(report, key) for key in ERRORS)])
    products = ", ".join(
        f"{name} {product['seconds'] * 1e3:,.1f} ({product['layout']})"
        for name, product in case["bare"].items()
    )
    return "\n".join(
        [
            f"{case['valid']} of {case['rows']} positions count, NLL {case['nll']:.2f}; "
            f"bare products {bare * 1e3:,.1f} ms: {products}",
            *aligned(rows),
        ]
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left; a row of two cells is a name and a text."""
    first = max(len(row[0]) for row in rows)
    widths = [max(len(cells[k]) for cells in rows if len(cells) > 2) for k in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(first)]
            + (
                list(row[1:])
                if len(row) == 2
                else [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            )
        )
        for row in rows
    ]


def error(report: Report, key: str) -> str:
    """Where the method has such a result."""
    return number(report["errors"][key]) if key in report["errors"] else "-"


# ---------------------------------------------------------------------------------------------
# The page


def page_tables(cases: Sequence[Case]) -> str:
    """Times by layout, memory and errors, and why a method is not there."""
    parts = []
    for layout, title in (
        ("padded", "Padded batches, as trainers pass them"),
        ("compacted", "Only the positions that count"),
    ):
        chosen = [case for case in cases if case["layout"] == layout]
        if chosen:
            parts += [
                f"#### {title}: time",
                "Multiples of the bare matrix products.",
                times(chosen),
            ]
            parts += [f"#### {title}: peak extra memory", "MiB.", table(chosen, peak)]
    full = [case for case in cases if case["mode"] == "full" and case["layout"] == "padded"]
    parts += [
        "#### Errors",
        "Of a log-probability in nats, the mean / of dX / of dW, the norm relative to the gradient's. The "
        "truth is float64 on the same inputs.",
        table(full, errors),
    ]
    return "\n\n".join([*parts, missing(cases)])


def label(case: Case) -> str:
    """Of a row."""
    return (
        f"{case['shape']} {case['width']:,} x {case['vocab']:,}, {case['dtype']}, {case['mode']}, "
        f"{case['valid']:,} of {case['rows']:,}"
    )


def columns(cases: Sequence[Case]) -> list[str]:
    """Methods that ran somewhere."""
    names = dict.fromkeys(name for case in cases for name in case["methods"])
    return [n for n in names if any("seconds" in case["methods"].get(n, {}) for case in cases)]


def table(cases: Sequence[Case], cell: Callable[[Case, Report], str]) -> str:
    """A row for each case, a column for each method."""
    names = columns(cases)
    rows = []
    for case in cases:
        reports = [case["methods"].get(name, {}) for name in names]
        rows.append([label(case), *(cell(case, r) if "seconds" in r else "-" for r in reports)])
    return markdown(["head, type, mode, positions that count", *names], rows)


def times(cases: Sequence[Case]) -> str:
    """And three columns more: the unit, ours beside the fastest peer, the wider spread of these two."""
    head, rule, *rows = table(cases, lambda case, r: ratio(r, bare_seconds(case))).split("\n")
    more = [["bare, ms", "ours / best peer", "spread of the two"], ["---:"] * 3]
    for case in cases:
        ours, best = case["methods"][OURS], best_peer(case)
        spread = max(r["spread"] for r in (ours, best) if r is not None)
        more.append([f"{bare_seconds(case) * 1e3:,.0f}", ratio(ours, best), f"{spread:.0%}"])
    return "\n".join(
        f"{text} {' | '.join(cells)} |"
        for text, cells in zip((head, rule, *rows), more, strict=True)
    )


def peak(case: Case, report: Report) -> str:
    """Without the returned gradients."""
    return mebibytes(report["peak_bytes"])


def errors(case: Case, report: Report) -> str:
    """All that there are."""
    return " / ".join(error(report, key) for key in ERRORS)


def missing(cases: Sequence[Case]) -> str:
    """Each reason once."""
    reasons = dict.fromkeys(
        f"{name}: {report['missing']}"
        for case in cases
        for name, report in case["methods"].items()
        if "missing" in report
    )
    return "Not measured: " + ("; ".join(reasons) or "nothing") + "."


# ---------------------------------------------------------------------------------------------
# The other benchmarks


def logps_table(content: Report) -> str:
    """GB/s of what has to be read and written, and the share of a plain read or copy."""
    return "\n\n".join(
        f"Logits {case['shape']}, {case['dtype']}: a plain read {case['read']:.1f} GB/s, a plain copy "
        f"{case['copy']:.1f} GB/s.\n\n"
        + markdown(
            ["operator", "forward, GB/s", "of a read", "backward, GB/s", "of a copy"],
            [logps_row(name, report, case) for name, report in case["methods"].items()],
        )
        for case in content["found"]
    )


def logps_row(name: str, report: Report, case: Case) -> list[str]:
    """Of an operator, or why it is not there."""
    if "missing" in report:
        return [name, report["missing"], "-", "-", "-"]
    forward, backward = report["forward"], report["backward"]
    return [
        name,
        f"{forward:.1f}",
        f"{forward / case['read']:.0%}",
        f"{backward:.1f}",
        f"{backward / case['copy']:.0%}",
    ]


def step_table(content: Report) -> str:
    """Seconds and memory, beside TRL as it is shipped, which comes first."""
    parts = []
    for dtype, group in content["found"].items():
        (reference, *_) = group["trainers"].values()
        rows = [
            [
                name,
                f"{report['seconds']:.2f}",
                f"{report['spread']:.0%}",
                ratio(report, reference),
                mebibytes(report["peak_bytes"]),
                f"{report['gradient_norm']:.2f}",
            ]
            for name, report in group["trainers"].items()
        ]
        head = ["trainer", "seconds", "spread", "of TRL's time", "peak MiB", "gradient norm"]
        title = f"{dtype}; {group['batch']}:"
        parts.append(f"{title}\n\n{markdown(head, rows)}")
    return "\n\n".join(parts)
