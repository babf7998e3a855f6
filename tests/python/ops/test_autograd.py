"""First derivatives, and what autograd may do with an operator."""

import itertools
import warnings

import pytest
import torch
from calls import BUILDERS, arguments, leaves, operator, value
from references import assert_same_bits
from torch.utils.checkpoint import checkpoint

each_call = pytest.mark.parametrize("name", BUILDERS)


def function_of_leaves(name, given):
    """The differentiable result, as a function of the leaves alone."""
    names = [key for key, x in given.items() if isinstance(x, torch.Tensor) and x.requires_grad]
    return lambda *tensors: value(name, given | dict(zip(names, tensors, strict=True)))


@each_call
def test_gradcheck(name, device):
    """Against finite differences, for undefined upstream gradients and a batch of them too."""
    given = arguments(name, torch.float64, device, grad=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*batching rule")
        assert torch.autograd.gradcheck(
            function_of_leaves(name, given), leaves(given), check_batched_grad=True
        )


@each_call
def test_only_the_first_result_carries_a_gradient(name, device):
    out = operator(name)(**arguments(name, device=device, grad=True))
    first, *others = [out] if isinstance(out, torch.Tensor) else out
    assert first.requires_grad
    assert not any(x.requires_grad for x in others if x is not None)


@each_call
def test_row_87_second_derivatives_raise(name, device):
    """For every pair of inputs, and for the upstream gradient: never silent zeros."""
    given = arguments(name, torch.float64, device, grad=True)
    out = value(name, given)
    upstream = torch.ones_like(out, requires_grad=True)
    inputs = leaves(given)
    first = torch.autograd.grad(out, inputs, upstream, create_graph=True)
    message = f"^selm::{name.split('-')[0]}: second derivatives are not implemented$"
    for grad, x in itertools.product(first, [*inputs, upstream]):
        with pytest.raises(NotImplementedError, match=message):
            torch.autograd.grad(grad.sum(), x, retain_graph=True)


@each_call
def test_a_graph_of_the_gradient_that_nobody_differentiates(name, device):
    given = arguments(name, device=device, grad=True)
    out = value(name, given)
    plain = torch.autograd.grad(out.sum(), leaves(given), retain_graph=True)
    with_graph = torch.autograd.grad(out.sum(), leaves(given), create_graph=True)
    for a, b in zip(plain, with_graph, strict=True):
        assert_same_bits(a, b)


@each_call
def test_row_86_backward_twice(name, device):
    given = arguments(name, device=device, grad=True)
    out = value(name, given).sum()
    once = torch.autograd.grad(out, leaves(given), retain_graph=True)
    again = torch.autograd.grad(out, leaves(given))
    for a, b in zip(once, again, strict=True):
        assert_same_bits(a, b)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(out, leaves(given))


@each_call
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_row_85_without_gradients(name, context, device):
    given = arguments(name, device=device, grad=True)
    expected = value(name, given)
    with context():
        out = value(name, given)
    assert not out.requires_grad
    assert_same_bits(out, expected)


@each_call
def test_row_23_an_empty_batch(name, device):
    """Empty results, and a graph that is alive."""
    given = {
        k: v[:0].detach().requires_grad_(v.requires_grad)
        if isinstance(v, torch.Tensor) and k not in ("weight", "bias", "kl")
        else v
        for k, v in arguments(name, device=device, grad=True).items()
    }
    out = value(name, given)
    assert out.shape[0] == 0
    for x, grad in zip(leaves(given), torch.autograd.grad(out.sum(), leaves(given)), strict=True):
        assert grad.shape == x.shape
        assert grad.count_nonzero() == 0


@each_call
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(name, reentrant, device):
    given = arguments(name, device=device, grad=True)
    inputs = leaves(given)
    function = function_of_leaves(name, given)
    function(*inputs).sum().backward()
    expected = [x.grad.clone() for x in inputs]
    for x in inputs:
        x.grad = None
    checkpoint(function, *inputs, use_reentrant=reentrant).sum().backward()
    for x, grad in zip(inputs, expected, strict=True):
        assert_same_bits(x.grad, grad)


@each_call
def test_saved_tensor_hooks(name, device):
    """Everything that is kept for the backward pass goes through them, and nothing else is used.

    What linear_logps keeps of its logits is lost in a copy, and computed anew.
    """
    given = arguments(name, device=device, grad=True)
    expected = torch.autograd.grad(value(name, given).sum(), leaves(given))
    packed = []

    def pack(x):
        packed.append(x.detach().clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, packed.__getitem__):
        out = value(name, given).sum()
    for a, b in zip(torch.autograd.grad(out, leaves(given)), expected, strict=True):
        if name.startswith("linear_logps"):
            torch.testing.assert_close(a, b)
        else:
            assert_same_bits(a, b)
    assert packed


@pytest.mark.parametrize("name", ["selective_log_softmax", "sequence_logps", "linear_logps"])
def test_inputs_changed_before_the_backward_pass_are_noticed(name, device):
    given = arguments(name, device=device, grad=True)
    key = "logits" if "logits" in given else "hidden"
    given[key] = given[key] * 1
    out = value(name, given)
    given[key].detach().add_(1)  # a change that autograd sees only through the version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@each_call
def test_functorch_transforms_raise(name, device):
    """torch's own message for derivatives by operators written in C++."""
    given = arguments(name, device=device, grad=True)
    function = function_of_leaves(name, given)
    inputs = [x.detach() for x in leaves(given)]
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda *x: function(*x).sum())(*inputs)
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.jvp(function, tuple(inputs), tuple(inputs))


@each_call
def test_row_88_vmap_is_a_loop(name, device):
    given = arguments(name, device=device)
    key = next(key for key in given if key in ("logits", "hidden") or key.startswith("policy"))
    batch = torch.stack([given[key], given[key] - 1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*batching rule")
        mapped = torch.func.vmap(lambda x: value(name, given | {key: x}))(batch)
    for x, got in zip(batch, mapped, strict=True):
        assert_same_bits(got, value(name, given | {key: x}))
