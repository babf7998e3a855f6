"""selm_core, torch.ops.selm and _core are one thing; every keyword has an effect or is refused."""

import pytest
import torch
from calls import BUILDERS, OPERATORS, ROUTES, arguments, keywords, leaves, results
from references import assert_same_bits

OTHERS = [route for route in ROUTES if route != "selm_core"]


@pytest.mark.parametrize("route", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BUILDERS)
def test_routes_agree_bit_for_bit(name, dtype, route, device):
    given = arguments(name, dtype, device, grad=True)
    outputs = [results(name, given, r) for r in ("selm_core", route)]
    for a, b in zip(*outputs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
    grads = [torch.autograd.grad(out[0].sum(), leaves(given)) for out in outputs]
    for a, b in zip(*grads, strict=True):
        assert_same_bits(a, b)


# Another value of each keyword, for a call where it must change the result.
CHANGES = {
    "dpo_loss": {
        "beta": 0.4,
        "loss_type": "hinge",
        "label_smoothing": 0.2,
        "chosen_lengths": torch.full((6,), 30),
        "rejected_lengths": torch.full((6,), 30),
    },
    "selm_loss": {
        "alpha": 0.3,
        "beta": 0.4,
        "exploration": "xpo",
        "loss_type": "hinge",
        "label_smoothing": 0.2,
        "chosen_lengths": torch.full((6,), 30),
        "rejected_lengths": torch.full((6,), 30),
    },
    "selective_log_softmax": {"temperature": 1.5, "ignore_index": 0},
    "sequence_logps": {"ignore_index": 0, "average_log_prob": True},
    "linear_logps": {
        "bias": torch.randn(11),
        "temperature": 1.5,
        "logit_scale": 0.5,
        "softcap": 2.0,
        "ignore_index": 0,
        "outputs": ["entropy"],
    },
    "implicit_rewards": {"beta": 0.4},
    "exploration_bonus": {"alpha": 0.3, "beta": 0.4, "kind": "xpo"},
    "kl_estimate": {"kind": "k1"},
}
# Changes no value, by design: it bounds memory, which test_memory.py measures.
WITHOUT_EFFECT_ON_VALUES = {("linear_logps", "workspace_bytes")}


def base_call(name, keyword):
    """Arguments that read the keyword."""
    if "lengths" in keyword:
        lengths = {f"{side}_lengths": torch.full((6,), 20) for side in ("chosen", "rejected")}
        return arguments(name) | {"label_smoothing": 0.0, "loss_type": "ipo"} | lengths
    if keyword == "loss_type":
        return arguments(name) | {"label_smoothing": 0.0}
    given = arguments("linear_logps-plain" if name == "linear_logps" else name)
    if "index" in given or "labels" in given:
        labels = given["index" if "index" in given else "labels"]
        labels[:] = torch.tensor([1, 0, 3, 4])  # 0 and -100 are both there, for ignore_index
        labels[0, 2] = 0 if keyword == "ignore_index" else 5
    return given


@pytest.mark.parametrize(("name", "keyword"), [(n, k) for n in OPERATORS for k in keywords(n)])
def test_every_keyword_changes_the_result(name, keyword):
    if (name, keyword) in WITHOUT_EFFECT_ON_VALUES:
        pytest.skip("changes memory only; test_memory.py measures it")
    given = base_call(name, keyword)
    changed = given | {keyword: CHANGES[name][keyword]}
    if (name, keyword) == ("exploration_bonus", "kind"):
        changed |= {"beta": None, "ref_logps": None}  # which the other kind refuses
    before, after = results(name, given), results(name, changed)
    if keyword == "outputs":
        assert before[1] is None
        assert after[1] is not None
    else:
        assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("route", OTHERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_defaults_are_the_same_everywhere(name, route):
    given = {k: v for k, v in arguments(name).items() if isinstance(v, torch.Tensor)}
    required = {"alpha": 0.2, "beta": 0.3} if name in ("selm_loss", "exploration_bonus") else {}
    if name == "implicit_rewards":
        required = {"beta": 0.3}
    for a, b in zip(
        results(name, given | required), results(name, given | required, route), strict=True
    ):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
