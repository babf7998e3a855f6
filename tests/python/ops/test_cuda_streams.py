"""inputs.md, rows 19 and 20: the current stream, and recording it into a CUDA graph."""

import pytest
import torch
from calls import BUILDERS, arguments, results
from references import assert_same_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

LINEAR = [name for name in BUILDERS if name.startswith("linear_logps")]
OTHERS = [name for name in BUILDERS if name not in LINEAR]


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)


@pytest.mark.parametrize("name", BUILDERS)
def test_row_19_work_is_ordered_on_the_current_stream(name):
    """The inputs are there only after a wait of this stream, which no other stream shares."""
    given = arguments(name, device="cuda")
    expected = results(name, given)
    late = {k: torch.zeros_like(v) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        for k, v in given.items():
            if isinstance(v, torch.Tensor):
                late[k].copy_(v)
        got = results(name, late)
    torch.cuda.synchronize()
    assert_same(got, expected)


@pytest.mark.parametrize("name", OTHERS)
def test_row_20_recorded_into_a_graph(name):
    given = arguments(name, device="cuda")
    results(name, given)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = results(name, given)
    graph.replay()
    torch.cuda.synchronize()
    assert_same(got, results(name, given))


@pytest.mark.parametrize("name", LINEAR)
def test_row_20_what_counts_its_rows_is_refused(name):
    given = arguments(name, device="cuda")
    expected = r"^selm::linear_logps: cannot be recorded into a CUDA graph"
    with (
        pytest.raises(NotImplementedError, match=expected),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        results(name, given)
    assert results(name, given)[0].isfinite().all()
