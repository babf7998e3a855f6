"""Checks shell commands of the documentation: what they name must exist. Nothing is run."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

from doc_pages import ROOT, Block
from selm_core import cli

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def commands_of(block: Block) -> Iterator[tuple[list[str], str]]:
    """Each command's words, and the line that it stands in, with its comment."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end], line
            words = words[end + 1 :]


def check_command(words: list[str], line: str, folder: Path) -> None:
    """`folder` is the page's own, where an example's README speaks of the example."""
    program, *arguments = words
    if program == "make":
        _check_make(arguments)
    elif program == "selm":
        cli._parser().parse_args(arguments)  # exits on what it does not know
    elif program == "pip":
        _check_pip(arguments)
    elif program in ("cmake", "ctest"):
        _check_cmake(program, arguments)
    elif program == "python":
        _check_script(arguments)
    elif program == "g++":
        (package,) = re.findall(r"\$\(pkg-config .*?(\w+)\)", line)
        assert (ROOT / "cmake" / f"{package}.pc.in").exists(), package
    elif program.startswith("build/"):
        _check_example(program.removeprefix("build/"), line, folder)
    else:
        raise AssertionError(f"no check for the command {program!r}")


def _check_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        definition = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(definition, makefile, re.M), argument


def _check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    option = ""
    for argument in arguments[1:]:
        if option == "-r":
            assert (ROOT / argument).exists(), argument
        elif extra := re.fullmatch(r"\.\[(\w+)\]", argument):
            assert extra[1] in PYPROJECT["project"]["optional-dependencies"], argument
        elif option != "-C":
            assert argument == "." or argument.startswith("-"), argument
        option = argument


def _check_cmake(program: str, arguments: list[str]) -> None:
    sources = (ROOT / "CMakeLists.txt").read_text()
    for option in re.findall(r"-D(SELM_\w+)=", " ".join(arguments)):
        assert re.search(rf"\b{option}\b", sources), option
    if "--preset" in arguments:
        kind = "test" if program == "ctest" else "build" if "--build" in arguments else "configure"
        presets = json.loads((ROOT / "CMakePresets.json").read_text())[f"{kind}Presets"]
        assert arguments[arguments.index("--preset") + 1] in {preset["name"] for preset in presets}


def _check_script(arguments: list[str]) -> None:
    source = (ROOT / arguments[0]).read_text()
    for option in re.findall(r"--[\w-]+", " ".join(arguments[1:])):
        assert f'"{option}"' in source, option


def _check_example(name: str, line: str, folder: Path) -> None:
    assert f"add_executable({name} " in (folder / "CMakeLists.txt").read_text(), name
    sources = "".join(path.read_text() for path in folder.glob("*.?pp"))
    for option in re.findall(r"--[a-z-]+", line.partition(f"build/{name}")[2]):
        assert f'"{option}"' in sources, option
