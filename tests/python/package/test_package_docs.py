"""C++, CUDA and CMake blocks of the documentation are built, and the programs run, as printed."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from cmake_projects import CMEEL_PREFIX, REPOSITORY, Project, run
from doc_pages import Block, blocks_in

# What a page's comments promise.
PRINTED = {"README.md": "gradient of the response 1.0e-04"}


def component_of(block: Block) -> str:
    """What a program includes, or a CMake project links."""
    found = re.findall(r"selm::(core|host|cuda|torch)\b|<selm/(core|cuda|torch)/", block.code)
    return next(("".join(names) for names in found), "host")


def of_component(language: str, *components: str) -> list[Block]:
    return [block for block in blocks_in(language) if component_of(block) in components]


def skip_without_cuda() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the path")


def write_project(folder: Path, cmake: Block, program: str) -> Project:
    """The reader's folder; selm_core's sources lie in it, for projects that add them."""
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(cmake.code)
    (folder / "main.cpp").write_text(program)
    (folder / "selm_core").symlink_to(REPOSITORY)
    return Project(str(folder), folder / "build")


def prefix_path(prefix: Path) -> str:
    return f"CMAKE_PREFIX_PATH={prefix};{CMEEL_PREFIX};{torch.utils.cmake_prefix_path}"


@pytest.mark.parametrize("block", of_component("cpp", "core", "host"), ids=lambda b: b.place)
def test_program_compiles_and_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(block.code)
    include = (f"-I{REPOSITORY / 'include'}", f"-I{CMEEL_PREFIX / 'include'}")
    eigen = f"-I{CMEEL_PREFIX / 'include' / 'eigen3'}"
    run(
        *("g++", "-std=c++17", "-DFMT_HEADER_ONLY", *include, eigen),
        *(tmp_path / "main.cpp", "-o", tmp_path / "program"),
    )
    assert PRINTED.get(block.page, "") in run(tmp_path / "program").stdout


@pytest.mark.parametrize("block", blocks_in("cuda"), ids=lambda b: b.place)
def test_cuda_program_compiles_and_runs(block: Block, tmp_path: Path) -> None:
    skip_without_cuda()
    (tmp_path / "main.cu").write_text(block.code)
    run(
        *("nvcc", "-std=c++17", f"-I{REPOSITORY / 'include'}"),
        *(tmp_path / "main.cu", "-o", tmp_path / "program"),
    )
    run(tmp_path / "program")


@pytest.mark.parametrize(
    "block", of_component("cmake", "core", "host", "torch"), ids=lambda b: b.place
)
def test_project_is_configured(block: Block, prefix: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", block, "int main() {}")
    project.configure(prefix_path(prefix))


def build_and_run(component: str, prefix: Path, folder: Path) -> None:
    (program,) = of_component("cpp", component)
    (cmake,) = of_component("cmake", component)
    assert program.page == cmake.page
    project = write_project(folder, cmake, program.code)
    project.configure(prefix_path(prefix))
    project.compile()
    (name,) = re.findall(r"add_executable\((\w+)", cmake.code)
    run(project.build / name)


def test_cuda_launcher_links_without_nvcc(prefix: Path, tmp_path: Path) -> None:
    skip_without_cuda()
    build_and_run("cuda", prefix, tmp_path / "project")


@pytest.mark.slow
def test_libtorch_program_trains(prefix: Path, tmp_path: Path) -> None:
    build_and_run("torch", prefix, tmp_path / "project")
