"""What a call allocates on the CPU, as torch's profiler sees it; memory that is NaN until written."""

import contextlib

import torch
from torch.profiler import ProfilerActivity, profile


def changes(function):
    """Bytes allocated (> 0) and freed (< 0) during a call, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    events = recorded.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns())]


def allocations(function):
    """Sizes of the allocations of a call, in bytes."""
    return [size for size in changes(function) if size > 0]


def peak(function):
    """Most bytes held at once beyond what was held before the call."""
    held = highest = 0
    for change in changes(function):
        held += change
        highest = max(highest, held)
    return highest


def multiplications(function):
    """Floating-point operations of torch's own matrix products in a call."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        function()
    products = {"aten::mm": (0, 1), "aten::addmm_": (1, 2)}
    total = 0
    for event in recorded.events():
        if event.name in products:
            a, b = (event.input_shapes[k] for k in products[event.name])
            total += 2 * a[0] * a[1] * b[1]
    return total


@contextlib.contextmanager
def fresh_memory_is_nan():
    """Torch fills it then, as with its deterministic algorithms: what is read before it is written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        yield
    finally:
        torch.use_deterministic_algorithms(False)
