"""Measures linear_logps beside its peers and beside the bare matrix products, in one process.

    python benchmarks/bench_linear_logps.py --quick
    python benchmarks/bench_linear_logps.py --write     # 40 minutes; docs/performance.md
    python benchmarks/bench_linear_logps.py --write --resume    # if that was interrupted
    python benchmarks/bench_linear_logps.py --device cuda

Results are in build/bench/linear_logps-DEVICE.json. A peer that cannot run is listed with the reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bench_files import conditions, keep_freed_memory, library, load, parse, save, short
from bench_inputs import Batch, Shape, make_batch
from bench_measure import (
    Result,
    Times,
    Truth,
    bare_products,
    errors_of,
    interleaved,
    peak_bytes,
    run,
    seconds_of,
    truth_of,
)
from bench_page import write_page
from bench_peers import LEAN, OURS, Method, first_line, lean, methods
from bench_tables import case_table

SHAPES = {
    "cpu": [
        Shape("SmolLM2", 576, 49_152, batch=8, time=128, real=True),
        Shape("Zephyr", 4_096, 32_000, batch=8, time=32),
        Shape("Qwen2.5-0.5B", 896, 151_936, batch=8, time=32),
        Shape("odd vocabulary", 1_024, 32_001, batch=8, time=32),
    ],
    "cuda": [
        Shape("SmolLM2", 576, 49_152, batch=16, time=512, real=True),
        Shape("Qwen2.5-0.5B", 896, 151_936, batch=16, time=512),
        Shape("Gemma-2-2B", 2_304, 256_000, batch=8, time=512),
        Shape("Qwen2.5-7B", 3_584, 152_064, batch=16, time=512),
        Shape("Zephyr", 4_096, 32_000, batch=16, time=1_024),
        Shape("Llama-3-8B", 4_096, 128_256, batch=16, time=512),
        Shape("odd vocabulary", 4_096, 32_001, batch=16, time=512),
    ],
}
QUICK_SHAPES = {
    "cpu": [
        Shape("SmolLM2", 576, 49_152, batch=4, time=64, real=True),
        Shape("Zephyr", 4_096, 32_000, batch=4, time=32),
    ],
    "cuda": SHAPES["cuda"][:2],
}
DTYPES = (torch.bfloat16, torch.float32)
FRACTIONS = (0.3, 0.6, 1.0)
REPETITIONS, QUICK_REPETITIONS = 5, 3
SLOW = 2.5
"""A method that took so many times as long as the fastest in its first turn is not timed again."""
TRIALS = 3
"""Turns of the others that find the fastest peer."""


@dataclass(frozen=True)
class Case:
    """One row of a table."""

    shape: Shape
    dtype: torch.dtype
    fraction: float
    mode: str
    layout: str

    @property
    def work(self) -> float:
        """About proportional to the seconds it takes."""
        rows = self.shape.rows * (1.0 if self.layout == "padded" else self.fraction)
        operands = {"full": 3.0, "frozen head": 2.0, "no gradient": 1.0}[self.mode]
        slow = 2.0 if self.dtype == torch.float32 else 1.0
        return rows * self.shape.width * self.shape.vocab * operands * slow

    def described(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "shape": self.shape.name,
            "width": self.shape.width,
            "vocab": self.shape.vocab,
            "dtype": short(self.dtype),
            "fraction": self.fraction,
            "mode": self.mode,
            "layout": self.layout,
        }

    def __str__(self) -> str:
        """For the terminal."""
        valid = f"{self.fraction:.0%} valid"
        return f"{self.shape.name}, {short(self.dtype)}, {self.mode}, {valid}, {self.layout}"


def cases(shapes: Sequence[Shape]) -> Iterator[Case]:
    """All fractions with both gradients; in bfloat16 the middle one in the other modes, and compacted."""
    middle = FRACTIONS[1]
    for shape in shapes:
        for dtype in DTYPES:
            for fraction in FRACTIONS:
                yield Case(shape, dtype, fraction, "full", "padded")
        yield Case(shape, torch.bfloat16, middle, "full", "compacted")
        for mode in ("frozen head", "no gradient"):
            yield Case(shape, torch.bfloat16, middle, mode, "padded")


def quick_cases(shapes: Sequence[Shape]) -> Iterator[Case]:
    """One fraction of the first shape in two types, of the others in bfloat16."""
    for shape in shapes:
        for dtype in DTYPES if shape is shapes[0] else DTYPES[:1]:
            yield Case(shape, dtype, 0.4, "full", "padded")


def measure(case: Case, device: torch.device, repetitions: int) -> dict[str, Any]:
    """Everything about one case, as it goes into the file."""
    batch = make_batch(case.shape, case.dtype, case.fraction, device)
    if case.layout == "compacted":
        batch = batch.compacted()
    sizes = {"rows": batch.labels.numel(), "valid": int(batch.valid.sum())}
    return case.described() | sizes | measured(batch, case.mode, methods(device), repetitions)


def measured(
    batch: Batch, mode: str, found: dict[str, Method | str], repetitions: int
) -> dict[str, Any]:
    """Errors on the first run, memory on the second, a trial, and then the time of all in turns.

    The trial leaves out who is slow, and finds the fastest peer, whose memory sets the lean budget.
    """
    truth, device = truth_of(batch), batch.hidden.device
    reports = {name: examined(name, method, batch, mode, truth) for name, method in found.items()}
    running = {
        n: m for n, m in found.items() if isinstance(m, Method) and "missing" not in reports[n]
    }
    calls = {name: lambda m=m: run(m, batch, mode) for name, m in running.items()}
    first = {name: seconds_of(call, device) for name, call in calls.items()}
    peers = [name for name in running if name != OURS]
    slow = {name for name in peers if first[name] > SLOW * min(first.values())}
    if peers:
        close = [name for name in peers if name not in slow] or peers
        trial = interleaved({name: calls[name] for name in close}, TRIALS, device)
        fastest = min(close, key=lambda name: trial[name].median)
        # A quarter of its memory, and no less than the operator needs: one row in float32.
        budget = max(int(reports[fastest]["peak_bytes"]) // 4, 4 * batch.weight.shape[0])
        running[LEAN] = lean(budget)
        reports[LEAN] = examined(LEAN, running[LEAN], batch, mode, truth)
        reports[LEAN] |= {"workspace_bytes": budget, "beside": fastest}
        calls[LEAN] = lambda: run(running[LEAN], batch, mode)
    nll = -float(truth.logps.sum() / batch.valid.sum())
    del truth
    again = {name: call for name, call in calls.items() if name not in slow}
    times, bare = timed(again, batch, mode, repetitions)
    for name, taken in times.items():
        reports[name] |= {"seconds": taken.median, "spread": taken.spread}
    for name in slow:
        reports[name] |= {"seconds": first[name], "spread": None}
    order = [OURS, LEAN, *(name for name in found if name != OURS)]
    return {"nll": nll, "bare": bare, "methods": {n: reports[n] for n in order if n in reports}}


def examined(
    name: str, method: Method | str, batch: Batch, mode: str, truth: Truth
) -> dict[str, Any]:
    """Errors and memory, or why there are none."""
    if isinstance(method, str):
        return {"missing": method}
    try:
        errors = errors_of(method, run(method, batch, mode), batch, truth)
        peak = peak_bytes(lambda: run(method, batch, mode), batch.hidden.device)
    except Exception as error:
        if name in (OURS, LEAN):
            raise
        return {"missing": first_line(error)}  # a peer's own; the tables show it
    return {"errors": errors, "peak_bytes": peak}


def timed(
    calls: dict[str, Callable[[], Result]], batch: Batch, mode: str, repetitions: int
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Of the methods' calls, and of the bare products with the faster layout for each."""
    device = batch.hidden.device
    products = {
        (name, layout): function
        for name, layouts in bare_products(batch, mode).items()
        for layout, function in layouts.items()
    }
    for function in products.values():
        function()  # the first call packs and allocates
    times = interleaved(calls | products, repetitions, device)
    bare: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, _ in products):
        layouts = {layout: times[name, layout].median for n, layout in products if n == name}
        best = min(layouts, key=layouts.__getitem__)
        bare[name] = {"seconds": layouts[best], "layout": best}
    return {name: times[name] for name in calls}, bare


def left_by_last_run(
    todo: Sequence[Case], device: torch.device, quick: bool, repetitions: int
) -> dict[Case, dict[str, Any]]:
    """Cases that are in the file already; it must be of a run like this one, by the same build."""
    content = load("linear_logps", device.type)
    if content is None:
        return {}
    for name, expected in {
        "conditions": conditions(device, quick, repetitions),
        "library": library(),
    }.items():
        if content.get(name) != expected:
            raise SystemExit(
                f"--resume: expected results of a run like this one, {name} {expected!r}, "
                f"got {content.get(name)!r}"
            )
    return {
        case: row
        for case in todo
        for row in content["found"]
        if case.described().items() <= row.items()
    }


def progress(done: float, total: float, start: float, text: str) -> None:
    """What comes now, and how long all of it will take."""
    left = (time.monotonic() - start) * (total - done) / done if done else None
    minutes = "" if left is None else f", {left / 60:.1f} minutes left"
    print(f"\n[{done / total:.0%}{minutes}] {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save after each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    options = parse(parser, arguments)
    device = torch.device(options.device)
    shapes = (QUICK_SHAPES if options.quick else SHAPES)[device.type]
    todo = list((quick_cases if options.quick else cases)(shapes))
    # With dynamic shapes torch.compile still compiles for each type and mode; it must not give up silently.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    repetitions = QUICK_REPETITIONS if options.quick else REPETITIONS
    found = left_by_last_run(todo, device, options.quick, repetitions) if options.resume else {}
    missing = [case for case in todo if case not in found]
    total, done, start = sum(case.work for case in missing), 0.0, time.monotonic()
    for case in missing:
        progress(done, total, start, str(case))
        found[case] = measure(case, device, repetitions)
        print(case_table(found[case]), flush=True)
        rows = [found[case] for case in todo if case in found]
        save("linear_logps", device, options.quick, repetitions, rows)
        done += case.work
    if options.write:
        write_page()


if __name__ == "__main__":
    keep_freed_memory()
    main()
