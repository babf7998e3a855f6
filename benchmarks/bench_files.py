"""Options, and results in build/bench: the same for all benchmarks."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import selm_core
import torch
from accuracy_page import processor
from accuracy_peers import installed
from selm_core._library import native

FOLDER = Path(__file__).parents[1] / "build" / "bench"
PACKAGES = ("torch", "trl", "transformers", "liger-kernel", "cut-cross-entropy")


# glibc gives large blocks back to the system when they are freed, and pays for fresh pages at the next call.
# What that costs depends on the machine far more than on the library that is measured.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}


def keep_freed_memory() -> None:
    """Start the script again with memory that stays with the process."""
    if any(os.environ.get(name) != value for name, value in KEEP_FREED_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_FREED_MEMORY)


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """`device`, `quick`, `write`, and what the parser knows already."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few cases, small ones")
    parser.add_argument("--write", action="store_true", help="docs/performance.md and its plots")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    return options


def save(name: str, device: torch.device, quick: bool, repetitions: int, found: object) -> None:
    """Replaces what the last run on such a device left."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {
        "conditions": conditions(device, quick, repetitions),
        "library": library(),
        "device": device.type,
        "found": found,
    }
    (FOLDER / f"{name}-{device.type}.json").write_text(json.dumps(content, indent=1) + "\n")


def load(name: str, device: str) -> dict[str, Any] | None:
    """What the last run left; None where there was none."""
    path = FOLDER / f"{name}-{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def conditions(device: torch.device, quick: bool, repetitions: int) -> str:
    """Where this ran, and with which versions."""
    versions = ", ".join(f"{name} {installed(name) or 'not installed'}" for name in PACKAGES)
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        instructions = selm_core.info()["cpu_instruction_set"]
        where = f"{processor()}, {torch.get_num_threads()} threads, instruction set {instructions}"
    kind = "A quick run" if quick else "Measured"
    return (
        f"{kind} with selm_core {selm_core.__version__}, {versions}, Python {platform.python_version()}, on "
        f"{where}; medians of {repetitions} repetitions."
    )


def library() -> str:
    """Tells one build of the operators from another."""
    folder = Path(str(native.__file__)).parent
    return hashlib.sha256((folder / "lib" / "libselm_torch.so").read_bytes()).hexdigest()


def short(dtype: torch.dtype) -> str:
    """Its name."""
    return str(dtype).removeprefix("torch.")
