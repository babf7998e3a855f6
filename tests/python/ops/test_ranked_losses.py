"""Losses that rank the batch, against torch's own sort and differentiation (arXiv 2406.05882)."""

import pytest
import selm_core
import torch

BETA = 0.3


def ranked(policy_chosen, policy_rejected, ref_chosen, ref_rejected, loss_type):
    """Differences of separately sorted quantities; losses by rank."""
    if loss_type == "aot":
        upper, lower = policy_chosen - policy_rejected, ref_chosen - ref_rejected
    else:
        upper, lower = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    return torch.sort(upper, stable=True).values - torch.sort(lower, stable=True).values


def smoothed(differences, label_smoothing):
    kept, flipped = (-torch.nn.functional.logsigmoid(s * BETA * differences) for s in (1, -1))
    return (1 - label_smoothing) * kept + label_smoothing * flipped


def logps(batch, dtype, device):
    return [torch.randn(batch, dtype=dtype, device=device) * 5 - 40 for _ in range(4)]


@pytest.mark.parametrize("loss_type", ["aot", "aot_unpaired"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_ranked_losses_are_those_of_sorted_differences(loss_type, label_smoothing, batch, device):
    values = logps(batch, torch.float64, device)
    upstream = torch.randn(batch, dtype=torch.float64, device=device)
    ours, theirs = ([v.clone().requires_grad_() for v in values[:2]] for _ in range(2))
    out = selm_core.dpo_loss(
        *ours, *values[2:], beta=BETA, loss_type=loss_type, label_smoothing=label_smoothing
    )
    expected = smoothed(ranked(*theirs, *values[2:], loss_type), label_smoothing)
    torch.testing.assert_close(out.losses, expected, rtol=1e-13, atol=0)
    out.losses.backward(upstream)
    expected.backward(upstream)
    for got, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got.grad, exact.grad, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("loss_type", ["aot", "aot_unpaired"])
def test_ties_keep_the_order_of_their_rows(loss_type, device):
    values = [torch.zeros(3, dtype=torch.float64, device=device) for _ in range(4)]
    values[3] = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, device=device)
    policy = [v.clone().requires_grad_() for v in values[:2]]
    losses = selm_core.dpo_loss(*policy, *values[2:], beta=BETA, loss_type=loss_type).losses
    losses[0].backward()  # that of rank 0, where row 0 comes to stand among equals
    assert policy[0].grad.nonzero().flatten().tolist() == [0]


def test_ranked_losses_in_a_sum_keep_their_weight(device):
    values = logps(7, torch.float64, device)
    alone = [
        selm_core.dpo_loss(*values, beta=BETA, loss_type=name).losses for name in ("aot", "hinge")
    ]
    both = selm_core.dpo_loss(
        *values, beta=BETA, loss_type=["aot", "hinge"], loss_weights=[0.5, 2.0]
    ).losses
    torch.testing.assert_close(both, 0.5 * alone[0] + 2.0 * alone[1], rtol=1e-14, atol=0)
