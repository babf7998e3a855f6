"""What a call allocates on the CPU, as torch's profiler sees it."""

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
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as recorded:
        function()
    return sum(event.flops or 0 for event in recorded.key_averages() if event.flops)
