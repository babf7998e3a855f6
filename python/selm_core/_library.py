"""Loads libselm_torch, which registers ``torch.ops.selm``, after checking that it fits this torch."""

import torch

from selm_core import _build
from selm_core.errors import MissingPackageError


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


if _major_minor(torch.__version__) != _major_minor(_build.TORCH_VERSION):
    raise MissingPackageError(
        f"selm_core was built against torch {_build.TORCH_VERSION}, but torch {torch.__version__} is "
        "installed, and their C++ interfaces differ. Rebuild it in this environment: "
        "pip install --no-build-isolation --force-reinstall --no-deps <path to selm_core>"
    )

from selm_core import _core  # noqa: E402  (torch's libraries must be loaded first)

ops = torch.ops.selm
native = _core

__all__ = ["native", "ops"]
