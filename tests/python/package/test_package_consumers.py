"""Projects that find an installed selm_core, or hold its sources, configure, build and work."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cmake_projects import CMEEL_PREFIX, REPOSITORY, Project, run

MakeProject = Callable[[str], Project]

COMPILERS = ["g++", "clang++"]
STANDARDS = [17, 20]
TORCH_PREFIX = torch.utils.cmake_prefix_path


def disabled(*packages: str) -> list[str]:
    """Make find_package fail for these, whatever the machine has."""
    return [f"CMAKE_DISABLE_FIND_PACKAGE_{package}=ON" for package in packages]


def skip_without_cuda(prefix: Path) -> None:
    if not (prefix / "lib/cmake/selm_core/selm_core-cuda.cmake").exists():
        pytest.skip("built without CUDA: no nvcc")


def build_in_standard(consumer: Project, standard: int, compiler: str, *definitions: str) -> None:
    consumer.configure(f"CMAKE_CXX_STANDARD={standard}", *definitions, compiler=compiler)
    consumer.compile()
    named = re.findall(r"-std=(\S+)", (consumer.build / "build.ninja").read_text())
    assert set(named) == {f"c++{standard}"}
    consumer.test()


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_core_needs_the_standard_library_alone(
    project: MakeProject, prefix: Path, compiler: str, standard: int
) -> None:
    build_in_standard(
        *(project("tests/package/core"), standard, compiler),
        f"CMAKE_PREFIX_PATH={prefix}",
        *disabled("Eigen3", "fmt", "LibTorch", "Torch", "Python", "CUDAToolkit"),
    )


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_host_needs_eigen_and_fmt(
    project: MakeProject, prefix: Path, compiler: str, standard: int
) -> None:
    build_in_standard(
        *(project("tests/package/host"), standard, compiler),
        f"CMAKE_PREFIX_PATH={prefix};{CMEEL_PREFIX}",
        *disabled("LibTorch", "Torch", "Python", "CUDAToolkit"),
    )


def test_cuda_needs_no_torch(project: MakeProject, prefix: Path) -> None:
    skip_without_cuda(prefix)
    consumer = project("tests/package/cuda")
    consumer.configure(
        f"CMAKE_PREFIX_PATH={prefix}", *disabled("Eigen3", "fmt", "LibTorch", "Torch", "Python")
    )
    consumer.compile()
    consumer.test()


def test_torch_operators(project: MakeProject, prefix: Path) -> None:
    consumer = project("tests/package/torch")
    consumer.configure(f"CMAKE_PREFIX_PATH={prefix};{TORCH_PREFIX}")
    consumer.compile()
    consumer.test()


@pytest.mark.slow
def test_torch_operators_beside_torchs_own_package(project: MakeProject, prefix: Path) -> None:
    skip_without_cuda(prefix)  # find_package(Torch) insists on a toolkit for a torch with CUDA
    consumer = project("tests/package/torch")
    consumer.configure(f"CMAKE_PREFIX_PATH={prefix};{TORCH_PREFIX}", "FIND_TORCH=ON")
    consumer.compile()
    consumer.test()


def test_torch_is_found_through_python(project: MakeProject, prefix: Path) -> None:
    consumer = project("tests/package/component")
    consumer.configure(f"CMAKE_PREFIX_PATH={prefix}", "COMPONENT=torch")


def test_sources_inside_another_project(project: MakeProject) -> None:
    consumer = project("tests/package/subdirectory")
    consumer.configure(f"SELM_SOURCE_DIR={REPOSITORY}", f"CMAKE_PREFIX_PATH={CMEEL_PREFIX}")
    consumer.compile()
    consumer.test()


def test_unknown_component_is_named(project: MakeProject, prefix: Path) -> None:
    result = project("tests/package/component").configure(
        f"CMAKE_PREFIX_PATH={prefix}", "COMPONENT=rocm", check=False
    )
    assert result.returncode != 0
    assert "There is no component 'rocm'." in " ".join(result.stdout.split())


def test_missing_component_is_named_with_the_remedy(
    project: MakeProject, prefix: Path, tmp_path: Path
) -> None:
    without = shutil.copytree(prefix, tmp_path / "without_cuda")
    for file in without.rglob("selm_core-cuda*.cmake"):
        file.unlink()
    result = project("tests/package/component").configure(
        f"CMAKE_PREFIX_PATH={without}", "COMPONENT=cuda", check=False
    )
    assert result.returncode != 0
    message = (
        "This installation was built without 'cuda': configure selm_core with -DSELM_WITH_CUDA=ON"
    )
    assert message in " ".join(result.stdout.split())


def test_missing_dependency_is_named(project: MakeProject, prefix: Path) -> None:
    result = project("tests/package/component").configure(
        f"CMAKE_PREFIX_PATH={prefix}", "COMPONENT=host", *disabled("Eigen3"), check=False
    )
    assert result.returncode != 0
    assert "Eigen3" in result.stdout


def test_installation_does_not_point_outside(prefix: Path) -> None:
    staged = prefix.with_name("staged")
    texts = [path for path in prefix.rglob("*") if path.suffix in {".cmake", ".hpp", ".cuh"}]
    assert len(texts) > 20
    for path in texts:
        for place in (REPOSITORY, staged):
            assert str(place) not in path.read_text(), f"{path} names {place}"
    for path in (*prefix.rglob("*.so"), *prefix.rglob("*.a")):
        assert str(REPOSITORY).encode() not in path.read_bytes(), f"{path} names {REPOSITORY}"
    dynamic = run("readelf", "-d", prefix / "lib/libselm_torch.so").stdout
    (search_path,) = (line for line in dynamic.splitlines() if "PATH)" in line)
    entries = search_path.partition("[")[2].rstrip("]").split(":")
    assert all(entry.startswith("$ORIGIN") for entry in entries), search_path


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_pkg_config_compiles_core_and_host(
    prefix: Path, tmp_path: Path, compiler: str, standard: str
) -> None:
    for tool in (compiler, "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folders = f"{prefix}/lib/pkgconfig:{CMEEL_PREFIX}/lib/pkgconfig:{CMEEL_PREFIX}/share/pkgconfig"
    for package in ("core", "host"):
        flags = run(
            *("env", f"PKG_CONFIG_PATH={folders}", "pkg-config", "--cflags", "--libs"),
            f"selm_{package}",
        ).stdout.split()
        program = tmp_path / package
        fmt = f"-I{CMEEL_PREFIX}/include"
        source = REPOSITORY / "tests/package" / package / "main.cpp"
        run(compiler, f"-std={standard}", source, *flags, fmt, "-o", program)
        run(program)
