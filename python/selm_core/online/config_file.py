"""A run described in a TOML or JSON file, for `selm train`.

    model = "path/of/the/model"
    judge = "my_judges:helpfulness"   # module:callable; a class is instantiated without arguments
    train = "prompts.jsonl"           # JSON lines with prompt, or with prompt, chosen and rejected
    eval = "held_out.jsonl"           # optional: JSON lines with prompt

    [online]                          # OnlineConfig
    output_dir = "runs/first"

    [online.training]                 # SELMConfig
    alpha = 1e-3

    [online.lora]                     # peft.LoraConfig; leave it out to train all weights
    r = 16

Paths and the judge's module are looked up from the working directory.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from selm_core.errors import InputError, UserError
from selm_core.online.config import OnlineConfig
from selm_core.online.judge import Judge
from selm_core.online.loop import OnlineSELM
from selm_core.online.report import write_report

REQUIRED = {"model", "judge", "train", "online"}
OPTIONAL = {"eval"}
TYPES = {"model": str, "judge": str, "train": str, "eval": str, "online": dict}


class ConfigFileError(UserError, ValueError):
    """The file does not describe a run."""


def run_config_file(path: Path) -> None:
    """Runs the loop that the file describes, then says where the report and the model lie."""
    online = read_config_file(path)
    online.run()
    print(f"report: {write_report(online.output_dir, title=f'SELM: {path.stem}')}")
    print(f"model:  {online.policy(online.config.iterations)}")


def read_config_file(path: Path) -> OnlineSELM:
    """The loop that the file describes. Raises ConfigFileError, which names the key, if it
    describes none."""
    content = _parse(path)
    _check_keys(content, REQUIRED, OPTIONAL, where=f"{path}")
    for key, value in content.items():
        if not isinstance(value, TYPES[key]):
            raise ConfigFileError(
                f"{path}: expected '{key}' to be a {TYPES[key].__name__}, got {value!r}"
            )
    names = {field.name for field in fields(OnlineConfig)}
    _check_keys(
        content["online"], {"output_dir"}, names - {"output_dir"}, where=f"{path}: [online]"
    )
    try:
        return OnlineSELM(
            content["model"],
            import_judge(content["judge"]),
            _read_json_lines(Path(content["train"])),
            config=OnlineConfig(**content["online"]),
            eval_dataset=_read_json_lines(Path(content["eval"])) if "eval" in content else None,
        )
    except InputError as error:
        raise ConfigFileError(f"{path}: {error}") from error


def import_judge(name: str) -> Judge:
    """The callable that `module:name` names; a class is instantiated without arguments."""
    module_name, separator, attribute = name.partition(":")
    if not separator or not module_name or not attribute or module_name.startswith("."):
        raise ConfigFileError(f"judge: expected 'module:callable', got {name!r}")
    if "" not in sys.path:
        sys.path.insert(
            0, ""
        )  # as `python -m` does; the `selm` script alone would not see the working directory
    try:
        judge = getattr(importlib.import_module(module_name), attribute, None)
    except (ImportError, SyntaxError) as error:
        raise ConfigFileError(f"judge: {name!r} cannot be imported: {error}") from error
    if isinstance(judge, type):
        judge = _instantiate(name, judge)
    if not callable(judge):
        raise ConfigFileError(
            f"judge: expected a callable named {attribute!r} in module {module_name!r}, "
            f"got {judge!r}"
        )
    return cast(Judge, judge)


def _instantiate(name: str, judge: type) -> object:
    try:
        inspect.signature(judge).bind()
    except TypeError as error:
        raise ConfigFileError(
            f"judge: expected {name!r} to be a class without required arguments: {error}; name a "
            "function or an instance instead"
        ) from error
    return judge()


def _parse(path: Path) -> dict[str, Any]:
    if path.suffix not in {".toml", ".json"}:
        raise ConfigFileError(f"{path}: expected a .toml or a .json file")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigFileError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigFileError(f"{path}: expected an object at the top, got {content!r}")
    return content


def _check_keys(
    content: dict[str, Any], required: set[str], optional: set[str], *, where: str
) -> None:
    if missing := sorted(required - content.keys()):
        raise ConfigFileError(f"{where}: missing {missing}")
    if unknown := sorted(content.keys() - required - optional):
        raise ConfigFileError(
            f"{where}: unknown {unknown}, expected some of {sorted(required | optional)}"
        )


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with path.open("rb") as lines:  # json decodes, so that bad text is named by its line
            for number, line in enumerate(lines, start=1):
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise ConfigFileError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise ConfigFileError(f"{path}: {error}") from error
    return rows
