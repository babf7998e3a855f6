"""What linear_logps holds: the workspace, and nothing for gradients that nobody wants."""

import itertools

import pytest
import torch
from linear_cases import make_case, multiplies_bfloat16
from memory import allocations, multiplications, peak

ROWS, VOCABULARY, WIDTH = 600, 2000, 32
ROW = VOCABULARY * 4  # bytes of one row of logits, in the float32 that they are accumulated in
HEAD = VOCABULARY * WIDTH * 4
ALL_LOGITS = ROWS * ROW
WORKSPACE = 10 * ROW


@pytest.fixture
def two_threads():
    """Scratch of each thread is part of the bound; a machine may have hundreds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def case_of(dtype, leaves):
    case = make_case(dtype, shape=(ROWS,), vocab=VOCABULARY, width=WIDTH)
    for name in leaves:
        getattr(case, name).requires_grad_()
    return case


def step_of(case, leaves, **options):
    wanted = [getattr(case, name) for name in leaves]

    def step():
        logps = case.ours(**options).logps
        return torch.autograd.grad(logps.sum(), wanted) if wanted else logps

    return step


def promised(rows, vocab, width, workspace, dtype):
    """The formula of docs/performance.md: the peak beyond what was there, and beyond returned gradients."""
    wide = 2 if dtype == torch.float64 else 1
    panels = (1 << 17) * torch.get_num_threads()
    return max(workspace, 8 * wide * vocab) + wide * rows * (16 * width + 160) + panels + 8 * vocab


@pytest.mark.parametrize(
    "leaves", [(), ("hidden",), ("weight",), ("hidden", "weight", "bias")], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("rows", "vocab", "width"),
    [(ROWS, VOCABULARY, WIDTH), (80, 6000, 512), (3, 40_000, 256), (8000, 16, 8)],
)
def test_the_peak_is_what_the_formula_says(rows, vocab, width, dtype, leaves, two_threads):
    case = make_case(dtype, shape=(rows,), vocab=vocab, width=width)
    for name in leaves:
        getattr(case, name).requires_grad_()
    itemsize = torch.float64.itemsize if dtype == torch.float64 else 4
    all_logits = rows * vocab * itemsize
    returned = sum(getattr(case, name).nbytes for name in leaves)
    for workspace in (
        max(all_logits // 60, vocab * itemsize),
        all_logits * 3 // 5,
        3 * all_logits,
    ):
        step = step_of(case, leaves, workspace_bytes=workspace, outputs=["entropy"])
        assert peak(step) <= promised(rows, vocab, width, workspace, dtype) + returned
    assert promised(ROWS, VOCABULARY, WIDTH, WORKSPACE, torch.float32) < ALL_LOGITS / 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_frozen_head_needs_logits_of_one_group_alone(dtype, two_threads):
    """Whatever the workspace allows, and however large the vocabulary is."""
    case = make_case(dtype, shape=(ROWS,), vocab=20_000, width=WIDTH)
    case.hidden.requires_grad_()
    logits_and_exponentials = ROWS * 512 * (4 + 4)
    copied = 2 * 512 * WIDTH * 4
    step = step_of(case, ["hidden"])
    assert peak(step) <= promised(ROWS, 20_000, WIDTH, logits_and_exponentials + copied, dtype)


def kept_bytes(leaves, workspace, dtype=torch.float32):
    """The largest allocation of the forward pass."""
    case = case_of(dtype, leaves)
    return max(allocations(lambda: case.ours(workspace_bytes=workspace)))


def test_a_larger_workspace_keeps_more():
    """Of a row an exponential for each token, a maximum for each 512 tokens, and one number."""
    scored = ROWS - 1
    needed = scored * (ROW + 4 * (4 + 1))
    assert needed <= kept_bytes(["weight"], 4 * ALL_LOGITS) < needed + 64
    assert 30 * ROW <= kept_bytes(["weight"], 60 * ROW) <= 60 * ROW
    if multiplies_bfloat16():
        assert kept_bytes(["weight"], 4 * ALL_LOGITS, torch.bfloat16) <= scored * ROW
    assert kept_bytes([], 4 * ALL_LOGITS) == scored * 512 * 4  # a group of 512 tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_take_the_place_of_what_is_kept(dtype):
    """But where the graph is needed again."""
    case = case_of(dtype, ["hidden", "weight", "bias"])
    tile = (ROWS - 1) * 512 * (dtype.itemsize if multiplies_bfloat16() else 4)

    def of_a_group(retain_graph):
        logps = case.ours().logps
        return allocations(
            lambda: torch.autograd.grad(logps.sum(), case.leaves(), retain_graph=retain_graph)
        ).count(tile)

    assert of_a_group(retain_graph=True) == 1
    assert of_a_group(retain_graph=False) == 0


def test_float32_logits_stand_where_their_exponentials_are_kept():
    tile = (ROWS - 1) * 512 * 4
    case = case_of(torch.float32, ["hidden", "weight"])
    assert tile not in allocations(lambda: case.ours())
    with torch.no_grad():  # nothing is kept
        assert tile in allocations(lambda: case.ours())
    frozen = case_of(torch.float32, ["hidden"])
    assert allocations(lambda: frozen.ours()).count(tile) == 1


def test_kept_rows_lie_an_odd_number_of_cache_lines_apart():
    """Those of 2,048 tokens would be two pages apart."""
    case = make_case(shape=(ROWS,), vocab=2048, width=WIDTH, bias=False)
    case.weight.requires_grad_()
    scored, lines = ROWS - 1, 2048 * 4 // 64
    numbers = scored * 4 * (4 + 1)
    kept = max(allocations(lambda: case.ours()))
    assert scored * (lines + 1) * 64 + numbers <= kept < scored * (lines + 1) * 64 + numbers + 64


def test_the_hidden_gradient_is_not_held_twice():
    """Of few rows in float32 it is made of products with rows and columns exchanged."""
    rows, vocab, width = 300, 3000, 2048
    case = make_case(shape=(rows,), vocab=vocab, width=width, bias=False)
    case.labels[2] = 0  # all count: no other tensor of the size of the hidden states
    leaves = [x.requires_grad_() for x in case.leaves()]
    logps = case.ours().logps.sum()
    assert allocations(lambda: torch.autograd.grad(logps, leaves)).count(rows * width * 4) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_kept_is_not_computed_again(dtype):
    """Multiplications in units of M H V: 6 with all gradients kept, 8 with none, 4 with a frozen
    head and 2 without gradients."""
    unit = (ROWS - 1) * WIDTH * VOCABULARY
    wide = 2 if dtype == torch.float64 else 1

    def units(leaves, workspace):
        return (
            multiplications(
                step_of(case_of(dtype, leaves), leaves, workspace_bytes=wide * workspace)
            )
            / unit
        )

    assert units(["hidden", "weight"], 4 * ALL_LOGITS) == 6
    assert 8 - 2 * 2 / (ROWS - 1) <= units(["hidden", "weight"], ROW) <= 8
    assert 6.5 < units(["hidden", "weight"], ALL_LOGITS // 2) < 7.5
    assert units(["weight"], 4 * ALL_LOGITS) == 4
    for workspace in (4 * ALL_LOGITS, WORKSPACE):
        assert units(["hidden"], workspace) == 4
        assert units([], workspace) == 2


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
    scored = 5 - 1  # one of the five is ignored already
    assert multiplications(case.ours) == 2 * scored * WIDTH * VOCABULARY
