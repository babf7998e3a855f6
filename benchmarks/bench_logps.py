"""Measures the operators that take logits, in GB/s beside a plain read and a plain copy of the same bytes.

    python benchmarks/bench_logps.py
    python benchmarks/bench_logps.py --quick --write

Counted is what has to be moved: forward the logits once, backward the logits once and their gradient once.
Results are in build/bench/logps-DEVICE.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import selm_core
import torch
from bench_files import keep_freed_memory, parse, save, short
from bench_measure import Times, interleaved
from bench_page import write_page
from bench_peers import OURS, first_line
from bench_tables import logps_table
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]

SIZES = {  # batch, time, vocabulary: several times what a last-level cache holds
    "cpu": [(16, 129, 32_000), (12, 129, 49_152), (4, 129, 151_936)],
    "cuda": [(8, 1_025, 32_000), (8, 1_025, 128_256), (8, 513, 256_000)],
}
DTYPES = (torch.bfloat16, torch.float32)
REPETITIONS, QUICK_REPETITIONS = 7, 3


@dataclass(frozen=True)
class Logits:
    """As a model returns them: `(batch, time, vocab)`, the last position scored by nothing."""

    logits: Tensor
    tokens: Tensor

    @property
    def scored_bytes(self) -> int:
        """Of the positions that have a next token."""
        return self.logits[:, :-1].numel() * self.logits.itemsize


def make_logits(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Logits:
    """Spread as those of a language model; their values do not change the time."""
    batch, time, vocab = size
    generator = torch.Generator().manual_seed(37)
    tokens = torch.randint(vocab, (batch, time), generator=generator)
    logits = torch.empty(size, dtype=dtype)
    for row in logits:
        row.copy_(torch.randn(row.shape, generator=generator).mul_(2.0))
    return Logits(logits.to(device), tokens.to(device))


def shifted(score: Score) -> Score:
    """Position t is scored against token t + 1, without a copy of the logits."""
    return lambda logits, tokens: score(logits[:, :-1], tokens[:, 1:])


def eager(logits: Tensor, index: Tensor) -> Tensor:
    """torch alone."""
    return logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def trl(logits: Tensor, index: Tensor) -> Tensor:
    """TRL's function of the same name."""
    from trl.trainer.utils import selective_log_softmax

    found: Tensor = selective_log_softmax(logits, index)
    return found


OPERATORS: dict[str, Score] = {
    f"{OURS} selective_log_softmax": shifted(selm_core.selective_log_softmax),
    f"{OURS} sequence_logps": selm_core.sequence_logps,
    "torch log_softmax, gather": shifted(eager),
    "TRL selective_log_softmax": shifted(trl),
}


def measure(given: Logits, repetitions: int) -> dict[str, Any]:
    """Of all operators in turns; each pass moves at least `scored_bytes`."""
    device, size = given.logits.device, given.scored_bytes
    methods: dict[str, dict[str, Any]] = {}
    forward: dict[str, Callable[[], Tensor]] = {}
    backward: dict[str, Callable[[], object]] = {}
    for name, operator in OPERATORS.items():
        try:
            forward[name], backward[name] = passes(operator, given)
        except ModuleNotFoundError:
            methods[name] = {"missing": "not installed"}
        except Exception as error:
            if name.startswith(OURS):
                raise
            methods[name] = {"missing": first_line(error)}
    plain = plain_passes(given)
    times = interleaved(forward | plain, repetitions, device)
    back = interleaved(backward, repetitions, device)
    for name in forward:
        methods[name] = {"forward": rate(size, times[name]), "backward": rate(2 * size, back[name])}
    return {
        "shape": " x ".join(f"{n:,}" for n in given.logits.shape),
        "dtype": short(given.logits.dtype),
        "read": rate(given.logits.nbytes, times["read"]),
        "copy": rate(2 * given.logits.nbytes, times["copy"]),
        "methods": {name: methods[name] for name in OPERATORS},
    }


def passes(operator: Score, given: Logits) -> tuple[Callable[[], Tensor], Callable[[], object]]:
    """The forward pass, and the backward pass of a graph that is there; each was run once."""
    leaf = given.logits.detach().requires_grad_()

    def forward() -> Tensor:
        return operator(leaf, given.tokens)

    scored = forward()
    upstream = torch.full_like(scored, 0.1)

    def backward() -> object:
        return torch.autograd.grad(scored, leaf, upstream, retain_graph=True)

    backward()
    return forward, backward


def plain_passes(given: Logits) -> dict[str, Callable[[], Tensor]]:
    """A sum and a copy of all logits, as the float32 that torch reads as fast as memory gives it.

    Of the logits themselves, because one tensor's pages may be twice as fast as another's.
    """
    source = given.logits.view(-1).view(torch.float32)
    target = torch.empty_like(source)
    found = {"read": lambda: source.sum(), "copy": lambda: target.copy_(source)}
    for function in found.values():
        function()
    return found


def rate(size: int, times: Times) -> float:
    """GB/s."""
    return size / times.median / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options = parse(parser, arguments)
    device = torch.device(options.device)
    repetitions = QUICK_REPETITIONS if options.quick else REPETITIONS
    sizes = SIZES[device.type][: 1 if options.quick else None]
    found = []
    for size in sizes:
        for dtype in DTYPES:
            found.append(measure(make_logits(size, dtype, device), repetitions))
            print(logps_table({"found": found[-1:]}), flush=True)
    save("logps", device, options.quick, repetitions, found)
    if options.write:
        write_page()


if __name__ == "__main__":
    keep_freed_memory()
    main()
