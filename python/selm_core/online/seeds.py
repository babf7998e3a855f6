"""Seeds derived by counters: no generator state has to be saved to repeat or to continue a run."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *counters: int | str) -> int:
    """A 32-bit seed that depends on every argument, the same on every machine."""
    digest = hashlib.sha256(repr((seed, *counters)).encode()).digest()
    return int.from_bytes(digest[:4], "little")
