"""Let the tests import the helpers beside them; an installed copy of the build."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cmake_projects import BUILD, Project, run


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Project]:
    """Give the project in that folder of the repository."""
    return lambda source: Project(source, tmp_path / "build")


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the build as `cmake --install` does, then move the installation elsewhere."""
    assert (BUILD / "cmake_install.cmake").exists(), f"{BUILD} is missing: run `make build`"
    staged = tmp_path_factory.mktemp("install") / "staged"
    run("cmake", "--install", BUILD, "--prefix", staged)
    return staged.rename(staged.with_name("relocated"))
