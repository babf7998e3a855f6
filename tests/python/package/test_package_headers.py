"""Each header compiles alone, and includes what its ring may include (docs/architecture.md)."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cmake_projects import CMEEL_PREFIX, REPOSITORY, Project, run

STANDARD = r"[a-z_0-9]+"  # <cmath>: neither a folder nor an extension
CUDA = r"cuda_(runtime|runtime_api|fp16|bf16)\.h"

# What a file, or the files of a folder, may include; a pattern has to match the whole name.
RINGS = {
    "include/selm/selm.hpp": [r"selm/(core|host)/.*\.hpp", r"selm/version\.hpp"],
    "include/selm/core": [STANDARD, r"selm/core/.*\.hpp"],
    "include/selm/host": [STANDARD, r"selm/(core|host)/.*\.hpp", r"Eigen/.*", r"fmt/.*"],
    "include/selm/cuda": [STANDARD, CUDA, r"selm/(core|cuda)/.*"],
    "include/selm/torch": [STANDARD, r"selm/core/options\.hpp", r"ATen/core/Tensor\.h"],
    # The host's share in the operators: its checks and errors, not its arrays.
    "src": [
        *(STANDARD, r"immintrin\.h", r"(ATen|c10|torch)/.*", r"fmt/.*"),
        *(r"selm/(core|torch)/.*", r"selm/host/(error|options|loss_options|values)\.hpp"),
        # Of the CUDA ring also what a row needs, which a CPU can do.
        *(r"selm/cuda/(launch|storage|token_rows)\.hpp", r"[a-z0-9_]+(/[a-z0-9_]+)?\.(hpp|inc)"),
    ],
    "bindings": [
        *(STANDARD, r"pybind11/.*", r"torch/csrc/utils/pybind\.h", r"fmt/.*", r"Eigen/.*"),
        *(r"selm/selm\.hpp", r"selm/core/loss_list\.hpp", r"selm/(host|torch)/.*", r"[a-z_]+\.hpp"),
    ],
}

# What nvcc compiles sees no torch, no Eigen, no fmt.
DEVICE = [STANDARD, CUDA, r"selm/(core|cuda)/.*", r"cuda/instantiations\.inc"]


# Where other libraries' headers lie.
LIBRARIES = {
    "Eigen": CMEEL_PREFIX / "include/eigen3",
    "fmt": CMEEL_PREFIX / "include/fmt",
    "torch": Path(torch.__file__).parent / "include",
}

# The libraries that a caller of these headers asks for.
ASKED_FOR = {
    "include/selm/core": set(),
    "include/selm/host": {"Eigen", "fmt"},
    "include/selm/selm.hpp": {"Eigen", "fmt"},
    "include/selm/cuda": {"CUDA"},
    "include/selm/torch": {"torch"},
}


def libraries() -> dict[str, Path]:
    """Their folders of headers, with CUDA's where there is a compiler for it.

    The compiler is asked: the ``nvcc`` on the path may be a script that lies elsewhere.
    """
    if shutil.which("nvcc") is None:
        return LIBRARIES
    rule = run("nvcc", "-M", "-x", "cu", "/dev/null").stdout
    header = next(name for name in rule.split() if name.endswith("/cuda_runtime.h"))
    return LIBRARIES | {"CUDA": Path(header).resolve().parent}


def sources(place: str) -> list[Path]:
    """The file of that name, or those of the folder."""
    found = [
        path
        for path in [REPOSITORY / place, *sorted((REPOSITORY / place).rglob("*"))]
        if path.suffix in {".hpp", ".cpp", ".cuh", ".cu", ".inc"}
    ]
    assert found, f"{place} has no sources"
    return found


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("place", RINGS)
def test_ring_includes_what_it_may(place: str) -> None:
    for path in sources(place):
        allowed = DEVICE if path.suffix in {".cu", ".cuh"} else RINGS[place]
        for name in includes(path):
            assert any(re.fullmatch(pattern, name) for pattern in allowed), (
                f"{path.relative_to(REPOSITORY)} includes {name}"
            )


@pytest.mark.parametrize("place", ASKED_FOR)
def test_headers_bring_what_their_caller_asks_for(place: str, tmp_path: Path) -> None:
    """The compiler follows every include, with all libraries on its path."""
    known = libraries()
    if not ASKED_FOR[place] <= set(known):
        pytest.skip("nvcc is not installed")
    source = tmp_path / "all.cpp"
    headers = [path for path in sources(place) if path.suffix == ".hpp"]
    source.write_text("".join(f'#include "{header}"\n' for header in headers))
    folders = [REPOSITORY / "include", CMEEL_PREFIX / "include", *known.values()]
    rule = run("g++", "-std=c++20", "-M", source, *(f"-I{folder}" for folder in folders)).stdout
    files = [Path(name).resolve() for name in rule.replace("\\\n", " ").split()[1:]]
    assert set(map(Path.resolve, headers)) <= set(files)
    brought = {
        name
        for name, folder in known.items()
        if any(file.is_relative_to(folder.resolve()) for file in files)
    }
    assert brought == ASKED_FOR[place]


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_flags_that_break_the_promises_do_not_compile(flag: str) -> None:
    header = REPOSITORY / "include/selm/core/math.hpp"
    command = ("g++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-I", REPOSITORY / "include")
    assert run(*command, header, check=False).returncode == 0
    refused = run(*command, flag, header, check=False)
    assert refused.returncode != 0
    assert "does not survive" in refused.stdout


@pytest.mark.parametrize("header", ["core/preference.hpp", "selm.hpp"])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_an_older_language_is_refused_by_its_name(compiler: str, header: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    folders = [REPOSITORY / "include", CMEEL_PREFIX / "include", CMEEL_PREFIX / "include/eigen3"]
    refused = run(
        *(compiler, "-std=c++14", "-fsyntax-only", *(f"-I{folder}" for folder in folders)),
        *("-x", "c++", REPOSITORY / "include/selm" / header),
        check=False,
    )
    assert refused.returncode != 0
    first = next(line for line in refused.stdout.splitlines() if "error" in line)
    assert "these headers need C++17 or later" in first


def test_host_compilers_see_no_device_header() -> None:
    for folder in RINGS:
        for path in sources(folder):
            if path.suffix in {".hpp", ".cpp"}:
                assert not any(name.endswith(".cuh") for name in includes(path)), path


def test_headers_compile_alone(project: Callable[[str], Project]) -> None:
    sources_alone = project(".")
    sources_alone.configure(
        "SELM_WITH_TORCH=ON",
        "SELM_WITH_CUDA=OFF",
        "CMAKE_VERIFY_INTERFACE_HEADER_SETS=ON",
        "CMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Werror",
        f"CMAKE_PREFIX_PATH={CMEEL_PREFIX}",
    )
    sources_alone.compile("all_verify_interface_header_sets")


@pytest.mark.parametrize("header", sources("include/selm/cuda"), ids=lambda path: path.name)
def test_device_headers_compile_alone(header: Path, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    source = tmp_path / "alone.cu"
    source.write_text(f"#include <{header.relative_to(REPOSITORY / 'include')}>\n")
    run(
        *("nvcc", "-std=c++17", "-arch=sm_80", "-I", REPOSITORY / "include"),
        *(
            "-Xcompiler",
            "-Wall",
            "-Werror",
            "all-warnings",
            "-c",
            source,
            "-o",
            tmp_path / "alone.o",
        ),
    )
