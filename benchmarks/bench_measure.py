"""Seconds, peak memory and errors of one call, forward and backward."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from bench_inputs import IGNORED, Batch
from bench_peers import Method
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MODES = {"full": (True, True), "frozen head": (True, False), "no gradient": (False, False)}
"""Whether the hidden states and the head need a gradient."""

ORACLE_ROWS = 256


@dataclass(frozen=True)
class Result:
    """Of a method: what it returned, and the gradients by the names of `Batch`."""

    scored: Tensor
    gradients: dict[str, Tensor]


def run(method: Method, batch: Batch, mode: str) -> Result:
    """One forward pass and, where a gradient is wanted, one backward pass."""
    leaves = {
        name: getattr(batch, name).detach().requires_grad_(needed)
        for name, needed in zip(("hidden", "weight"), MODES[mode], strict=True)
    }
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    with torch.set_grad_enabled(bool(wanted)):
        scored = method.score(leaves["hidden"], leaves["weight"], batch.labels)
    if not wanted:
        return Result(scored, {})
    upstream = batch.upstream.to(scored.dtype) if method.per_token else torch.ones_like(scored)
    found = torch.autograd.grad(scored, list(wanted.values()), upstream)
    return Result(scored.detach(), dict(zip(wanted, found, strict=True)))


# ---------------------------------------------------------------------------------------------
# Time


@dataclass(frozen=True)
class Times:
    """Of several repetitions, in seconds."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        """The one that is quoted."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


SHUFFLE = random.Random(0)


def interleaved(
    functions: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, Times]:
    """Every function once, then every function again, so that a slow minute of the machine meets all.

    In another order each time: what ran before leaves the cache behind that the next one finds.
    """
    rounds = [
        {
            name: seconds_of(functions[name], device)
            for name in SHUFFLE.sample(list(functions), len(functions))
        }
        for _ in range(repetitions)
    ]
    return {name: Times([times[name] for times in rounds]) for name in functions}


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Until the device has finished."""
    synchronize(device)
    start = time.perf_counter()
    result = function()
    synchronize(device)
    elapsed = time.perf_counter() - start
    del result  # freed outside of the measured time
    return elapsed


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# The three products over the rows that count, each in two layouts: where the logits, and their gradient, hold
# one row for each position, and where they hold one for each token.
PRODUCTS = {"full": ("logits", "dX", "dW"), "frozen head": ("logits", "dX")}


def bare_products(batch: Batch, mode: str) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """By product, then by layout; they write into memory that is there."""
    x, w = batch.hidden[batch.valid], batch.weight
    z = x @ w.T
    zt = z.T.contiguous()
    into = {"logits": z.clone(), "dX": torch.empty_like(x), "dW": torch.empty_like(w)}
    transposed = {name: torch.empty_like(out.T.contiguous()) for name, out in into.items()}

    def product(a: Tensor, b: Tensor, out: Tensor) -> Callable[[], Tensor]:
        return lambda: torch.mm(a, b, out=out)

    every = {
        "logits": {
            "by position": product(x, w.T, into["logits"]),
            "by token": product(w, x.T, transposed["logits"]),
        },
        "dX": {
            "by position": product(z, w, into["dX"]),
            "by token": product(zt.T, w, into["dX"]),
            "by token, transposed": product(w.T, zt, transposed["dX"]),
        },
        "dW": {
            "by position": product(z.T, x, into["dW"]),
            "by position, transposed": product(x.T, z, transposed["dW"]),
            "by token": product(zt, x, into["dW"]),
        },
    }
    return {name: every[name] for name in PRODUCTS.get(mode, ("logits",))}


# ---------------------------------------------------------------------------------------------
# Memory


def peak_bytes(function: Callable[[], Result], device: torch.device) -> int:
    """Most bytes held at once beyond what was held before, without the returned gradients.

    On a CPU what torch allocates, not what libraries below it allocate for themselves.
    """
    return cuda_peak(function, device) if device.type == "cuda" else cpu_peak(function)


def cuda_peak(function: Callable[[], Result], device: torch.device) -> int:
    """All gradients are subtracted from the peak, whether they were there at that moment or not."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    torch.cuda.synchronize(device)
    returned = sum(grad.untyped_storage().nbytes() for grad in result.gradients.values())
    return torch.cuda.max_memory_allocated(device) - before - returned


def cpu_peak(function: Callable[[], Result]) -> int:
    """From every allocation, those of the returned gradients left out."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = function()
    changes = allocations(recorded)
    for grad in result.gradients.values():
        at = grad.untyped_storage().data_ptr()
        del changes[max(i for i, (where, size) in enumerate(changes) if where == at and size > 0)]
    held = highest = 0
    for _, size in changes:
        held += size
        highest = max(highest, held)
    return highest


def allocations(recorded: profile) -> list[tuple[int, int]]:
    """Address and bytes (negative where freed), in order."""
    found, events = [], list(recorded.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag.name == "Allocation":
            change = event.extra_fields
            found.append((event.start_time_ns, change.ptr, change.alloc_size))
    return [change for _, *change in sorted(found, key=lambda item: item[0])]


# ---------------------------------------------------------------------------------------------
# Errors


@dataclass(frozen=True)
class Truth:
    """In float64, on the same inputs."""

    logps: Tensor
    gradients: dict[str, Tensor]


def truth_of(batch: Batch) -> Truth:
    """A few rows at a time."""
    mask = batch.valid
    x, w = batch.hidden[mask].double(), batch.weight.double()
    labels, upstream = batch.labels[mask], batch.upstream[mask].double()
    logps = x.new_zeros(batch.labels.shape)
    grad_hidden, grad_weight = x.new_zeros(batch.hidden.shape), torch.zeros_like(w)
    found, grads = [], []
    for rows in torch.arange(len(x), device=x.device).split(ORACLE_ROWS):
        log_probs = (x[rows] @ w.T).log_softmax(-1)
        found.append(log_probs.gather(-1, labels[rows, None]).squeeze(-1))
        # d logp / d logits = onehot - softmax
        grad = log_probs.exp_().neg_()
        grad[torch.arange(len(rows)), labels[rows]] += 1.0
        grad *= upstream[rows, None]
        grads.append(grad @ w)
        grad_weight.addmm_(grad.T, x[rows])
    logps[mask], grad_hidden[mask] = torch.cat(found), torch.cat(grads)
    return Truth(logps, {"hidden": grad_hidden, "weight": grad_weight})


def errors_of(method: Method, result: Result, batch: Batch, truth: Truth) -> dict[str, float]:
    """Mean absolute error of the log-probabilities, in nats; of a gradient the norm, relative."""
    errors = {}
    if method.per_token:
        difference = result.scored.double() - truth.logps
        if bool(difference[batch.labels == IGNORED].any()):
            raise ValueError("log-probabilities where the label is ignored")
        errors["logps"] = float(difference[batch.valid].abs().mean())
    for name, grad in result.gradients.items():
        exact = truth.gradients[name]
        errors[name] = float((grad.double() - exact).norm() / exact.norm())
    return errors
