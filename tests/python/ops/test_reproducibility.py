"""The same bits from run to run, whatever the threads and whatever the other rows."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import selm_core
import torch
from calls import BUILDERS, arguments, leaves, results, value
from memory import fresh_memory_is_nan
from references import DTYPES, assert_same_bits

each_call = pytest.mark.parametrize("name", BUILDERS)


def outcome(name, given):
    """Results and gradients."""
    out = results(name, given)
    grads = torch.autograd.grad(out[0].sum(), leaves(given), retain_graph=True)
    return [x for x in (*out, *grads) if x is not None]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert_same_bits(x, y)


@each_call
def test_run_to_run(name, device):
    given = arguments(name, device=device, grad=True)
    expected = outcome(name, given)
    for _ in range(5):
        assert_same(outcome(name, given), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads(dtype, thread_count):
    """Rows are divided among threads; a row never is."""
    logits = torch.randn(37, 3001).to(dtype).requires_grad_()
    index = torch.randint(3001, (37,))
    expected = None
    for threads in (1, 2, 3, 8):
        thread_count(threads)
        out = selm_core.selective_log_softmax(logits, index)
        got = [out, *torch.autograd.grad(out.sum(), logits)]
        expected = expected or got
        assert_same(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_see_each_other(dtype, device):
    logits = torch.randn(16, 301, device=device).to(dtype).requires_grad_()
    index = torch.randint(301, (16,), device=device)
    out = selm_core.selective_log_softmax(logits, index)
    (grad,) = torch.autograd.grad(out.sum(), logits)
    for row in range(16):
        alone = logits.detach()[row : row + 1].requires_grad_()
        one = selm_core.selective_log_softmax(alone, index[row : row + 1])
        assert_same_bits(one[0], out[row])
        assert_same_bits(torch.autograd.grad(one.sum(), alone)[0][0], grad[row])


def test_pairs_do_not_see_each_other(device):
    given = arguments("selm_loss", device=device)
    tensors = {k: v for k, v in given.items() if isinstance(v, torch.Tensor)}
    out = results("selm_loss", given)
    order = torch.randperm(6, device=device)
    shuffled = results("selm_loss", given | {k: v[order] for k, v in tensors.items()})
    assert_same(shuffled, [x[order] for x in out])


@each_call
def test_row_91_deterministic_algorithms(name, device):
    """The same bits, and every value is written: torch then fills fresh memory with NaN."""
    given = arguments(name, device=device, grad=True)
    expected = outcome(name, given)
    with fresh_memory_is_nan():
        assert_same(outcome(name, given), expected)


@each_call
def test_row_92_many_threads_call_at_once(name, device):
    given = arguments(name, device=device, grad=True)
    expected = outcome(name, given)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: outcome(name, given), range(24)):
            assert_same(got, expected)


@pytest.mark.parametrize("route", ["selm_core", "torch.ops.selm", "selm_core._core"])
def test_row_92_the_interpreter_runs_meanwhile(route):
    """A long call releases the GIL: another thread goes on while it computes."""
    given = {
        "logits": torch.randn(2000, 5000, dtype=torch.float64),
        "index": torch.zeros(2000, dtype=torch.int64),
    }
    started, finished = threading.Event(), threading.Event()

    def work():
        started.set()
        value("selective_log_softmax", given, route)
        finished.set()

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    steps = 0
    while not finished.wait(0.001):
        steps += 1
    worker.join()
    assert steps > 3
