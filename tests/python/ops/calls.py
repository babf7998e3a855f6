"""One valid call of every public operator and of its variants, and the three routes to it."""

import selm_core
import torch
from selm_core._library import native

ROUTES = {"selm_core": selm_core, "torch.ops.selm": torch.ops.selm, "selm_core._core": native}

# Arguments that carry a gradient; those of a reference policy and of labels never do.
DIFFERENTIABLE = (
    "policy_chosen_logps",
    "policy_rejected_logps",
    "policy_response_logps",
    "policy_logps",
    "logits",
    "hidden",
    "weight",
    "bias",
)


def _logps(dtype, device, *shape):
    return -5 * torch.rand(*(shape or (6,)), dtype=dtype, device=device) - 1


def _lengths(device):
    return torch.randint(1, 9, (6,), device=device)


def _labels(device, *shape):
    labels = torch.randint(11, shape, device=device)
    labels[0, 1] = -100
    return labels


def _pair(dtype, device):
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    return {f"{name}_logps": _logps(dtype, device) for name in names}


def _triple(dtype, device):
    return _pair(dtype, device) | {
        f"{side}_response_logps": _logps(dtype, device) for side in ("policy", "ref")
    }


def _policy_pair(dtype, device):
    return {k: v for k, v in _pair(dtype, device).items() if k.startswith("policy")}


def _both_lengths(device):
    return {"chosen_lengths": _lengths(device), "rejected_lengths": _lengths(device)}


def _single(dtype, device):
    return {
        "policy_logps": _logps(dtype, device),
        "ref_logps": _logps(dtype, device),
        "desirable": torch.rand(6, device=device) < 0.5,
    }


def _head(dtype, device):
    return {
        "hidden": torch.randn(2, 4, 5, dtype=dtype, device=device),
        "weight": torch.randn(11, 5, dtype=dtype, device=device),
        "labels": _labels(device, 2, 4),
    }


def _logits(dtype, device):
    return torch.randn(2, 4, 11, dtype=dtype, device=device)


BUILDERS = {
    "dpo_loss": lambda t, d: _pair(t, d) | {"beta": 0.3, "label_smoothing": 0.1},
    "dpo_loss-hinge": lambda t, d: _pair(t, d) | {"loss_type": ["hinge"]},
    "dpo_loss-ipo": lambda t, d: (
        _pair(t, d)
        | {"loss_type": ["ipo"], "chosen_lengths": _lengths(d), "rejected_lengths": _lengths(d)}
    ),
    "dpo_loss-sum": lambda t, d: (
        _pair(t, d)
        | {"loss_type": ["aot", "aot_unpaired", "sft"], "loss_weights": [1.0, 0.5, 0.2]}
        | {"chosen_lengths": _lengths(d)}
    ),
    "dpo_loss-f": lambda t, d: (
        _pair(t, d) | {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7}
    ),
    "cpo_loss": lambda t, d: _policy_pair(t, d) | {"label_smoothing": 0.1},
    "cpo_loss-ipo": lambda t, d: _policy_pair(t, d) | _both_lengths(d) | {"loss_type": "ipo"},
    "simpo_loss": lambda t, d: _policy_pair(t, d) | _both_lengths(d) | {"simpo_gamma": 0.3},
    "orpo_loss": lambda t, d: _policy_pair(t, d) | _both_lengths(d),
    "kto_loss": lambda t, d: (
        _single(t, d) | {"kl": torch.tensor(0.4, dtype=t, device=d), "undesirable_weight": 0.7}
    ),
    "kto_loss-apo": lambda t, d: _single(t, d) | {"kl": None, "loss_type": "apo_zero_unpaired"},
    "selm_loss": lambda t, d: _triple(t, d) | {"alpha": 0.2, "beta": 0.3},
    "selm_loss-xpo": lambda t, d: _triple(t, d) | {"alpha": 0.2, "beta": 0.3, "exploration": "xpo"},
    "selm_loss-dpo": lambda t, d: (
        _pair(t, d)
        | {"policy_response_logps": None, "ref_response_logps": None, "alpha": 0.0, "beta": 0.3}
    ),
    "selective_log_softmax": lambda t, d: {
        "logits": _logits(t, d),
        "index": _labels(d, 2, 4),
        "temperature": 0.7,
    },
    "sequence_logps": lambda t, d: {"logits": _logits(t, d), "labels": _labels(d, 2, 4)},
    "sequence_logps-average": lambda t, d: {
        "logits": _logits(t, d),
        "labels": _labels(d, 2, 4),
        "average_log_prob": True,
    },
    "linear_logps": lambda t, d: (
        _head(t, d)
        | {
            "bias": torch.randn(11, dtype=t, device=d),
            "softcap": 3.0,
            "temperature": 0.8,
            "logit_scale": 1.5,
            "outputs": ["entropy", "log_sum_sq_probs", "mean_logits", "is_top1"],
        }
    ),
    "linear_logps-plain": _head,
    "implicit_rewards": lambda t, d: {
        "policy_logps": _logps(t, d, 2, 3),
        "ref_logps": _logps(t, d, 2, 3),
        "beta": 0.3,
    },
    "exploration_bonus": lambda t, d: {
        "policy_logps": _logps(t, d),
        "ref_logps": _logps(t, d),
        "alpha": 0.2,
        "beta": 0.3,
    },
    "exploration_bonus-xpo": lambda t, d: {
        "policy_logps": _logps(t, d),
        "ref_logps": None,
        "alpha": 0.2,
        "kind": "xpo",
    },
    "exploration_bonus-popo": lambda t, d: {
        "policy_logps": _logps(t, d),
        "ref_logps": _logps(t, d),
        "alpha": 0.2,
        "beta": 0.3,
        "kind": "popo",
        "logratio_clip": 2.0,
    },
    "kl_estimate": lambda t, d: {"policy_logps": _logps(t, d), "ref_logps": _logps(t, d)},
    "kl_estimate-k1": lambda t, d: (
        {"policy_logps": _logps(t, d), "ref_logps": _logps(t, d), "kind": "k1"}
    ),
    "kl_estimate-k2": lambda t, d: (
        {"policy_logps": _logps(t, d), "ref_logps": _logps(t, d), "kind": "k2"}
    ),
}
OPERATORS = sorted({name.split("-")[0] for name in BUILDERS})


def operator(name, route="selm_core"):
    return getattr(ROUTES[route], name.split("-")[0])


def arguments(name, dtype=torch.float32, device="cpu", grad=False):
    """Keyword arguments of a valid call; with `grad`, leaves wherever a gradient is defined."""
    given = BUILDERS[name](dtype, device)
    for argument in DIFFERENTIABLE:
        if grad and given.get(argument) is not None:
            given[argument].requires_grad_()
    return given


def leaves(given):
    return [x for x in given.values() if isinstance(x, torch.Tensor) and x.requires_grad]


def results(name, given, route="selm_core"):
    """The call's tensors. What there is none of, which torch.ops gives as empty, is None."""
    out = operator(name, route)(**given)
    out = [out] if isinstance(out, torch.Tensor) else list(out)
    if route == "torch.ops.selm":
        out = [out[0], *(None if x.numel() == 0 else x for x in out[1:])]
    return out


def value(name, given, route="selm_core"):
    """The one result that carries a gradient."""
    return results(name, given, route)[0]
