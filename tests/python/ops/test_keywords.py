"""No keyword is ignored: another value of it changes a result, or the call is refused."""

import inspect
from typing import NamedTuple

import numpy as np
import pytest
import selm_core
import selm_core.numpy
import torch
from calls import BUILDERS, arguments

MODULES = {"selm_core": selm_core, "selm_core.numpy": selm_core.numpy}


class Change(NamedTuple):
    """`needed` makes a call read the keyword; `changed` has another value of it, and comes first."""

    changed: dict
    needed: dict


def change(name, value, **needed):
    return Change({name: value}, needed)


def longer(side):
    lengths = {f"{name}_lengths": torch.full((6,), 20) for name in ("chosen", "rejected")}
    return change(f"{side}_lengths", torch.full((6,), 30), **PLAIN, loss_type="ipo", **lengths)


PLAIN = {"label_smoothing": 0.0}
R_DPO = PLAIN | {"loss_type": "r_dpo", "length_margin": 0.1, "chosen_lengths": torch.full((6,), 20)}
PAIR = [
    change("beta", 0.4),
    change("loss_type", "hinge", **PLAIN),
    change("loss_weights", [1.0, 2.0], **PLAIN, loss_type=["sigmoid", "hinge"]),
    change("label_smoothing", 0.2),
    change("f_divergence_type", "forward_kl"),
    change("f_alpha_divergence_coef", 0.7, f_divergence_type="alpha_divergence"),
    change("discopop_tau", 0.3, **PLAIN, loss_type="discopop"),
    change("dpop_lambda", 2.0, **PLAIN, loss_type="dpop"),
    change("length_margin", 0.3, **R_DPO, rejected_lengths=torch.full((6,), 12)),
    longer("chosen"),
    longer("rejected"),
]
ROWS = torch.tensor([[1, 0, 3, 4], [5, 0, 7, 8]])  # without the default's -100
TEMPERATURE, IGNORED_INDEX = change("temperature", 1.5), change("ignore_index", 0, index=ROWS)
SEQUENCE = [change("ignore_index", 0, labels=ROWS), change("average_log_prob", True)]
BETA = change("beta", 0.4)

CHANGES = {
    "dpo_loss": PAIR,
    "selm_loss": [
        *(Change(c.changed, c.needed | {"alpha": 0.0}) for c in PAIR),  # with any f-divergence
        *(change("alpha", 0.3), change("exploration", "xpo"), change("logratio_clip", 0.01)),
    ],
    "cpo_loss": [
        *(BETA, change("loss_type", "hinge", **PLAIN), change("label_smoothing", 0.2)),
        *(longer("chosen"), longer("rejected")),
    ],
    "simpo_loss": [BETA, change("simpo_gamma", 0.9), change("label_smoothing", 0.2)],
    "orpo_loss": [BETA],
    "kto_loss": [
        *(BETA, change("desirable_weight", 0.5), change("undesirable_weight", 0.5)),
        Change({"loss_type": "apo_zero_unpaired", "kl": None}, {}),
    ],
    "exploration_bonus": [
        *(BETA, change("alpha", 0.3), change("logratio_clip", 0.01)),
        Change({"kind": "xpo", "beta": None, "ref_logps": None}, {}),
    ],
    "kl_estimate": [change("kind", "k1")],
    "selective_log_softmax": [TEMPERATURE, IGNORED_INDEX],
    "selective_log_softmax_grad": [TEMPERATURE, IGNORED_INDEX],
    "sequence_logps": SEQUENCE,
    "sequence_logps_grad": SEQUENCE,
    "linear_logps": [
        *(TEMPERATURE, change("bias", torch.ones(11).cumsum(0)), change("logit_scale", 0.5)),
        *(change("softcap", 2.0), change("ignore_index", 0, labels=ROWS)),
        *(change("outputs", ["entropy"]), change("workspace_bytes", 1)),
        change("entropy_grad", True),
    ],
    "implicit_rewards": [BETA],
    "implicit_reward_difference": [BETA],
    "log_partition": [BETA],
    "policy_logps_from_rewards": [BETA, change("log_partition", 0.7)],
    "length_desensitized_logps": [change("ld_alpha", 0.2)],
    "token_rewards": [BETA],
    "prefix_rewards": [BETA],
    "alpha_at": [change("alpha", 0.4), change("schedule", "cosine"), change("final_alpha", 0.2)],
}
REFUSED = {
    # It bounds memory, which test_memory.py measures, and changes no value; less than one row is refused.
    ("linear_logps", "workspace_bytes"): "to hold at least one row of 11 logits",
    # Of an entropy that is not asked for; test_linear_logps.py has the gradient.
    ("linear_logps", "entropy_grad"): "'outputs' does not ask for 'entropy'",
}


def other_calls():
    """Of functions that are no operators."""
    tokens, mask = -torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool)
    logps, rewards = torch.randn(5).log_softmax(0), torch.randn(5)
    token_pair = {"policy_token_logps": tokens, "ref_token_logps": tokens.flip(1), "mask": mask}
    return {
        "implicit_reward_difference": {"logps": logps, "other_logps": logps.flip(0), "beta": 0.3},
        "log_partition": {"ref_logps": logps, "rewards": rewards, "beta": 0.3},
        "policy_logps_from_rewards": {
            **{"rewards": rewards, "ref_logps": logps, "beta": 0.3},
            "log_partition": 0.1,
        },
        "length_desensitized_logps": {
            **{"token_logps": tokens, "mask": mask, "shared_lengths": torch.tensor([2, 3])},
            "ld_alpha": 0.6,
        },
        "token_rewards": token_pair | {"beta": 0.3},
        "prefix_rewards": token_pair | {"beta": 0.3},
        "alpha_at": {"progress": 0.3, "alpha": 0.8, "schedule": "linear"},
    }


def base_call(name):
    if name.endswith("_grad"):
        of = base_call(name.removesuffix("_grad"))  # (2, 4, 11) logits
        return of | {"grad_logps": torch.ones(2) if "labels" in of else torch.ones(2, 4)}
    if name == "linear_logps":
        return arguments("linear_logps-plain")
    return arguments(name) if name in BUILDERS else other_calls()[name]


def as_array(value):
    """What selm_core.numpy takes in place of a tensor."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.item() if value.dim() == 0 else value.numpy()


def call(module, name, given):
    if module == "selm_core.numpy":
        given = {key: as_array(value) for key, value in given.items()}
    out = getattr(MODULES[module], name)(**given)
    results = out if isinstance(out, tuple) else (out,)
    return [None if x is None else np.asarray(x) for x in results]


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]


KEYWORDS = [
    (module, name, keyword)
    for module in MODULES
    for name in MODULES[module].__all__
    if inspect.isfunction(getattr(MODULES[module], name))
    for keyword in keywords(getattr(MODULES[module], name))
]


@pytest.mark.parametrize(("module", "name", "keyword"), KEYWORDS)
def test_every_keyword_changes_a_result_or_is_refused(module, name, keyword):
    (found,) = [c for c in CHANGES.get(name, []) if next(iter(c.changed)) == keyword]
    given = base_call(name) | found.needed
    before = call(module, name, given)
    if (name, keyword) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, keyword]):
            call(module, name, given | found.changed)
        return
    after = call(module, name, given | found.changed)
    assert any(
        (a is None) != (b is None) or (a is not None and not np.array_equal(a, b))
        for a, b in zip(before, after, strict=True)
    )
