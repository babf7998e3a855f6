"""linear_logps against float64: values, gradients, options, tiles and outputs."""

import copy
import itertools
import math

import pytest
import selm_core
import torch
from linear_cases import Case, make_case
from references import DTYPES, ROUNDING, assert_same_bits, result_dtype

# How far a sum of `width` rounded products may lie from the exact one, relative to its terms.
TOLERANCE = {torch.float64: 1e-12}
TRANSFORMS = [
    {},
    {"temperature": 0.6},
    {"logit_scale": 2.5},
    {"softcap": 2.0},
    {"temperature": 1.7, "logit_scale": 0.3, "softcap": 5.0},
]


def assert_close(got, exact, dtype):
    """To float32 accumulation, relative to the largest element, and one rounding of the type."""
    tolerance = TOLERANCE.get(dtype, 1e-5)
    # Gradients of logits are rounded for a half-precision product.
    if dtype == torch.bfloat16 or got.is_cuda:
        tolerance += 4 * ROUNDING[dtype]
    bound = tolerance * exact.abs().max().clamp(min=1e-3) + ROUNDING[dtype] * exact.abs()
    if dtype == torch.float16:
        bound = bound + 2.0**-24
    assert ((got.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("options", TRANSFORMS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_gradients(dtype, shape, bias, options, device):
    case = make_case(dtype, device, shape, bias=bias, **options)
    for x in case.leaves():
        x.requires_grad_()
    logps = case.ours().logps
    assert logps.dtype == result_dtype(dtype)
    assert logps.shape == case.labels.shape
    assert (logps <= 0).all()
    assert logps[~case.scored()].count_nonzero() == 0
    exact = case.exact_logps()
    assert_close(logps[case.scored()], exact.detach(), torch.promote_types(dtype, torch.float32))

    upstream = torch.randn_like(logps)
    logps.backward(upstream)
    for x, exact_grad in zip(case.leaves(), case.exact_gradients(upstream), strict=True):
        assert x.grad.dtype == dtype
        assert_close(x.grad, exact_grad, dtype)
    assert case.hidden.grad[~case.scored()].count_nonzero() == 0


@pytest.mark.parametrize("needs_grad", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_84_only_the_wanted_gradients(dtype, needs_grad, device):
    """All subsets of hidden, weight and bias; each gradient is that of the full set, but for where it
    is rounded to bfloat16."""
    case = make_case(dtype, device, softcap=3.0)
    upstream = torch.randn(case.labels.shape, device=device)
    full = copy.deepcopy(case)
    for x in full.leaves():
        x.requires_grad_()
    full.ours().logps.backward(upstream)
    for x, wanted in zip(case.leaves(), needs_grad, strict=True):
        x.requires_grad_(wanted)
    logps = case.ours().logps
    assert_same_bits(logps, full.ours().logps)
    assert logps.requires_grad == any(needs_grad)
    if any(needs_grad):
        logps.backward(upstream)
    exact = full.exact_gradients(upstream)
    for x, y, z, wanted in zip(case.leaves(), full.leaves(), exact, needs_grad, strict=True):
        if not wanted:
            assert x.grad is None
            continue
        assert_close(x.grad, z, dtype)
        if dtype == torch.float32:
            torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("rows_per_tile", [1, 3, 18])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_row_81_tiles_of_any_size(dtype, frozen, rows_per_tile, device):
    """How rows and vocabulary are divided is invisible, but for rounding in the gradients."""
    case = make_case(dtype, device, vocab=53)
    upstream = torch.randn(case.labels.shape, device=device, dtype=result_dtype(dtype))
    bytes_per_row = 53 * result_dtype(dtype).itemsize
    leaves = [case.hidden] if frozen else case.leaves()
    exact = case.exact_gradients(upstream)[: len(leaves)]
    results = []
    for workspace in (None, rows_per_tile * bytes_per_row, rows_per_tile * bytes_per_row + 1):
        wanted = [x.requires_grad_() for x in leaves]
        out = case.ours(workspace_bytes=workspace, outputs=["entropy", "mean_logits", "is_top1"])
        grads = torch.autograd.grad(out.logps, wanted, upstream)
        results.append([out.logps, out.entropy, out.mean_logits, out.is_top1])
        for grad, exact_grad in zip(grads, exact, strict=True):
            assert_close(grad, exact_grad, dtype)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", TRANSFORMS, ids=str)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_of_a_large_vocabulary(dtype, frozen, options, device):
    """Each row is divided among threads. The gradients that are kept are those that are computed anew."""
    case = make_case(dtype, device, shape=(4,), vocab=70_001, **options)
    case.labels[0], case.labels[3] = 70_000, 1023
    upstream = torch.randn(case.labels.shape, device=device)
    out = case.ours(outputs=["entropy", "mean_logits", "is_top1"])
    assert_close(out.logps[case.scored()], case.exact_logps(), dtype)
    assert_close(out.entropy[case.scored()], case.exact_entropy(), dtype)
    assert_close(out.mean_logits[case.scored()], case.exact_logits().mean(-1), dtype)
    leaves = [case.hidden] if frozen else case.leaves()
    wanted = [x.requires_grad_() for x in leaves]
    for workspace in (None, 70_001 * 4):
        logps = case.ours(workspace_bytes=workspace).logps
        grads = torch.autograd.grad(logps, wanted, upstream)
        for grad, exact in zip(grads, case.exact_gradients(upstream), strict=False):
            error = (grad.double() - exact).norm() / exact.norm()
            assert error < (5e-5 if dtype == torch.float32 else ROUNDING[dtype])


STAIRS = [
    *itertools.product([{}, {"logit_scale": 0.2}], [-700.0, -9.0, 9.0, 35.0, 700.0]),
    *itertools.product([{"softcap": 200.0, "temperature": 0.7}], [-30.0, 30.0]),
]


@pytest.mark.parametrize("masked", [0, 1, 1800])
@pytest.mark.parametrize(("options", "step"), STAIRS, ids=str)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_that_rise_or_fall_along_the_vocabulary(
    dtype, frozen, options, step, masked, device
):
    """Sums are made relative to the largest logit so far, also where nothing but masked tokens has come."""
    case = make_case(dtype, device, shape=(6,), vocab=5_000, **options)
    case.labels[:2] = torch.tensor([4_999, masked], device=device)
    case.bias[:] = step * torch.arange(5_000, device=device).div(700, rounding_mode="floor")
    case.bias[:masked] = -math.inf
    upstream = torch.randn(case.labels.shape, device=device)
    case.labels[3:] = case.labels[3:].clamp(min=masked)
    leaves = [case.hidden] if frozen else case.leaves()
    wanted = [x.requires_grad_() for x in leaves]
    exact = case.exact_gradients(upstream)
    for workspace in (None, 5_000 * 8):
        logps = case.ours(workspace_bytes=workspace).logps
        grads = torch.autograd.grad(logps, wanted, upstream)
        for grad, exact_grad in zip(grads, exact, strict=False):
            error = (grad.double() - exact_grad).norm() / exact_grad.norm()
            # Kept exponentials are rounded, and gradients made of them once more.
            assert error < 2 * ROUNDING[dtype] + 2.0**-22 * max(20.0, 8 * abs(step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bad_rows_of_a_frozen_head_get_gradients_of_their_own(dtype, device):
    """Also while sums of several groups are made relative to larger and larger logits."""
    case = make_case(dtype, device, shape=(6,), vocab=5_000, workspace_bytes=5_000 * 8)
    case.bias += 0.1 * torch.arange(5_000, device=device)
    upstream = torch.randn(case.labels.shape, device=device)
    case.hidden.requires_grad_()
    (expected,) = torch.autograd.grad(case.ours().logps, case.hidden, upstream)
    with torch.no_grad():
        case.hidden[0, 3] = math.nan
        case.hidden[4, 3] = math.inf
    (got,) = torch.autograd.grad(case.ours().logps, case.hidden, upstream)
    assert got[[0, 4]].isnan().all()
    assert_same_bits(got[[1, 2, 3, 5]], expected[[1, 2, 3, 5]])


def test_row_81_a_workspace_below_one_row_is_refused(device):
    case = make_case(device=device, vocab=53)
    for workspace in (0, -1, 53 * 4 - 1):
        with pytest.raises(ValueError, match=rf"53 logits \(212 bytes\), got {workspace}$"):
            case.ours(workspace_bytes=workspace)
    case.ours(workspace_bytes=53 * 4)


@pytest.mark.parametrize("width", [256, 4096])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_promise(dtype, width, device, record_property):
    """At most twice the error of a float32 product and float32 log-softmax (docs/numerics.md)."""
    case = make_case(dtype, device, shape=(200,), vocab=3000, width=width, bias=False)
    case.weight *= 3.2 / width**0.5
    exact = case.exact_logps()
    scored = case.scored()
    target = case.labels[scored].unsqueeze(1)
    logits = case.hidden[scored].float() @ case.weight.float().T
    usual = logits.log_softmax(-1).gather(1, target).squeeze(1)
    ours = case.ours().logps[scored]
    our_error, usual_error = ((x.double() - exact).abs() for x in (ours, usual))
    record_property("signed_mean_error", (ours.double() - exact).mean().item())
    assert our_error.mean() <= 2 * usual_error.mean()
    assert our_error.max() <= 2 * usual_error.max()


@pytest.mark.parametrize(("upstream", "size"), [(1e-6, 1024.0), (1e6, 1 / 1024)])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("leaf", "other"), [("hidden", "weight"), ("weight", "hidden")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_logits_need_not_fit_the_type(
    dtype, leaf, other, alone, upstream, size, device
):
    """Below and above what float16 holds, where the leaf's own gradient fits: a mean over a batch,
    a loss scale."""
    case = make_case(dtype, device, vocab=2000, bias=False)
    getattr(case, leaf).div_(size).requires_grad_()
    getattr(case, other).mul_(size).requires_grad_(not alone)
    grad_logps = upstream * torch.rand(case.labels.shape, device=device)
    case.ours().logps.backward(grad_logps)
    exact = case.exact_gradients(grad_logps)[("hidden", "weight").index(leaf)]
    error = (getattr(case, leaf).grad.double() - exact).abs()
    assert error.max() <= 4 * ROUNDING[dtype] * exact.abs().max()


@pytest.mark.parametrize("rows_per_tile", [1, 1000])
def test_head_gradient_is_accumulated_in_float32(rows_per_tile, device):
    """Tile after tile, with bfloat16 inputs: only the last rounding is the type's own."""
    case = make_case(torch.bfloat16, device, shape=(300,), vocab=64, width=32)
    for x in case.leaves():
        x.requires_grad_()
    upstream = torch.rand(300, device=device)
    case.ours(workspace_bytes=rows_per_tile * 64 * 4).logps.backward(upstream)
    _, exact_weight, exact_bias = case.exact_gradients(upstream)
    assert_close(case.weight.grad, exact_weight, torch.bfloat16)
    assert_close(case.bias.grad, exact_bias, torch.bfloat16)


def test_exploration_survives_beside_dpo_in_bfloat16(device):
    """alpha 1e-4 changes the head's gradient by what it should, although far below one rounding."""
    alpha, beta, pairs, length = 1e-4, 0.01, 4, 8
    case = make_case(
        torch.bfloat16, device, shape=(3 * pairs, length), vocab=300, width=64, bias=False
    )
    case.weight.requires_grad_()

    def coefficients(alpha):
        dpo = torch.full((pairs, length), beta / 2, device=device)
        return torch.cat([-dpo, dpo, torch.full_like(dpo, alpha * beta)])

    def head_gradient(alpha):
        (grad,) = torch.autograd.grad(case.ours().logps, case.weight, coefficients(alpha))
        return grad.double()

    _, exact = case.exact_gradients(coefficients(alpha) - coefficients(0.0))
    change = head_gradient(alpha) - head_gradient(0.0)
    recovered = (change * exact).sum() / exact.square().sum()
    assert recovered.item() == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("options", TRANSFORMS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs(dtype, options, device):
    names = ["entropy", "log_sum_sq_probs", "mean_logits", "is_top1"]
    case = make_case(dtype, device, vocab=2500, **options)
    out = case.ours(outputs=names)
    scored = case.scored()
    z = case.exact_logits()
    exact = {
        "entropy": torch.distributions.Categorical(logits=z).entropy(),
        "log_sum_sq_probs": (2 * z.log_softmax(-1)).logsumexp(-1),
        "mean_logits": z.mean(-1),
    }
    for name, expected in exact.items():
        got = getattr(out, name)
        assert got.dtype == torch.float32
        assert got[~scored].count_nonzero() == 0
        torch.testing.assert_close(got[scored].double(), expected, rtol=2e-5, atol=2e-5)
    assert out.is_top1.dtype == torch.bool
    assert torch.equal(out.is_top1[scored], z.argmax(-1) == case.labels[scored])
    assert not out.is_top1[~scored].any()
    assert not any(getattr(out, name).requires_grad for name in names)
    assert_same_bits(case.ours(outputs=["entropy"], entropy_grad=True).entropy, out.entropy)
    for name in names:
        alone = case.ours(outputs=[name])
        assert_same_bits(getattr(alone, name), getattr(out, name))
        assert all(getattr(alone, other) is None for other in names if other != name)
    assert_same_bits(case.ours().logps, out.logps)


@pytest.mark.parametrize("options", TRANSFORMS, ids=str)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("with_logps", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_entropy_carries_a_gradient_where_asked(dtype, with_logps, frozen, options, device):
    """As an entropy bonus needs it, alone and beside the log-probabilities."""
    case = make_case(dtype, device, vocab=300, **options)
    leaves = [case.hidden] if frozen else case.leaves()
    for x in leaves:
        x.requires_grad_()
    out = case.ours(outputs=["entropy"], entropy_grad=True)
    weights = torch.randn(2, *case.labels.shape, device=device)
    weights[1] *= with_logps
    loss = (weights[0] * out.entropy).sum()
    loss = loss + (weights[1] * out.logps).sum() if with_logps else loss
    grads = torch.autograd.grad(loss, leaves)
    for grad, exact in zip(grads, case.exact_gradients(weights[1], weights[0]), strict=False):
        assert_close(grad, exact, dtype)
    assert grads[0][~case.scored()].count_nonzero() == 0


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}], ids=str)
@pytest.mark.parametrize("rows_per_tile", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_gradient_in_a_small_workspace(dtype, rows_per_tile, options, device):
    case = make_case(dtype, device, vocab=300, **options)
    for x in case.leaves():
        x.requires_grad_()
    out = case.ours(
        outputs=["entropy"],
        entropy_grad=True,
        workspace_bytes=rows_per_tile * 300 * result_dtype(dtype).itemsize,
    )
    weights = torch.randn(2, *case.labels.shape, device=device)
    grads = torch.autograd.grad(
        (weights[0] * out.entropy).sum() + (weights[1] * out.logps).sum(), case.leaves()
    )
    for grad, exact in zip(grads, case.exact_gradients(weights[1], weights[0]), strict=True):
        assert_close(grad, exact, dtype)


def test_entropy_gradient_of_masked_and_of_certain_tokens(device):
    """Where a probability is 0 its logarithm is not taken."""
    hidden = torch.tensor([[1.0], [300.0]], device=device, requires_grad=True)
    weight = torch.tensor([[1.0], [0.5], [-1.0]], device=device)
    bias = torch.tensor([0.0, 0.0, -math.inf], device=device)
    labels = torch.tensor([0, 1], device=device)
    out = selm_core.linear_logps(
        hidden, weight, labels, bias=bias, outputs=["entropy"], entropy_grad=True
    )
    (grad,) = torch.autograd.grad(out.entropy.sum(), hidden)
    p = torch.tensor(0.5).sigmoid()  # of the first of two tokens; its logit grows by 0.5 per unit
    expected = -0.5 * 0.5 * (p * (1 - p))
    torch.testing.assert_close(grad, torch.stack([expected, torch.tensor(0.0)])[:, None].to(device))


def test_an_entropy_gradient_of_no_entropy_is_refused(device):
    with pytest.raises(ValueError, match="'entropy_grad' to be false where 'outputs' does not ask"):
        make_case(device=device).ours(entropy_grad=True)


@pytest.mark.parametrize("workspace", [None, 400_000, 300_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_that_is_needed_again(dtype, workspace, device):
    """Gradients take the place of what is kept only where nobody can ask for it again."""
    case = make_case(dtype, device, shape=(40,), vocab=2_001)
    for x in case.leaves():
        x.requires_grad_()
    logps = case.ours(workspace_bytes=workspace).logps
    for retain_graph in (True, True, False):
        upstream = torch.randn_like(logps)
        grads = torch.autograd.grad(logps, case.leaves(), upstream, retain_graph=retain_graph)
        for grad, exact in zip(grads, case.exact_gradients(upstream), strict=True):
            assert_close(grad, exact, dtype)


@pytest.mark.parametrize("width", [16, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_where_every_row_counts_inputs_are_used_as_they_are(dtype, width, device):
    """They are not gathered, whatever their strides, and not written to."""
    case = make_case(dtype, device, shape=(11, 4), vocab=1_300, width=width)
    case.hidden = torch.randn(width, 4, 11, device=device).to(dtype).permute(2, 1, 0)
    case.labels = torch.randint(1_300, (4, 11), device=device).T
    before = copy.deepcopy(case)
    for x in case.leaves():
        x.requires_grad_()
    logps = case.ours().logps
    upstream = torch.randn(1, device=device, dtype=logps.dtype).expand(logps.shape)
    grads = torch.autograd.grad(logps, case.leaves(), upstream)
    assert_close(logps.flatten(), case.exact_logps(), torch.promote_types(dtype, torch.float32))
    for grad, exact in zip(grads, case.exact_gradients(upstream), strict=True):
        assert_close(grad, exact, dtype)
    for x, y in zip([*case.leaves(), case.labels], [*before.leaves(), before.labels], strict=True):
        assert_same_bits(x, y)


def test_a_graph_that_is_asked_twice_at_once(device):
    """Of a batch of upstream gradients each is a backward pass of its own, in one graph."""
    case = make_case(device=device, shape=(40,), vocab=2_001)
    for x in case.leaves():
        x.requires_grad_()
    logps = case.ours().logps
    upstream = torch.randn(3, *logps.shape, device=device)
    grads = torch.autograd.grad(logps, case.leaves(), upstream, is_grads_batched=True)
    for i in range(len(upstream)):
        for grad, exact in zip(grads, case.exact_gradients(upstream[i]), strict=True):
            assert_close(grad[i], exact, torch.float32)


def test_a_copied_graph_forgets_kept_gradients(device):
    """What is kept hides behind one byte; where a hook copies that byte alone, rows are computed anew."""
    case = make_case(device=device)
    for x in case.leaves():
        x.requires_grad_()
    upstream = torch.randn(case.labels.shape, device=device)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda x: x):
        logps = case.ours().logps
    grads = torch.autograd.grad(logps, case.leaves(), upstream)
    for grad, exact in zip(grads, case.exact_gradients(upstream), strict=True):
        assert_close(grad, exact, torch.float32)


def test_a_hook_that_gathers_what_is_saved(device):
    """It hands the byte back as a part of a larger buffer, which is not what was kept."""
    case = make_case(device=device)
    for x in case.leaves():
        x.requires_grad_()
    upstream = torch.randn(case.labels.shape, device=device)

    def unpack(saved):
        if saved.dtype != torch.uint8:
            return saved
        buffer = torch.full((2**20,), 63, dtype=torch.uint8, device=device)
        buffer[5] = saved
        return buffer[5:6]

    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
        logps = case.ours().logps
        grads = torch.autograd.grad(logps, case.leaves(), upstream)
    for grad, exact in zip(grads, case.exact_gradients(upstream), strict=True):
        assert_close(grad, exact, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_head_whose_columns_are_contiguous(dtype, device):
    case = make_case(dtype, device)
    case.weight = case.weight.T.contiguous().T
    for x in case.leaves():
        x.requires_grad_()
    upstream = torch.randn(case.labels.shape, device=device, dtype=result_dtype(dtype))
    logps = case.ours().logps
    assert_close(logps[case.scored()], case.exact_logps(), dtype)
    grads = torch.autograd.grad(logps, case.leaves(), upstream)
    for grad, exact in zip(grads, case.exact_gradients(upstream), strict=True):
        assert_close(grad, exact, dtype)


def test_top1_goes_to_the_first_of_equal_logits(device):
    weight = torch.ones(3000, 2, device=device)
    weight[[7, 2500]] = 2.0
    hidden = torch.ones(3, 2, device=device)
    labels = torch.tensor([7, 2500, 0], device=device)
    out = selm_core.linear_logps(hidden, weight, labels, outputs=["is_top1"])
    assert out.is_top1.tolist() == [True, False, False]


def test_entropy_of_certainty_and_of_ignorance(device):
    hidden = torch.tensor([[200.0], [0.0]], device=device)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], device=device)
    labels = torch.tensor([0, 0], device=device)
    out = selm_core.linear_logps(hidden, weight, labels, outputs=["entropy", "log_sum_sq_probs"])
    assert out.entropy.tolist() == pytest.approx([0.0, math.log(3)], abs=1e-6)
    assert out.log_sum_sq_probs.tolist() == pytest.approx([0.0, -math.log(3)], abs=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_row_39_everything_ignored(frozen, device):
    """Zeros, zero gradients, and the graph is alive."""
    case = make_case(device=device)
    case.labels[:] = -100
    case.hidden[:] = math.nan
    leaves = [case.hidden] if frozen else case.leaves()
    for x in leaves:
        x.requires_grad_()
    out = case.ours(outputs=["entropy", "is_top1"])
    assert out.logps.count_nonzero() == 0
    out.logps.sum().backward()
    for x in leaves:
        assert x.grad.count_nonzero() == 0


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("upstream", [math.inf, math.nan])
def test_row_35_ignored_rows_get_no_gradient_whatever_comes(upstream, frozen, device):
    case = make_case(device=device)
    ignored = ~case.scored()
    with torch.no_grad():
        case.hidden[ignored] = math.nan
    leaves = [case.hidden] if frozen else case.leaves()
    for x in leaves:
        x.requires_grad_()
    logps = case.ours().logps
    logps.backward(torch.ones_like(logps).masked_fill(ignored, upstream))
    assert case.hidden.grad[ignored].count_nonzero() == 0
    assert all(x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
@pytest.mark.parametrize("frozen", [False, True])
def test_rows_23_and_24_no_rows(frozen, shape, device):
    weight = torch.randn(5, 4, device=device, requires_grad=not frozen)
    hidden = torch.randn(*shape, 4, device=device, requires_grad=True)
    labels = torch.zeros(shape, dtype=torch.int64, device=device)
    out = selm_core.linear_logps(hidden, weight, labels, outputs=["entropy"])
    assert out.logps.shape == out.entropy.shape == shape
    out.logps.sum().backward()
    assert hidden.grad.shape == hidden.shape
    assert frozen or weight.grad.count_nonzero() == 0


@pytest.mark.parametrize("ignore_index", [3, 50, 2**40, -1])
def test_rows_36_and_37_any_ignore_index(ignore_index, device):
    case = make_case(device=device, ignore_index=ignore_index)
    logps = case.ours().logps
    assert logps[~case.scored()].count_nonzero() == 0
    torch.testing.assert_close(logps[case.scored()].double(), case.exact_logps(), rtol=0, atol=2e-5)


def test_row_8_int32_labels(device):
    case = make_case(device=device)
    narrow = Case(case.hidden, case.weight, case.labels.int(), case.bias)
    assert_same_bits(narrow.ours().logps, case.ours().logps)


@pytest.mark.parametrize("layout", ["every other", "expanded"])
def test_row_31_labels_in_any_layout_are_checked_and_used(layout):
    """The memory between and behind the labels holds what would be an error."""
    case = make_case(shape=(6,), vocab=9)
    if layout == "every other":
        storage = torch.full((12,), 10**9)
        storage[::2] = case.labels
        labels = storage[::2]
    else:
        labels = torch.tensor(4).expand(6)
    strided, contiguous = (
        selm_core.linear_logps(case.hidden, case.weight, y) for y in (labels, labels.clone())
    )
    assert_same_bits(strided.logps, contiguous.logps)
    storage = torch.zeros(12, dtype=torch.int64)
    storage[8] = 9
    with pytest.raises(IndexError, match=r"got 9 at \[4\]$"):
        selm_core.linear_logps(case.hidden, case.weight, storage[::2])


def test_row_40_a_label_outside_the_vocabulary():
    case = make_case(vocab=9)
    case.labels[2, 5] = 9
    with pytest.raises(IndexError) as raised:
        case.ours()
    assert str(raised.value) == (
        "selm::linear_logps: expected 'labels' to hold -100 (ignored) or a token id below the "
        "vocabulary size 9, got 9 at [2, 5]"
    )


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_42_to_46_bad_logits_stay_in_their_row(dtype, options, device):
    """A masked token through the bias; a hidden state that is infinite or not a number."""
    case = make_case(dtype, device=device, shape=(4,), bias=True, **options)
    case.labels[:] = torch.tensor([0, 5, 1, 1], device=device)
    case.bias[5] = -math.inf
    expected = case.ours().logps
    assert expected[1] == -math.inf
    assert expected[[0, 2, 3]].isfinite().all()
    case.hidden[2] = math.nan
    case.hidden[3] = math.inf
    got = case.ours().logps
    assert got.isnan().tolist() == [False, False, True, True]
    torch.testing.assert_close(got[:2], expected[:2])


def test_row_78_a_head_tied_to_the_embedding(device):
    """Both uses add to one gradient."""
    tied = torch.randn(20, 8, device=device, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(20, (2, 5), device=device)
    labels = torch.randint(20, (2, 5), device=device)
    hidden = torch.nn.functional.embedding(tokens, tied).tanh()
    (ours,) = torch.autograd.grad(selm_core.linear_logps(hidden, tied, labels).logps.sum(), tied)
    hidden = torch.nn.functional.embedding(tokens, tied).tanh()
    plain = (hidden @ tied.T).log_softmax(-1).gather(2, labels.unsqueeze(2)).sum()
    (expected,) = torch.autograd.grad(plain, tied)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def test_a_vocabulary_of_one(device):
    hidden = torch.randn(3, 4, device=device, requires_grad=True)
    weight = torch.randn(1, 4, device=device, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.int64, device=device)
    out = selm_core.linear_logps(hidden, weight, labels, softcap=2.0)
    out.logps.sum().backward()
    assert out.logps.tolist() == [0.0, 0.0, 0.0]
    assert hidden.grad.count_nonzero() == weight.grad.count_nonzero() == 0
