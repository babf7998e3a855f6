"""linear_logps holds one tile of logits at a time, and nothing for gradients that nobody wants."""

import itertools

import pytest
import torch
from linear_cases import make_case
from memory import allocations, peak

ROWS, VOCABULARY, WIDTH = 600, 6000, 32
ROW = VOCABULARY * 4  # bytes of one row of logits, in the float32 that they are accumulated in
HEAD = VOCABULARY * WIDTH * 4
ALL_LOGITS = ROWS * ROW
WORKSPACE = 10 * ROW
WIDENED = 4096 * WIDTH * 4  # a block of a half-precision head
SMALL = ROWS * (2 * WIDTH * 4 + 60)  # twice the hidden states' size, and some numbers per row


def case_of(dtype, leaves):
    case = make_case(dtype, shape=(ROWS,), vocab=VOCABULARY, width=WIDTH)
    for name in leaves:
        getattr(case, name).requires_grad_()
    return case


@pytest.mark.parametrize(
    "leaves", [(), ("hidden",), ("weight",), ("hidden", "weight", "bias")], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_workspace_bounds_forward_and_backward(dtype, leaves):
    case = case_of(dtype, leaves)
    wanted = [getattr(case, name) for name in leaves]

    def step():
        logps = case.ours(workspace_bytes=WORKSPACE, outputs=["entropy"]).logps
        return torch.autograd.grad(logps.sum(), wanted) if wanted else logps

    half = dtype == torch.bfloat16
    # The head's gradient: its float32 sum, and its copy in the head's type.
    head = HEAD * (1.5 if half else 1) if "weight" in leaves else 0
    assert peak(step) < WORKSPACE + head + WIDENED * half + SMALL < ALL_LOGITS / 5
    assert max(allocations(step)) <= max(WORKSPACE, HEAD)


def test_a_larger_workspace_is_used():
    case = case_of(torch.float32, [])
    tiles = [max(allocations(lambda w=w: case.ours(workspace_bytes=w))) for w in (ROW, 7 * ROW + 1)]
    assert tiles == [ROW, 7 * ROW]


def test_row_85_no_grad_keeps_no_gradients():
    """With a frozen head the forward pass prepares d logps / d hidden, but only where it is wanted."""
    case = case_of(torch.float32, ["hidden"])

    def hidden_sized():
        sizes = allocations(lambda: case.ours(workspace_bytes=ROW))
        return sum(size == ROWS * WIDTH * 4 for size in sizes)

    assert hidden_sized() == 1
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert hidden_sized() == 0


def test_row_84_gradients_that_are_not_wanted_are_not_computed():
    """One allocation of the head's size for its gradient, and none without."""

    def of_the_heads_size(leaves):
        case = case_of(torch.float32, leaves)
        wanted = [getattr(case, name) for name in leaves]
        logps = case.ours(workspace_bytes=ROW).logps
        return allocations(lambda: torch.autograd.grad(logps.sum(), wanted)).count(HEAD)

    for count in (1, 2, 3):
        for leaves in itertools.combinations(("hidden", "weight", "bias"), count):
            assert of_the_heads_size(leaves) == ("weight" in leaves)


def test_ignored_rows_cost_nothing():
    """They are dropped before the matrix product."""
    case = case_of(torch.float32, [])
    case.labels[5:] = -100
    assert max(allocations(case.ours)) == (5 - 1) * ROW  # one of the five is ignored already
