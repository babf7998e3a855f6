"""Names for things that a run depends on but does not store."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import selm_core
from selm_core.online.judge import Judge

LIBRARIES = ("torch", "transformers", "trl", "peft")


def model_identity(model: str) -> str:
    """SHA-256 over names and contents of a model folder's files; a name on a hub as it is."""
    if not Path(model).is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(model).iterdir() if p.is_file()):
        with file.open("rb") as stream:
            digest.update(
                f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return f"sha256:{digest.hexdigest()}"


def qualified_name(judge: Judge) -> str:
    """`module.name` of a function, of a method, or of an object's class."""
    named = judge if hasattr(judge, "__qualname__") else type(judge)
    return f"{named.__module__}.{named.__qualname__}"


def library_versions() -> dict[str, str]:
    """Versions that a run's results may depend on."""
    return {"selm_core": selm_core.__version__} | {
        name: importlib.metadata.version(name) for name in LIBRARIES
    }
