"""Losses, rewards and estimates against the exact tables of tests/data."""

import math

import pytest
import selm_core
import torch
from golden import broken_promises, read_table, representable

LOGPS = [
    f"{side}_{name}" for side in ("policy", "ref") for name in ("chosen", "rejected", "response")
]
OPTIONS = ["loss_type", "beta", "label_smoothing", "exploration", "alpha"]
TYPES = [torch.float32, torch.float64]


def column(rows, name, dtype, device="cpu"):
    return torch.tensor([row[name] for row in rows], dtype=dtype, device=device)


def groups(rows, names):
    """Rows that share the options, which are arguments of a whole batch."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return [(dict(zip(names, options, strict=True)), rows) for options, rows in found.items()]


def assert_promises(rows, results):
    """`results`: by table column."""
    for name, got in results.items():
        exact, scale = (
            column(rows, key, torch.float64, got.device) for key in (name, f"{name}_scale")
        )
        broken = [
            i for i in broken_promises(got.detach(), exact, scale) if is_promised(name, rows[i])
        ]
        assert not broken, [(name, got[i].item(), rows[i]) for i in broken[:3]]


def is_promised(name, row):
    """Everything but the gradient of a loss that has no value."""
    return name not in ("d_chosen", "d_rejected") or not math.isnan(row["dpo_loss"])


def selm_results(rows, options, dtype, device):
    """Every output and gradient of selm_loss, under the names of the table's columns."""
    x = {name: column(rows, name, dtype, device) for name in LOGPS}
    policy = [x[f"policy_{name}"].requires_grad_() for name in ("chosen", "rejected", "response")]
    ref = [x[f"ref_{name}"] for name in ("chosen", "rejected", "response")]
    if options["loss_type"] == "ipo":
        lengths = {
            f"{side}_lengths": column(rows, f"{side}_length", torch.int64, device)
            for side in ("chosen", "rejected")
        }
    else:
        lengths = {}
    out = selm_core.selm_loss(*policy, *ref, **options, **lengths)
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
@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo"])
def test_losses_keep_the_promises(loss_type, dtype, device):
    table = [
        row
        for row in read_table("preference")
        if row["loss_type"] == loss_type and representable(row, LOGPS, dtype)
    ]
    assert len(table) > 100
    for options, rows in groups(table, OPTIONS):
        assert_promises(rows, selm_results(rows, options, dtype, device))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_keep_the_promises(kind, dtype, device):
    rows = [row for row in read_table("kl") if row["kind"] == kind]
    rows = [row for row in rows if representable(row, ["policy", "ref"], dtype)]
    policy = column(rows, "policy", dtype, device).requires_grad_()
    out = selm_core.kl_estimate(policy, column(rows, "ref", dtype, device), kind=kind)
    out.sum().backward()
    assert_promises(rows, {"estimate": out, "d_policy": policy.grad})


@pytest.mark.parametrize("dtype", TYPES)
def test_rewards_and_bonus_keep_the_promises(dtype, device):
    """The functions of one log-ratio, on the same table as the losses."""
    table = [row for row in read_table("preference") if representable(row, LOGPS, dtype)]
    for options, rows in groups(table, ["beta", "exploration", "alpha"]):
        policy, ref = (
            column(rows, f"{side}_response", dtype, device) for side in ("policy", "ref")
        )
        policy.requires_grad_()
        beta, kind = options["beta"], options["exploration"]
        rewards = selm_core.implicit_rewards(policy, ref, beta=beta)
        uses_reference = kind == "selm"
        bonus = selm_core.exploration_bonus(
            policy,
            ref if uses_reference else None,
            alpha=options["alpha"],
            beta=beta if uses_reference else None,
            kind=kind,
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
