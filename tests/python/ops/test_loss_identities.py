"""What the mathematics says about the losses, whatever the numbers."""

import math

import pytest
import selm_core
import torch
from references import assert_same_bits

TYPES = [torch.float32, torch.float64]
LOSSES = ["sigmoid", "hinge", "ipo"]


def logps(count, device, dtype=torch.float64):
    return -100 * torch.rand(count, dtype=dtype, device=device)


def lengths_for(loss_type, count, device):
    if loss_type != "ipo":
        return {}
    return {
        name: torch.randint(1, 500, (count,), device=device)
        for name in ("chosen_lengths", "rejected_lengths")
    }


def gradients(loss, inputs):
    return torch.autograd.grad(loss.sum(), inputs, retain_graph=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("exploration", ["selm", "xpo"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_alpha_zero_is_dpo_bit_for_bit(loss_type, exploration, dtype, device):
    policy = [logps(100, device, dtype).requires_grad_() for _ in range(3)]
    ref = [logps(100, device, dtype) for _ in range(3)]
    with torch.no_grad():  # pairs far apart, where a loss underflows to zero
        policy[0][:5] -= 5000
        policy[1][5:10] -= 5000
        policy[2][10:12] = -math.inf
    options = {"beta": 0.5, "loss_type": loss_type, **lengths_for(loss_type, 100, device)}
    dpo = selm_core.dpo_loss(*policy[:2], *ref[:2], **options)
    selm = selm_core.selm_loss(*policy, *ref, alpha=0.0, exploration=exploration, **options)
    without = selm_core.selm_loss(
        *policy[:2], None, *ref[:2], None, alpha=0.0, exploration=exploration, **options
    )
    for out in (selm, without):
        assert_same_bits(out.losses, dpo.losses)
        assert_same_bits(out.dpo_losses, dpo.losses)
        assert_same_bits(out.chosen_rewards, dpo.chosen_rewards)
        assert_same_bits(out.rejected_rewards, dpo.rejected_rewards)
        assert_same_bits(out.exploration, torch.zeros_like(dpo.losses))
        for ours, theirs in zip(
            gradients(out.losses, policy[:2]), gradients(dpo.losses, policy[:2]), strict=True
        ):
            assert_same_bits(ours, theirs)
    assert without.response_rewards is None
    assert_same_bits(gradients(selm.losses, policy[2:])[0], torch.zeros_like(policy[2]))


def test_the_losses_of_certain_pairs_are_positive_zero():
    sure, hopeless = torch.zeros(1), torch.tensor([-1e5])
    out = selm_core.dpo_loss(sure, hopeless, hopeless, sure, beta=1.0)
    assert math.copysign(1.0, out.losses.item()) == 1.0


@pytest.mark.parametrize(("exploration", "slope"), [("selm", 0.3 * 0.05), ("xpo", 0.3)])
def test_exploration_lowers_the_likelihood_of_the_response(exploration, slope, device):
    """The sign trap: the term is added, so that descent makes the response less likely."""
    policy = [logps(10, device).requires_grad_() for _ in range(3)]
    ref = [logps(10, device) for _ in range(3)]
    for alpha, sign in ((0.3, 1), (-0.3, -1)):
        out = selm_core.selm_loss(*policy, *ref, alpha=alpha, beta=0.05, exploration=exploration)
        (grad,) = gradients(out.losses, policy[2:])
        torch.testing.assert_close(grad, torch.full_like(grad, sign * slope), rtol=1e-15, atol=0)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_xpo_is_selm_with_its_alpha_times_beta(loss_type, device):
    policy = [logps(50, device).requires_grad_() for _ in range(3)]
    ref = [logps(50, device) for _ in range(3)]
    beta, alpha = 0.01, 1e-3  # the paper's; XPO's alpha would be an overdose of 100 if it were 1e-3
    options = {"beta": beta, "loss_type": loss_type, **lengths_for(loss_type, 50, device)}
    selm = selm_core.selm_loss(*policy, *ref, alpha=alpha, **options)
    xpo = selm_core.selm_loss(*policy, *ref, alpha=alpha * beta, exploration="xpo", **options)
    for ours, theirs in zip(
        gradients(selm.losses, policy), gradients(xpo.losses, policy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=0)
    constant = alpha * beta * ref[2]
    torch.testing.assert_close(xpo.losses - selm.losses, constant, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_selm_is_the_sum_of_its_parts(loss_type, device):
    policy, ref = ([logps(50, device) for _ in range(3)] for _ in range(2))
    options = {"beta": 0.1, "loss_type": loss_type, **lengths_for(loss_type, 50, device)}
    out = selm_core.selm_loss(*policy, *ref, alpha=0.2, **options)
    bonus = selm_core.exploration_bonus(policy[2], ref[2], alpha=0.2, beta=0.1)
    assert_same_bits(out.exploration, bonus)
    assert_same_bits(out.losses, out.dpo_losses + out.exploration)
    for name, index in {"chosen": 0, "rejected": 1, "response": 2}.items():
        rewards = selm_core.implicit_rewards(policy[index], ref[index], beta=0.1)
        assert_same_bits(getattr(out, f"{name}_rewards"), rewards)


def test_dpo_at_the_reference_is_log_two(device):
    x, y = logps(20, device), logps(20, device)
    for smoothing in (0.0, 0.1, 0.5):
        out = selm_core.dpo_loss(x, y, x, y, beta=0.7, label_smoothing=smoothing)
        torch.testing.assert_close(out.losses, torch.full_like(x, math.log(2)), rtol=2e-16, atol=0)
        assert_same_bits(out.chosen_rewards, torch.zeros_like(x))


def test_swapping_the_pair_mirrors_the_sigmoid_loss(device):
    """loss(delta) - loss(-delta) = -beta delta, and the smoothed loss mixes the two."""
    w, lo, ref_w, ref_l = (logps(50, device) for _ in range(4))
    beta, e = 0.1, 0.3
    kept = selm_core.dpo_loss(w, lo, ref_w, ref_l, beta=beta)
    flipped = selm_core.dpo_loss(lo, w, ref_l, ref_w, beta=beta)
    margin = kept.chosen_rewards - kept.rejected_rewards
    torch.testing.assert_close(kept.losses - flipped.losses, -margin, rtol=1e-13, atol=1e-14)
    smoothed = selm_core.dpo_loss(w, lo, ref_w, ref_l, beta=beta, label_smoothing=e)
    mixed = (1 - e) * kept.losses + e * flipped.losses
    torch.testing.assert_close(smoothed.losses, mixed, rtol=1e-14, atol=1e-15)


def test_ipo_ignores_the_duplication_of_tokens(device):
    """Every token twice: log-probabilities and lengths double, averages stay."""
    terms = [logps(20, device) for _ in range(4)]
    lengths = lengths_for("ipo", 20, device)
    once = selm_core.dpo_loss(*terms, loss_type="ipo", **lengths)
    twice = selm_core.dpo_loss(
        *(2 * x for x in terms), loss_type="ipo", **{k: 2 * v for k, v in lengths.items()}
    )
    torch.testing.assert_close(once.losses, twice.losses, rtol=1e-13, atol=0)


def finite_policies(device):
    """Log-probabilities of a policy and a reference over 40 responses each."""
    return (torch.randn(40, dtype=torch.float64, device=device).log_softmax(0) for _ in range(2))


def test_rewards_are_normalised(device):
    """E_ref[exp(r / beta)] = 1 = E_pi[exp(-r / beta)]; their means are divergences, with signs."""
    policy, ref = finite_policies(device)
    beta = 0.3
    r = selm_core.implicit_rewards(policy, ref, beta=beta)
    assert (ref.exp() * (r / beta).exp()).sum().item() == pytest.approx(1, rel=1e-13)
    assert (policy.exp() * (-r / beta).exp()).sum().item() == pytest.approx(1, rel=1e-13)
    forward = torch.nn.functional.kl_div(policy, ref, log_target=True, reduction="sum")
    backward = torch.nn.functional.kl_div(ref, policy, log_target=True, reduction="sum")
    assert (ref.exp() * r).sum().item() == pytest.approx(-beta * forward.item(), rel=1e-12)
    assert (policy.exp() * r).sum().item() == pytest.approx(beta * backward.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_unbiased_kl_estimators_have_the_divergence_as_their_mean(kind, device):
    policy, ref = finite_policies(device)
    estimates = selm_core.kl_estimate(policy, ref, kind=kind)
    exact = torch.nn.functional.kl_div(ref, policy, log_target=True, reduction="sum")
    assert (policy.exp() * estimates).sum().item() == pytest.approx(exact.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_divergence_estimates_are_never_negative(kind, device):
    policy = logps(1000, device, torch.float32)
    close = (policy + 1e-4 * torch.randn_like(policy)).clamp(max=0)
    for ref in (logps(1000, device, torch.float32), close, policy):
        assert (selm_core.kl_estimate(policy, ref, kind=kind) >= 0).all()


def test_exploration_on_a_tabular_softmax(device):
    """d / d theta_k E_ref[log pi] = ref(k) - pi(k), through the operator's own gradient."""
    theta = torch.randn(30, dtype=torch.float64, device=device, requires_grad=True)
    ref = torch.randn(30, dtype=torch.float64, device=device).log_softmax(0)
    bonus = selm_core.exploration_bonus(theta.log_softmax(0), ref, alpha=0.5, beta=0.2)
    (grad,) = torch.autograd.grad((ref.exp() * bonus).sum(), theta)
    expected = 0.5 * 0.2 * (ref.exp() - theta.detach().softmax(0))
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-16)


def test_gradients_do_not_depend_on_the_split_into_micro_batches(device):
    policy = [logps(12, device).requires_grad_() for _ in range(3)]
    ref = [logps(12, device) for _ in range(3)]

    def step(rows):
        out = selm_core.selm_loss(
            *(x[rows] for x in policy), *(x[rows] for x in ref), alpha=0.1, beta=0.1
        )
        return gradients(out.losses, policy)

    whole = step(slice(0, 12))
    parts = [step(rows) for rows in (slice(0, 1), slice(1, 8), slice(8, 12))]
    for index, grad in enumerate(whole):
        assert_same_bits(grad, sum(part[index] for part in parts))


def test_reward_margins_and_accuracies(device):
    chosen = torch.tensor([1.0, -2.0, 0.5, float("nan")], device=device)
    rejected = torch.tensor([0.5, 3.0, 0.5, 0.0], device=device)
    assert_same_bits(selm_core.reward_margins(chosen, rejected), chosen - rejected)
    accuracies = selm_core.reward_accuracies(chosen, rejected)
    assert_same_bits(accuracies, torch.tensor([1.0, 0.0, 0.0, 0.0], device=device))


def test_a_sum_has_room_for_every_loss(device):
    """And a loss that is named twice counts twice."""
    names = ["sigmoid", "hinge", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"]
    names += ["aot_unpaired", "apo_zero", "apo_down", "discopop", "dpop", "sigmoid"]
    pair = [logps(8, device) for _ in range(4)]
    weights = [0.5 + k for k in range(len(names))]
    together = selm_core.dpo_loss(*pair, loss_type=names, loss_weights=weights).losses
    each = [selm_core.dpo_loss(*pair, loss_type=name).losses for name in names]
    expected = sum(weight * losses for weight, losses in zip(weights, each, strict=True))
    torch.testing.assert_close(together, expected, rtol=1e-13, atol=1e-12)
