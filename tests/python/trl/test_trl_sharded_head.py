"""Two processes (gloo, CPU) with a sharded head: the gradients of one process with all rows."""

import os
import subprocess
import sys

import pytest
import selm_core
import sharded_head_worker as worker
import torch
from tiny_models import gradients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found."""
    folder = tmp_path_factory.mktemp("sharded")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={worker.WORLD}"]
    result = subprocess.run(
        [sys.executable, *launcher, worker.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return [
        torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(worker.WORLD)
    ]


def test_a_head_gathered_as_the_refusal_says(found):
    """Without `grad_placements` each process would keep the gradient of its own rows."""
    weight, hidden, labels = worker.operands()
    weight.requires_grad_()
    loss = selm_core.linear_logps(hidden, weight, labels).logps.sum() / worker.WORLD
    (wanted,) = torch.autograd.grad(loss, weight)
    for one in found:
        torch.testing.assert_close(one["head"], wanted)


@pytest.mark.parametrize("case", ["model", "tied model"])
def test_a_model_that_fsdp2_shards(found, case):
    """The oracle is TRL's own function on the whole model."""
    model = worker.fused_llama(tied=case == "tied model")
    torch.stack([worker.fused_loss(model, ids) for ids in worker.IDS]).mean().backward()
    wanted = gradients(model)
    assert ("lm_head.weight" in wanted) == (case == "model")
    for one in found:
        assert one[case].keys() == wanted.keys()
        for name, grad in wanted.items():
            scale = float(grad.abs().max())
            torch.testing.assert_close(one[case][name], grad, rtol=1e-4, atol=1e-5 * scale)
