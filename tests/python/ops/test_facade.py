"""The Python package: what importing costs, what it shows, examples, info()."""

import doctest
import importlib
import inspect
import json
import subprocess
import sys

import pytest
import selm_core
import torch
from linear_cases import make_case


def run_python(code):
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_does_not_import_torch():
    code = """
import sys, selm_core
assert selm_core.__version__ and dir(selm_core)
assert "torch" not in sys.modules and "numpy" not in sys.modules
import selm_core.numpy
assert "torch" not in sys.modules
selm_core.dpo_loss
assert "torch" in sys.modules and "trl" not in sys.modules
assert "torch.distributed.tensor" not in sys.modules
"""
    run_python(code)


def test_every_public_name_is_there():
    assert dir(selm_core) == sorted(selm_core.__all__)
    for name in selm_core.__all__:
        assert getattr(selm_core, name) is not None
        assert getattr(selm_core, name) is getattr(selm_core, name)
    for name, pattern in (("nothing", "no attribute 'nothing'"), ("_nothing", "'_nothing'")):
        with pytest.raises(AttributeError, match=pattern):
            getattr(selm_core, name)


def test_import_from_works_and_names_its_home():
    from selm_core import dpo_loss

    assert dpo_loss.__module__ == "selm_core.losses"
    with pytest.raises(ImportError):
        from selm_core import nothing  # noqa: F401


@pytest.mark.parametrize("name", ["losses", "logps", "rewards", "_arguments", "_info", "_scalars"])
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"selm_core.{name}")
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


@pytest.mark.parametrize(
    "name", [n for n in selm_core.__all__ if inspect.isfunction(getattr(selm_core, n))]
)
def test_docstrings_name_every_argument(name):
    function = getattr(selm_core, name)
    documentation = inspect.getdoc(function)
    if "Args:" not in documentation:
        assert len(inspect.signature(function).parameters) <= 2
        return
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in documentation, argument


def test_results_are_named():
    x = -torch.ones(2)
    out = selm_core.dpo_loss(x, x, x, x)
    assert out._fields == ("losses", "chosen_rewards", "rejected_rewards")
    assert out.losses is out[0]
    selm = selm_core.selm_loss(x, x, x, x, x, x, alpha=0.1, beta=0.1)
    assert selm._fields == (
        "losses",
        "dpo_losses",
        "exploration",
        "chosen_rewards",
        "rejected_rewards",
        "response_rewards",
    )


def test_info():
    info = selm_core.info()
    assert json.loads(json.dumps(info)) == info
    assert info["selm_core"] == selm_core.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_instruction_set"] in ("avx512", "avx2", "baseline")
    assert len(info["cuda_devices"]) == torch.cuda.device_count()
    assert bool(info["cuda_architectures"]) == info["cuda_kernels"]
    assert info["cmake_prefix_path"] == selm_core.cmake_prefix_path()


def test_a_package_built_for_another_torch_is_refused():
    code = """
import selm_core._build as build
build.TORCH_VERSION = "1.2.3"
try:
    import selm_core.losses
except ImportError as error:
    print(error)
"""
    message = run_python(code)
    assert "built against torch 1.2.3" in message
    assert "Rebuild it" in message


@pytest.fixture
def device_mesh():
    """A mesh of this process alone."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("argument", ["hidden", "weight", "labels", "bias"])
def test_row_76_a_dtensor_is_refused(argument, device_mesh):
    tensor = importlib.import_module("torch.distributed.tensor")
    case = make_case()
    sharded = tensor.distribute_tensor(getattr(case, argument), device_mesh, [tensor.Shard(0)])
    setattr(case, argument, sharded)
    with pytest.raises(NotImplementedError) as raised:
        case.ours()
    assert str(raised.value) == (
        f"selm::linear_logps: expected '{argument}' to be a local tensor, got a DTensor: "
        f"pass {argument}.full_tensor(), or of a parameter that FSDP shards {argument}.full_tensor("
        "grad_placements=[Partial('avg')]), which averages its gradient over the ranks"
    )
    setattr(case, argument, sharded.full_tensor())
    assert case.ours().logps.isfinite().all()
