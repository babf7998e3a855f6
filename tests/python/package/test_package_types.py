"""The types of the public functions and of the compiled modules are what they say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import selm_core
import torch  # noqa: F401  (the compiled module needs its libraries)
from cmake_projects import REPOSITORY
from selm_core import _core, _numpy

# Every mistake is marked; mypy refuses a mark that nothing answers.
USER_PROGRAM = """
from typing import assert_type

import numpy as np
import numpy.typing as npt
import selm_core
import selm_core.numpy
import torch
from torch import Tensor

ones = -torch.ones(2)
out = selm_core.dpo_loss(ones, ones, ones, ones, beta=0.2, loss_type=["sigmoid", "nll"])
assert_type(out.losses, Tensor)
selm = selm_core.selm_loss(ones, ones, None, ones, ones, None, alpha=0, beta=0.1)
assert_type(selm.response_rewards, Tensor | None)
logps = selm_core.linear_logps(torch.ones(2, 3), torch.ones(5, 3), torch.ones(2).long())
assert_type(logps.entropy, Tensor | None)
assert_type(selm_core.alpha_at(0.5, alpha=1e-3), float)
assert_type(selm_core.__version__, str)

array: npt.NDArray[np.float32] = -np.ones(2, dtype=np.float32)
labels: npt.NDArray[np.int64] = np.ones(2, dtype=np.int64)
selm_core.numpy.kto_loss(array, array, array < 0, 0.5).rewards
log_z = selm_core.numpy.log_partition(array, array, beta=0.1)
selm_core.numpy.policy_logps_from_rewards(array, array, beta=0.1, log_partition=log_z)

selm_core.dpo_loss([1.0], ones, ones, ones)  # type: ignore[arg-type]
selm_core.dpo_loss(ones, ones, ones, ones, loss_typ="hinge")  # type: ignore[call-arg]
selm_core.selm_loss(ones, ones, ones, ones, ones, ones, beta=0.1)  # type: ignore[call-arg]
selm_core.numpy.dpo_loss(labels, array, array, array)  # type: ignore[arg-type]
selm_core.nothing  # type: ignore[attr-defined]
"""

# stubtest imports the modules itself, and _core needs torch's libraries.
STUBTEST = """
import sys
import torch
from mypy import stubtest
sys.exit(stubtest.test_stubs(stubtest.parse_options(sys.argv[1:])))
"""


def run_python(*arguments: object, folder: Path = REPOSITORY) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(selm_core.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER_PROGRAM)
    run_python("-m", "mypy", "--strict", "user.py", folder=tmp_path)


@pytest.mark.slow
def test_stubs_name_what_the_modules_have() -> None:
    modules = (f"selm_core.{name}" for name in ("_core", "_numpy", "_build"))
    run_python("-c", STUBTEST, *modules, "--mypy-config-file", "pyproject.toml")


def signature(text: str) -> tuple[list[str], list[str], dict[str, str], str]:
    """Arguments by position, by keyword alone, the defaults, and the result: of a stub or of pybind11."""
    for long, short in (
        (r"typing\.SupportsFloat \| typing\.SupportsIndex", "float"),
        (r"typing\.SupportsInt \| typing\.SupportsIndex", "int"),
        (r"(torch|collections\.abc)\.", ""),
    ):
        text = re.sub(long, short, text)
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    parts = function.args

    def written(arguments: list[ast.arg]) -> list[str]:
        return [ast.unparse(argument) for argument in arguments]

    defaults = {
        argument.arg: ast.unparse(value)
        for argument, value in zip(parts.kwonlyargs, parts.kw_defaults, strict=True)
        if value is not None
    }
    result = ast.unparse(function.returns) if function.returns else ""
    return written(parts.args), written(parts.kwonlyargs), defaults, result


def stub_functions(module: str) -> dict[str, str]:
    stub = (REPOSITORY / f"python/selm_core/{module}.pyi").read_text()
    functions = [node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.unparse(function) for function in functions}


@pytest.mark.parametrize("name", stub_functions("_core"))
def test_signatures_of_the_stub_are_those_of_the_module(name: str) -> None:
    """pybind11 writes them into the docstrings; stubtest cannot compare them."""
    first_line = (getattr(_core, name).__doc__ or "").splitlines()[0]
    assert signature(f"def {first_line}: ...") == signature(stub_functions("_core")[name])


def test_the_numpy_stub_names_every_function() -> None:
    public = {name for name in dir(_numpy) if not name.startswith("_")}
    assert set(stub_functions("_numpy")) == public
