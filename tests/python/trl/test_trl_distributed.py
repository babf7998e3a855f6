"""Two processes (gloo, CPU) give the gradients, metrics and weights of one."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch

WORKER = Path(distributed_worker.__file__)
BACKWARDS = ["all", "one rank without third rows", "alpha 0", "lora"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found, and what each of two found."""
    folder = tmp_path_factory.mktemp("distributed")
    distributed_worker.main(folder)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    one, *two = (
        torch.load(folder / f"found-{world}-{rank}.pt", weights_only=True)
        for world, rank in ((1, 0), (2, 0), (2, 1))
    )
    return one, two


@pytest.mark.parametrize("case", BACKWARDS)
def test_gradients_and_metrics_are_those_of_one_process(found, case):
    alone, pair = found
    wanted = alone[case]["gradients"]
    scale = max(float(grad.abs().max()) for grad in wanted.values())
    assert scale > 1e-4
    for one in pair:
        assert one[case]["gradients"].keys() == wanted.keys()
        for name, grad in one[case]["gradients"].items():
            torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-6 * scale)
        assert one[case]["metrics"].keys() == alone[case]["metrics"].keys()
        for name, value in alone[case]["metrics"].items():
            # Rewards are differences of log-probabilities near 80, whose float32 spacing is 8e-6.
            assert one[case]["metrics"][name] == pytest.approx(value, rel=1e-5, abs=8e-6), name


def test_one_rank_had_no_third_rows(found):
    _, pair = found
    assert [one["one rank without third rows"]["rows"] for one in pair] == [6, 4]


def test_a_run_gives_the_weights_of_one_process(found):
    alone, pair = found
    wanted = alone["run"]
    for one in pair:
        run = one["run"]
        for name, values in wanted["reference"].items():
            assert run["reference"][name] == pytest.approx(values, rel=1e-6), name
        assert run["evaluated"] == pytest.approx(wanted["evaluated"], rel=1e-5)
        for name, weight in wanted["weights"].items():
            torch.testing.assert_close(run["weights"][name], weight, rtol=1e-4, atol=1e-6)
    assert pair[0]["run"]["losses"] == pytest.approx(wanted["losses"], rel=1e-4)
    assert wanted["losses"][1] < wanted["losses"][0] - 0.01
