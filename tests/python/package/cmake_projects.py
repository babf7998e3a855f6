"""CMake projects of this repository, configured, built and run by tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
BUILD = REPOSITORY / "build" / "python"

# Where the PyPI packages cmeel-eigen and cmeel-fmt put Eigen and fmt.
CMEEL_PREFIX = Path(sysconfig.get_paths()["purelib"]) / "cmeel.prefix"


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command with this Python and its tools first; both outputs come as one text."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("LD_LIBRARY_PATH", None)
    arguments = [str(part) for part in command]
    result = subprocess.run(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if check:
        assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout}"
    return result


class Project:
    """A CMake project of this repository, built in a folder of its own."""

    def __init__(self, source: str, build: Path) -> None:
        self.source = REPOSITORY / source
        self.build = build

    def configure(
        self, *definitions: str, compiler: str = "g++", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        return run(
            *("cmake", "-G", "Ninja", "-S", self.source, "-B", self.build),
            *(f"-D{definition}" for definition in definitions),
            f"-DCMAKE_CXX_COMPILER={compiler}",
            check=check,
        )

    def compile(self, target: str = "all") -> None:
        run("cmake", "--build", self.build, "--target", target, "--parallel", "2")

    def test(self) -> None:
        run("ctest", "--test-dir", self.build, "--output-on-failure", "--no-tests=error")
