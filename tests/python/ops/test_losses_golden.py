"""Losses, rewards and estimates against the exact tables of tests/data."""

import re

import pytest
import selm_core
import torch
from golden import assert_promises, column, representable
from golden_rows import (
    EXPLORATION_OPTIONS,
    LOGPS,
    LOSS_OPTIONS,
    groups,
    lengths_given,
    read_table,
)

TYPES = [torch.float32, torch.float64]
PREFERENCES, POLICY_LOSSES = read_table("preference"), read_table("policy_losses")
UNPAIRED = read_table("unpaired")


def names_of(table):
    return sorted({row["loss_type"] for row in table})


def lengths_of(rows, device):
    return {f"{name}s": column(rows, name, torch.int64, device) for name in lengths_given(rows)}


def selm_results(rows, options, dtype, device):
    """Every output and gradient of selm_loss, under the names of the table's columns."""
    x = {name: column(rows, name, dtype, device) for name in LOGPS}
    policy = [x[f"policy_{name}"].requires_grad_() for name in ("chosen", "rejected", "response")]
    ref = [x[f"ref_{name}"] for name in ("chosen", "rejected", "response")]
    out = selm_core.selm_loss(*policy, *ref, **options, **lengths_of(rows, device))
    out.losses.backward(torch.ones_like(out.losses))
    return {
        "loss": out.losses,
        "dpo_loss": out.dpo_losses,
        "exploration_term": out.exploration,
        "chosen_reward": out.chosen_rewards,
        "rejected_reward": out.rejected_rewards,
        "response_reward": out.response_rewards,
        "d_chosen": policy[0].grad,
        "d_rejected": policy[1].grad,
        "d_response": policy[2].grad,
    }


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("loss_type", names_of(PREFERENCES))
def test_losses_keep_the_promises(loss_type, dtype, device):
    table = [row for row in PREFERENCES if row["loss_type"] == loss_type]
    table = representable(table, LOGPS, dtype)
    assert len(table) > 30
    for options, rows in groups(table, LOSS_OPTIONS + EXPLORATION_OPTIONS):
        assert_promises(rows, selm_results(rows, options, dtype, device))


def test_the_table_holds_every_loss_of_one_pair():
    """The other two rank a batch; test_ranked_losses.py has their oracle."""
    documented = set(re.findall(r"^ +``(\w+)`` +``", selm_core.dpo_loss.__doc__, re.M))
    assert documented - {"aot", "aot_unpaired"} == set(names_of(PREFERENCES))


POLICY_CALLS = {
    "simpo": ["beta", "label_smoothing", "simpo_gamma"],
    "orpo": ["beta"],
    **{key: ["loss_type", "beta", "label_smoothing"] for key in ("sigmoid", "hinge", "ipo")},
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("loss_type", names_of(POLICY_LOSSES))
def test_losses_without_a_reference_keep_the_promises(loss_type, dtype, device):
    logps = ["policy_chosen", "policy_rejected"]
    table = [row for row in POLICY_LOSSES if row["loss_type"] == loss_type]
    table = representable(table, logps, dtype)
    assert len(table) > 30
    call = getattr(selm_core, f"{loss_type}_loss" if loss_type in ("simpo", "orpo") else "cpo_loss")
    for options, rows in groups(table, POLICY_CALLS[loss_type]):
        policy = [column(rows, name, dtype, device).requires_grad_() for name in logps]
        out = call(*policy, **options, **lengths_of(rows, device))
        out.losses.backward(torch.ones_like(out.losses))
        results = {"loss": out.losses, "chosen_reward": out.chosen_rewards}
        results |= {"rejected_reward": out.rejected_rewards}
        assert_promises(rows, results | {"d_chosen": policy[0].grad, "d_rejected": policy[1].grad})


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("loss_type", names_of(UNPAIRED))
def test_losses_of_single_responses_keep_the_promises(loss_type, dtype, device):
    table = [row for row in UNPAIRED if row["loss_type"] == loss_type]
    table = representable(table, ["policy", "ref", "kl"], dtype)
    assert len(table) > 100
    weights = ["desirable_weight", "undesirable_weight"]
    for options, rows in groups(table, ["loss_type", "beta", *weights, "kl"]):
        kl = options.pop("kl", None)
        policy = column(rows, "policy", dtype, device).requires_grad_()
        out = selm_core.kto_loss(
            policy,
            column(rows, "ref", dtype, device),
            column(rows, "desirable", torch.bool, device),
            None if kl is None else torch.tensor(kl, dtype=dtype, device=device),
            **options,
        )
        out.losses.backward(torch.ones_like(out.losses))
        assert_promises(rows, {"loss": out.losses, "reward": out.rewards, "d_policy": policy.grad})


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_keep_the_promises(kind, dtype, device):
    rows = [row for row in read_table("kl") if row["kind"] == kind]
    rows = representable(rows, ["policy", "ref"], dtype)
    policy = column(rows, "policy", dtype, device).requires_grad_()
    out = selm_core.kl_estimate(policy, column(rows, "ref", dtype, device), kind=kind)
    out.sum().backward()
    assert_promises(rows, {"estimate": out, "d_policy": policy.grad})


@pytest.mark.parametrize("dtype", TYPES)
def test_rewards_and_bonus_keep_the_promises(dtype, device):
    """The functions of one log-ratio, on the same table as the losses."""
    table = representable(PREFERENCES, LOGPS, dtype)
    for options, rows in groups(table, ["beta", *EXPLORATION_OPTIONS]):
        policy, ref = (
            column(rows, f"{side}_response", dtype, device) for side in ("policy", "ref")
        )
        policy.requires_grad_()
        beta, kind = options["beta"], options["exploration"]
        rewards = selm_core.implicit_rewards(policy, ref, beta=beta)
        clip = options.get("logratio_clip")
        bonus = selm_core.exploration_bonus(
            policy,
            None if kind == "xpo" and clip is None else ref,
            alpha=options["alpha"],
            beta=None if kind == "xpo" else beta,
            kind=kind,
            logratio_clip=clip,
        )
        bonus.backward(torch.ones_like(bonus))
        assert_promises(
            rows,
            {"response_reward": rewards, "exploration_term": bonus, "d_response": policy.grad},
        )


def test_documented_example():
    """The golden numbers that docs/losses.md prints."""
    logps = {
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in {
            "policy_chosen": -10.0,
            "policy_rejected": -12.0,
            "ref_chosen": -11.0,
            "ref_rejected": -11.5,
        }.items()
    }
    pair = [
        logps[name] for name in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    ]
    lengths = {"chosen_lengths": torch.tensor([8]), "rejected_lengths": torch.tensor([10])}

    def loss(**options):
        return selm_core.dpo_loss(*pair, beta=0.1, **options).losses.item()

    assert loss() == pytest.approx(0.6209570478, abs=5e-11)
    assert loss(loss_type="hinge") == pytest.approx(0.85, abs=5e-11)
    assert loss(loss_type="ipo", **lengths) == pytest.approx(23.280625, abs=5e-11)
    assert loss(label_smoothing=0.1) == pytest.approx(0.6359570478, abs=5e-11)
    response = [torch.tensor([value], dtype=torch.float64) for value in (-9.0, -9.5)]
    selm = selm_core.selm_loss(*pair[:2], response[0], *pair[2:], response[1], alpha=1e-3, beta=0.1)
    assert selm.losses.item() == pytest.approx(0.6210070478, abs=5e-11)
    for kind, value in {"k1": 0.5, "k2": 0.125, "k3": 0.1065306597}.items():
        assert selm_core.kl_estimate(*response, kind=kind).item() == pytest.approx(value, abs=5e-11)
