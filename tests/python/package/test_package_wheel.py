"""The wheel holds what C++ and Python users need; without torch the build stops early."""

import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cmake_projects import BUILD, CMEEL_PREFIX, REPOSITORY, Project, run


def make_environment(folder: Path) -> Path:
    """Make an empty virtual environment; returns its Python."""
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def site_packages(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(run(python, "-c", code).stdout.strip())


@pytest.mark.slow
def test_wheel_works_in_a_fresh_environment(tmp_path: Path) -> None:
    # In the folder of `make build`, so that nothing is compiled twice.
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(
        *(*pip, "wheel", "--no-build-isolation", "--no-deps", REPOSITORY),
        *("-C", f"build-dir={BUILD}", "-w", tmp_path),
    )
    (wheel,) = tmp_path.glob("selm_core-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "selm_core/lib/libselm_torch.so",
        "selm_core/include/selm/selm.hpp",
        "selm_core/include/selm/core/margin_losses.hpp",
        "selm_core/include/selm/torch/ops.hpp",
        "selm_core/lib/cmake/selm_core/selm_core-config.cmake",
        "selm_core/lib/cmake/selm_core/FindLibTorch.cmake",
        "selm_core/py.typed",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "selm_core/tests/"))]

    python = make_environment(tmp_path / "environment")
    packages = site_packages(python)
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    # torch and NumPy come from here; the new environment's own packages come first.
    (packages / "here.pth").write_text(sysconfig.get_paths()["purelib"])
    code = (
        "import selm_core, torch\n"
        "one = torch.full((1,), -1.0)\n"
        "print(selm_core.__file__, selm_core.dpo_loss(one, one, one, one).losses.item())"
    )
    file, loss = run(python, "-c", code).stdout.split()
    assert Path(file).is_relative_to(packages)
    assert float(loss) == pytest.approx(0.6931471805599453)


def test_build_without_torch_stops_with_advice(
    project: Callable[[str], Project], tmp_path: Path
) -> None:
    # Eigen and fmt lie below another environment, as with --system-site-packages; torch nowhere.
    python = make_environment(tmp_path / "environment")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cmeel.prefix").symlink_to(CMEEL_PREFIX)
    (site_packages(python) / "elsewhere.pth").write_text(str(tmp_path / "elsewhere"))
    result = project(".").configure(
        *("SELM_BUILD_PYTHON=ON", "SELM_WITH_TORCH=ON", "SELM_WITH_CUDA=OFF"),
        f"Python_EXECUTABLE={python}",
        check=False,
    )
    assert result.returncode != 0
    message = " ".join(result.stdout.split())
    assert "Install torch and the requirements of requirements/build.txt" in message
    assert "pip install --no-build-isolation ." in message
