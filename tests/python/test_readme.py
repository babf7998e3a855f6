"""The README's code works as printed."""

import re
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    str(page.relative_to(ROOT))
    for place in (".", "docs", "examples", "recipes")
    for page in sorted((ROOT / place).glob("*.md" if place == "." else "**/*.md"))
]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


def blocks(language: str) -> list[str]:
    found = [text for name, text in BLOCKS if name == language]
    assert found, f"the README has no {language} block"
    return found


def installed(package: str, header: str) -> Path:
    """The folder to include from, to find a header that a Python package brings."""
    (found,) = [file for file in files(package) or [] if file.match(header)]
    return Path(found.locate()).parents[header.count("/")]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_python_block_prints_what_it_says() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], check=True, capture_output=True, text=True
    ).stdout
    assert "5.0000e-05" in printed  # alpha * beta / 2, as its comment says


def test_cpp_block_compiles_and_runs(tmp_path: Path) -> None:
    (code,) = blocks("cpp")
    source = tmp_path / "readme.cpp"
    source.write_text(code)
    include = [
        f"-I{path}"
        for path in (
            ROOT / "include",
            installed("cmeel-eigen", "Eigen/Core"),
            installed("cmeel-fmt", "fmt/core.h"),
        )
    ]
    program = tmp_path / "readme"
    subprocess.run(
        ["g++", "-std=c++17", "-DFMT_HEADER_ONLY", *include, str(source), "-o", str(program)],
        check=True,
    )
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert "gradient of the response 1.0e-04" in printed


def test_commands_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\S+)", "".join(blocks("sh")), re.M):
        assert re.search(rf"^{command}:", makefile, re.M), command
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / link).exists(), link
