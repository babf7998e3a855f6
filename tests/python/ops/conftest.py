"""The devices of the operator tests, and the helpers beside them.

Rows in the tests' names and docstrings are those of docs/inputs.md.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Each test that asks for it runs on the CPU and, where there is one, on a GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(20240529)


@pytest.fixture
def thread_count():
    """Sets torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
