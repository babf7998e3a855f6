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


LONGER = {f"{side}_lengths": torch.full((6,), 30) for side in ("chosen", "rejected")}
PAIR_CHANGES = {
    "beta": 0.4,
    "loss_type": "hinge",
    "loss_weights": [1.0, 2.0],
    "label_smoothing": 0.2,
    "f_divergence_type": "forward_kl",
    "f_alpha_divergence_coef": 0.7,
    "discopop_tau": 0.3,
    "dpop_lambda": 2.0,
    "length_margin": 0.3,
    **LONGER,
}
# Another value of each keyword, for a call where it must change the result.
CHANGES = {
    "dpo_loss": PAIR_CHANGES,
    "selm_loss": PAIR_CHANGES | {"alpha": 0.3, "exploration": "xpo", "logratio_clip": 0.01},
    "cpo_loss": {"beta": 0.4, "loss_type": "hinge", "label_smoothing": 0.2, **LONGER},
    "simpo_loss": {"beta": 0.4, "simpo_gamma": 0.9, "label_smoothing": 0.2},
    "orpo_loss": {"beta": 0.4},
    "kto_loss": {
        "beta": 0.4,
        "desirable_weight": 0.5,
        "undesirable_weight": 0.5,
        "loss_type": "apo_zero_unpaired",
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
    "exploration_bonus": {"alpha": 0.3, "beta": 0.4, "kind": "xpo", "logratio_clip": 0.01},
    "kl_estimate": {"kind": "k1"},
}
# Changes no value, by design: it bounds memory, which test_memory.py measures.
WITHOUT_EFFECT_ON_VALUES = {("linear_logps", "workspace_bytes")}


LENGTHS = {f"{side}_lengths": torch.full((6,), 20) for side in ("chosen", "rejected")}
# What a loss needs so that it reads the keyword.
NEEDED = {
    "chosen_lengths": {"loss_type": "ipo", **LENGTHS},
    "rejected_lengths": {"loss_type": "ipo", **LENGTHS},
    "loss_type": {},
    "loss_weights": {"loss_type": ["sigmoid", "hinge"]},
    "f_alpha_divergence_coef": {"f_divergence_type": "alpha_divergence"},
    "discopop_tau": {"loss_type": "discopop"},
    "dpop_lambda": {"loss_type": "dpop"},
    "length_margin": {
        "loss_type": "r_dpo",
        "length_margin": 0.1,
        "chosen_lengths": torch.full((6,), 20),
        "rejected_lengths": torch.full((6,), 12),
    },
}


def base_call(name, keyword):
    """Arguments that read the keyword."""
    if keyword in NEEDED and "policy_chosen_logps" in arguments(name):
        given = arguments(name) | {"label_smoothing": 0.0} | NEEDED[keyword]
        return given | ({"alpha": 0.0} if keyword.startswith("f_") and name == "selm_loss" else {})
    if keyword == "f_divergence_type" and name == "selm_loss":
        return arguments(name) | {"alpha": 0.0}
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
    if (name, keyword) == ("kto_loss", "loss_type"):
        changed |= {"kl": None}
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
