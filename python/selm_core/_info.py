"""Versions and capabilities of this installation."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from selm_core import _build
from selm_core._library import native


def cmake_prefix_path() -> str:
    """Folder to add to CMAKE_PREFIX_PATH so that ``find_package(selm_core)`` finds this package."""
    return str(Path(native.__file__).parent)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def info() -> dict[str, Any]:
    """Versions, back ends, CUDA architectures and the CPU instruction set in use.

    Returns:
        A flat dictionary of strings, lists and booleans, made for bug reports; None for what is
        absent.
    """
    return {
        "selm_core": _build.VERSION,
        "torch": torch.__version__,
        "built_against_torch": _build.TORCH_VERSION,
        **{package: _version(package) for package in ("transformers", "trl", "peft")},
        "compiler": _build.CXX_COMPILER,
        "python": platform.python_version(),
        "cpu_instruction_set": native.cpu_instruction_set(),
        "cuda_kernels": _build.CUDA_VERSION is not None,
        "cuda_compiler": _build.CUDA_VERSION,
        "cuda_architectures": list(_build.CUDA_ARCHITECTURES),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cmake_prefix_path": cmake_prefix_path(),
    }
