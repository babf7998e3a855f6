"""torch.library's own checks of every operator, meta kernels, torch.compile."""

import pytest
import torch
from calls import BUILDERS, OPERATORS, arguments, leaves, operator, results
from references import assert_same_bits
from torch.library import opcheck

ops = torch.ops.selm


def schema_order(op, given):
    """Positional and keyword-only arguments of one overload."""
    positional = [a.name for a in op._schema.arguments if not a.kwarg_only]
    args = [given[name] for name in positional]
    return tuple(args), {k: v for k, v in given.items() if k not in positional}


def private_calls():
    """Arguments of each private operator, in its schema's order."""
    pair = arguments("selm_loss", grad=True)
    policy = [pair[f"policy_{y}_logps"] for y in ("chosen", "rejected", "response")]
    ref = [pair[f"ref_{y}_logps"] for y in ("chosen", "rejected", "response")]
    lengths = [torch.ones(6, dtype=torch.int64)] * 2
    # alpha, clip, beta, label smoothing, the losses' own four options, the link's, and weights
    numbers = [0.2, 3.0, 0.1, 0.1, 0.05, 50.0, 0.0, 0.5, 0.5]
    sigmoid = ["selm", "reverse_kl", "sigmoid"], [*numbers, 1.0]
    ipo = ["selm", "forward_kl", "ipo", "hinge"], [0.0, 3.0, 0.1, 0.0, *numbers[4:], 1.0, 0.5]
    preference = ("selm_loss", *policy, *ref, None, None, *sigmoid)
    with_lengths = ("dpo_loss", *policy[:2], None, *ref[:2], None, *lengths, *ipo)
    without_reference = ("cpo_loss", *policy[:2], *[None] * 4, None, None, *sigmoid)
    fixed = [x.detach() for x in policy]
    ranked = ["selm", "reverse_kl", "aot", "aot_unpaired"], [*numbers, 1.0, 0.5]
    aot = ("selm_loss", *fixed, *ref, None, None, *ranked)
    labels = torch.arange(6) % 2 == 0
    unpaired = (policy[0], ref[0], labels, torch.tensor(0.3), 0.1, 1.0, 0.5)

    logits = torch.randn(2, 4, 11)
    leaf = logits.clone().requires_grad_()
    labels = torch.randint(11, (2, 4))
    labels[0, 1] = -100
    grad = torch.randn(2, 4)
    token_summary = ops._token_logps(logits, labels, 0.7, -100)[1]
    sequence_summary = ops._sequence_logps(logits, labels, -100, True)[1]

    head = arguments("linear_logps", grad=True)
    hidden, weight, bias = head["hidden"], head["weight"], head["bias"]
    frozen = weight.detach(), labels, bias.detach()
    transform, everything, nothing = [0.8, 1.5, 3.0], [True] * 4, [False] * 4
    scored = ops._linear_logps(hidden.detach(), *frozen, transform, -100, everything, None, 2, True)
    backward = (hidden.detach(), *frozen, scored[1], scored[4], scored[3], transform, -100)
    return [
        ("_preference_loss", preference),
        ("_preference_loss", with_lengths),
        ("_preference_loss", without_reference),
        ("_preference_loss_backward", (torch.rand(6), *aot)),
        ("_unpaired_loss", unpaired),
        ("_logratio_term", ("kl_estimate", policy[0], ref[0], "k3", 0.0, 1.0, 9.0)),
        ("_logratio_term", ("exploration_bonus", policy[0], None, "xpo", 0.2, 1.0, 9.0)),
        ("_logratio_term", ("implicit_rewards", policy[0], ref[0], "", 0.0, 0.3, 9.0)),
        ("_token_logps", (leaf, labels, 0.7, -100)),
        ("_token_logps_backward", (grad, logits, labels, token_summary, 0.7, -100)),
        ("_sequence_logps", (leaf, labels, -100, True)),
        ("_sequence_logps_backward", (grad[:, 0], logits, labels, sequence_summary, -100, True)),
        (
            "_linear_logps",
            (hidden, weight, labels, bias, transform, -100, everything, None, 2, True),
        ),
        ("_linear_logps", (hidden, *frozen, transform, -100, nothing, 44, 1, False)),
        (
            "_linear_logps",
            (hidden, *frozen[:2], None, [1.0, 1.0, 0.0], -100, nothing, 44, 1, False),
        ),
        ("_linear_logps_backward", (grad, grad, *backward, None, [True, True, True])),
        ("_linear_logps_backward", (grad, None, *backward, 44, [False, True, False])),
    ]


def test_every_operator_is_checked():
    registered = {
        name.removeprefix("selm::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("selm::")
    }
    assert registered == {*OPERATORS, *(name for name, _ in private_calls())}


@pytest.mark.parametrize("name", BUILDERS)
def test_opcheck_of_public_operators(name, device):
    op = operator(name, "torch.ops.selm").default
    opcheck(op, *schema_order(op, arguments(name, device=device, grad=True)))


@pytest.mark.parametrize("index", range(len(private_calls())))
def test_opcheck_of_private_operators(index):
    name, args = private_calls()[index]
    opcheck(getattr(ops, name).default, args)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row_14_meta_tensors(name, dtype):
    """Shapes, types and strides of the real results."""
    real = results(name, arguments(name, dtype))
    given = {
        k: v.to("meta") if isinstance(v, torch.Tensor) else v
        for k, v in arguments(name, dtype).items()
    }
    meta = results(name, given)
    for a, b in zip(real, meta, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert b.device.type == "meta"
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def assert_compiles(name, device, backend, dynamic):
    """One graph, forward and backward, the eager results bit for bit, also for another shape."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda given: results(name, given), fullgraph=True, dynamic=dynamic, backend=backend
    )
    for repeat in (1, 2):
        given = arguments(name, device=device, grad=True)
        if repeat == 2:
            given = {k: longer(k, v) for k, v in given.items()}
        outputs = [f(given) for f in (lambda given: results(name, given), compiled)]
        for a, b in zip(*outputs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert_same_bits(a, b)
        grads = [torch.autograd.grad(out[0].sum(), leaves(given)) for out in outputs]
        for a, b in zip(*grads, strict=True):
            assert_same_bits(a, b)


def longer(key, x):
    """Twice the batch; head and baseline have none."""
    if not isinstance(x, torch.Tensor) or key in ("weight", "bias", "kl"):
        return x
    return torch.cat([x, x]).detach().requires_grad_(x.requires_grad)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_row_89_compile(name, dynamic, device):
    assert_compiles(name, device, "aot_eager", dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["selm_loss", "sequence_logps", "linear_logps"])
def test_row_89_compile_with_the_default_backend(name, device):
    assert_compiles(name, device, "inductor", dynamic=True)


@pytest.mark.parametrize("name", BUILDERS)
def test_export(name):
    """torch.export keeps the public operator whole."""

    class Module(torch.nn.Module):
        def forward(self, given):
            return results(name, given)[0]

    given = arguments(name)
    program = torch.export.export(Module(), (given,))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert operator(name, "torch.ops.selm").default in called
    assert_same_bits(program.module()(given), results(name, given)[0])


def test_compile_under_autocast(device):
    """The operands' casts are part of the graph."""
    given = arguments("linear_logps", device=device, grad=True)

    def logps():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return results("linear_logps", given)[0]

    compiled = torch.compile(logps, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(), logps())
    grads = [torch.autograd.grad(f().sum(), leaves(given)) for f in (compiled, logps)]
    for a, b in zip(*grads, strict=True):
        assert_same_bits(a, b)
