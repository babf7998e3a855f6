"""The CPU kernels' three instruction sets keep the same promises; the environment chooses one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

VARIABLE = "SELM_CPU_INSTRUCTION_SET"
HERE = Path(__file__).parent

# What each of torch's own capabilities includes.
SETS = {"AVX512": ("avx512", "avx2", "baseline"), "AVX2": ("avx2", "baseline")}

# Forward and backward against float64, odd vocabularies, masked tokens, rows that are not numbers.
PROMISES = [
    "test_token_logps.py",
    "test_token_logps_special.py",
    "test_linear_logps.py::test_value_and_gradients",
    "test_linear_logps.py::test_outputs",
    "test_linear_logps.py::test_few_rows_of_a_large_vocabulary",
    "test_linear_logps.py::test_a_graph_that_is_needed_again",
    "test_linear_logps.py::test_rows_42_to_46_bad_logits_stay_in_their_row",
]


def has(instruction_set):
    return instruction_set in SETS.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))


def run_with(instruction_set, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, VARIABLE: instruction_set},
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )


def in_use(instruction_set):
    """What a fresh process chooses, or its error."""
    code = "import selm_core; print(selm_core.info()['cpu_instruction_set'])"
    return run_with(instruction_set, "-c", code)


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "baseline"])
def test_every_instruction_set_keeps_the_promises(instruction_set):
    if not has(instruction_set):
        pytest.skip(f"this CPU has no {instruction_set}")
    done = run_with(
        instruction_set, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not cuda", *PROMISES
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "baseline"])
def test_the_environment_chooses_among_what_the_machine_has(instruction_set):
    done = in_use(instruction_set)
    if has(instruction_set):
        assert done.stdout.strip() == instruction_set, done.stderr
    else:
        assert f"got '{instruction_set}'" in done.stderr


@pytest.mark.parametrize("name", ["AVX2", "sse9", ""])
def test_any_other_name_is_an_error(name):
    done = in_use(name)
    assert done.returncode != 0
    expected = f"ValueError: selm: expected the environment variable '{VARIABLE}' to be one of"
    assert expected in done.stderr
    assert f"'baseline', got '{name}'" in done.stderr


def test_the_error_reaches_whoever_computes_first():
    """Also from within a parallel loop over rows."""
    code = """
import torch, selm_core
try:
    selm_core.selective_log_softmax(torch.zeros(64, 50), torch.zeros(64, dtype=torch.int64))
except ValueError as error:
    print(error)
"""
    assert "got 'none'" in run_with("none", "-c", code).stdout
