"""The C++ examples build against an installed selm_core and show what they claim."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cmake_projects import CMEEL_PREFIX, Project, run

MakeProject = Callable[[str], Project]


def test_bandit_finds_the_rare_arm_with_exploration_only(
    project: MakeProject, prefix: Path
) -> None:
    example = project("examples/cpp/eigen_bandit")
    example.configure(f"CMAKE_PREFIX_PATH={prefix};{CMEEL_PREFIX}")
    example.compile()
    program = example.build / "eigen_bandit"
    table = run(program, "--bandits", 400, "--seed", 3).stdout
    final = {
        float(alpha): float(p)
        for alpha, p in re.findall(r"^ *(\S+) .* (\S+) \+- \S+$", table, re.MULTILINE)
    }
    # Without exploration the arm has to come out of pi_ref: 400 draws at 5e-5, 2 % of the bandits.
    assert final[0.0] < 0.05
    assert final[0.01] > 0.95
    assert run(program, "--bandits", 400, "--seed", 3).stdout == table
    refused = run(program, "--bandits", "-1", check=False)
    assert refused.returncode == 2
    assert "--bandits takes a whole number >= 1, got '-1'" in refused.stdout


def test_trainer_raises_the_held_out_score(project: MakeProject, prefix: Path) -> None:
    example = project("examples/cpp/libtorch_trainer")
    example.configure(f"CMAKE_PREFIX_PATH={prefix};{torch.utils.cmake_prefix_path}")
    example.compile()
    output = run(example.build / "libtorch_trainer", "--quick").stdout
    scores = [float(score) for score in re.findall(r"held-out score (\d\.\d+)", output)]
    assert len(scores) > 2, output
    assert scores[-1] > scores[0] + 0.2, output


def test_own_loss_runs_on_the_host_and_compiles_for_the_device(
    project: MakeProject, prefix: Path
) -> None:
    if shutil.which("nvcc") is None and "CUDACXX" not in os.environ:
        pytest.skip("nvcc is not on the path")
    example = project("examples/cpp/own_loss")
    example.configure(f"CMAKE_PREFIX_PATH={prefix}")
    example.compile()
    output = run(example.build / "own_loss").stdout
    assert "GPU against host" in output or "no GPU here" in output
