"""Functions of token log-probabilities, rewards of prompts and schedules, each against its definition."""

import math

import pytest
import selm_core
import torch
from torch._subclasses import FakeTensorMode

MASK = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


def tokens(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logps = -torch.rand(MASK.shape, generator=generator, dtype=dtype) * 5
    logps[~MASK] = math.nan  # never read
    return logps.requires_grad_()


def responses(values):
    """The values of each response's tokens, as lists."""
    return [row[mask].tolist() for row, mask in zip(values.detach(), MASK, strict=True)]


def test_sums_and_means():
    logps = tokens(0)
    exact = [math.fsum(row) for row in responses(logps)]
    assert selm_core.masked_sum(logps, MASK).tolist() == pytest.approx(exact, rel=1e-15)
    means = [total / max(n, 1) for total, n in zip(exact, MASK.sum(1).tolist(), strict=True)]
    assert selm_core.masked_mean(logps, MASK).tolist() == pytest.approx(means, rel=1e-15)
    selm_core.masked_sum(logps, MASK).sum().backward()
    assert torch.equal(logps.grad, MASK.double())


def test_a_long_float32_sum_is_rounded_once():
    logps = -torch.rand(1, 32_768, generator=torch.Generator().manual_seed(1))
    exact = torch.tensor(math.fsum(logps[0].tolist()))
    assert selm_core.masked_sum(logps, torch.ones_like(logps, dtype=torch.bool)) == exact


@pytest.mark.parametrize("ld_alpha", [0.0, 0.3, 1.0])
def test_tokens_beyond_the_shared_length_count_ld_alpha(ld_alpha):
    logps, shared = tokens(2), torch.tensor([2, 1, 0])
    got = selm_core.length_desensitized_logps(logps, MASK, shared, ld_alpha=ld_alpha)
    exact = [
        math.fsum(row[:n]) + ld_alpha * math.fsum(row[n:])
        for row, n in zip(responses(logps), shared.tolist(), strict=True)
    ]
    assert got.tolist() == pytest.approx(exact, rel=1e-15)
    assert torch.autograd.gradcheck(
        lambda x: selm_core.length_desensitized_logps(
            torch.where(MASK, x, 0.0), MASK, shared, ld_alpha=ld_alpha
        ),
        (-1 - torch.rand(MASK.shape, dtype=torch.float64)).requires_grad_(),
    )


def test_an_infinite_excess_token_does_not_count_without_weight():
    logps = torch.tensor([[-1.0, -math.inf]])
    mask = torch.ones_like(logps, dtype=torch.bool)
    shared = torch.tensor([1])
    got = selm_core.length_desensitized_logps(logps, mask, shared, ld_alpha=0.0)
    assert got.tolist() == [-1.0]


def test_wpo_weights_and_that_they_carry_no_gradient():
    logps, sum_sq = tokens(3), tokens(4)
    got = selm_core.wpo_weights(logps, sum_sq, MASK)
    exact = [
        math.exp(sum(a - b for a, b in zip(p, q, strict=True)) / max(len(p), 1))
        for p, q in zip(responses(logps), responses(sum_sq), strict=True)
    ]
    assert got.tolist() == pytest.approx(exact, rel=1e-14)
    assert not got.requires_grad


def test_token_rewards_add_up_to_the_implicit_reward():
    policy, ref = tokens(5), tokens(6).detach()
    rewards = selm_core.token_rewards(policy, ref, MASK, beta=0.3)
    prefixes = selm_core.prefix_rewards(policy, ref, MASK, beta=0.3)
    whole = selm_core.implicit_rewards(
        selm_core.masked_sum(policy, MASK), selm_core.masked_sum(ref, MASK), beta=0.3
    )
    torch.testing.assert_close(prefixes[:, -1], whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prefixes, rewards.cumsum(1), rtol=1e-12, atol=1e-12)
    assert (rewards[~MASK] == 0).all()
    rewards.sum().backward()
    torch.testing.assert_close(policy.grad, 0.3 * MASK.double())


def test_token_level_results_of_float32_are_rounded_once():
    """Float64 of the same numbers is the oracle."""
    generator = torch.Generator().manual_seed(8)
    policy, ref = (-10 * torch.rand(2, 5000, generator=generator) for _ in range(2))
    mask, shared = torch.rand(2, 5000, generator=generator) < 0.9, torch.tensor([9, 2000])
    for call in (
        lambda p, r: selm_core.token_rewards(p, r, mask, beta=0.1),
        lambda p, r: selm_core.prefix_rewards(p, r, mask, beta=0.1),
        lambda p, r: selm_core.wpo_weights(p, r, mask),
        lambda p, r: selm_core.length_desensitized_logps(p, mask, shared, ld_alpha=0.3),
    ):
        assert torch.equal(call(policy, ref), call(policy.double(), ref.double()).float())


def test_values_are_not_read_where_there_are_none():
    """Fake tensors and those that are traced for torch.compile."""
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(TOKENS)
        mask = mode.from_tensor(MASK)
        assert selm_core.token_rewards(fake, fake, mask, beta=0.1).shape == TOKENS.shape
    compiled = torch.compile(selm_core.masked_sum, backend="eager", fullgraph=True)
    assert torch.equal(compiled(TOKENS, MASK), selm_core.masked_sum(TOKENS, MASK))


def test_positive_values_that_are_masked_are_not_read():
    mask = torch.ones_like(MASK)
    mask[1, 1] = False
    assert selm_core.masked_sum(POSITIVE, mask).tolist() == [-5.0, -4.0, -5.0]


def test_rewards_and_policies_determine_each_other():
    generator = torch.Generator().manual_seed(7)
    ref = torch.randn(3, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    rewards = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    log_z = selm_core.log_partition(ref, rewards, beta=0.5)
    exact = [
        math.log(sum(math.exp(p + r / 0.5) for p, r in zip(*rows, strict=True)))
        for rows in zip(ref.tolist(), rewards.tolist(), strict=True)
    ]
    assert log_z.tolist() == pytest.approx(exact, rel=1e-14)
    policy = selm_core.policy_logps_from_rewards(rewards, ref, beta=0.5, log_partition=log_z)
    torch.testing.assert_close(policy.logsumexp(-1), torch.zeros(3, dtype=torch.float64))
    back = selm_core.implicit_rewards(policy, ref, beta=0.5) + 0.5 * log_z.unsqueeze(-1)
    torch.testing.assert_close(back, rewards)
    inverse = selm_core.policy_logps_from_rewards(rewards - 9, ref, beta=2.0, log_partition=0.0)
    torch.testing.assert_close(selm_core.implicit_rewards(inverse, ref, beta=2.0), rewards - 9)


def test_centred_rewards_do_not_know_their_prompts_constant():
    rewards = torch.tensor([1.0, 2.0, 30.0, 6.0], dtype=torch.float64)
    prompts = torch.tensor([7, 7, 3, 7])
    assert selm_core.center_rewards(rewards, prompts).tolist() == [-2.0, -1.0, 0.0, 3.0]
    shifted = rewards + 5.0 * prompts
    assert torch.equal(
        selm_core.center_rewards(shifted, prompts), selm_core.center_rewards(rewards, prompts)
    )


def test_the_reference_cancels_in_a_difference_of_rewards():
    ours, other, ref = (
        -torch.rand(5, generator=torch.Generator().manual_seed(s)) for s in (1, 2, 3)
    )
    got = selm_core.implicit_reward_difference(ours, other, beta=0.2)
    by_rewards = selm_core.implicit_rewards(ours, ref, beta=0.2) - selm_core.implicit_rewards(
        other, ref, beta=0.2
    )
    torch.testing.assert_close(got, by_rewards)


def test_schedules():
    def at(progress, **options):
        return selm_core.alpha_at(progress, alpha=0.8, **options)

    assert at(0.3) == 0.8
    assert [at(p, schedule="linear") for p in (0.0, 0.5, 1.0)] == pytest.approx([0.8, 0.4, 0.0])
    assert [at(p, schedule="cosine", final_alpha=0.2) for p in (0.0, 1 / 3, 1.0)] == pytest.approx(
        [0.8, 0.65, 0.2]
    )
    for bad in (
        {"progress": 1.1},
        {"schedule": "step"},
        {"final_alpha": 0.1},
        {"alpha": math.nan},
        {"schedule": "linear", "final_alpha": math.inf},
    ):
        with pytest.raises(ValueError, match=next(reversed(bad))):
            selm_core.alpha_at(**{"progress": 0.0, "alpha": 1.0, **bad})


def bad(name, argument, value, error, expected, **options):
    return pytest.param(name, {argument: value} | options, argument, error, expected)


TOKENS, COUNTS = -torch.ones(MASK.shape), torch.ones(3, dtype=torch.int64)
GIVEN = {
    "masked_sum": {"token_logps": TOKENS, "mask": MASK},
    "masked_mean": {"token_logps": TOKENS, "mask": MASK},
    "length_desensitized_logps": {
        **{"token_logps": TOKENS, "mask": MASK, "shared_lengths": COUNTS},
        "ld_alpha": 0.5,
    },
    "wpo_weights": {"token_logps": TOKENS, "log_sum_sq_probs": TOKENS, "mask": MASK},
    "token_rewards": {
        **{"policy_token_logps": TOKENS, "ref_token_logps": TOKENS, "mask": MASK},
        "beta": 0.1,
    },
    "implicit_reward_difference": {"logps": TOKENS, "other_logps": TOKENS, "beta": 0.1},
    "center_rewards": {"rewards": TOKENS[:, 0], "prompts": COUNTS},
    "log_partition": {"ref_logps": TOKENS, "rewards": TOKENS, "beta": 0.1},
    "policy_logps_from_rewards": {
        **{"rewards": TOKENS, "ref_logps": TOKENS},
        **{"beta": 0.1, "log_partition": 0.0},
    },
}
GIVEN["prefix_rewards"] = GIVEN["token_rewards"]
POSITIVE = TOKENS.clone()
POSITIVE[1, 1] = 0.5
FINITE = "to be a finite number, got "
GRAD = (
    "not to require grad, got a tensor that does: the reference policy is fixed; compute it under "
    "torch.no_grad() or detach it"
)
FLOATS, AS_TOKENS = "to be float32 or float64", "(same as 'token_logps')"


@pytest.mark.parametrize(
    ("name", "changed", "argument", "error", "expected"),
    [
        bad("masked_sum", "token_logps", None, TypeError, "to be a Tensor, got NoneType"),
        bad("masked_sum", "token_logps", TOKENS.half(), TypeError, f"{FLOATS}, got float16"),
        bad(
            *("masked_sum", "token_logps", TOKENS[0], ValueError),
            "to have shape (batch, time), got [5] (float32, cpu)",
        ),
        bad("masked_sum", "mask", MASK.long(), TypeError, "to be bool, got int64"),
        bad(
            *("masked_mean", "mask", MASK[:2], ValueError),
            f"to have shape [3, 5] {AS_TOKENS}, got [2, 5] (bool, cpu)",
        ),
        bad(
            *("masked_mean", "mask", MASK.to("meta"), ValueError),
            f"to be on cpu {AS_TOKENS}, got meta",
        ),
        bad(
            *("wpo_weights", "log_sum_sq_probs", TOKENS[:, :2], ValueError),
            f"to have shape [3, 5] {AS_TOKENS}, got [3, 2] (float32, cpu)",
        ),
        bad(
            *("token_rewards", "ref_token_logps", TOKENS.double(), TypeError),
            "to be float32 (same as 'policy_token_logps'), got float64",
        ),
        *(
            bad(name, argument, TOKENS.clone().requires_grad_(), ValueError, GRAD)
            for name, argument in (
                *(("token_rewards", "ref_token_logps"), ("prefix_rewards", "ref_token_logps")),
                ("implicit_reward_difference", "other_logps"),
            )
        ),
        *(
            bad(
                name,
                argument,
                POSITIVE,
                ValueError,
                "to hold log-probabilities <= 0, got 0.5 at [6]",
            )
            for name, given in GIVEN.items()
            for argument in given
            if argument.endswith(("logps", "log_sum_sq_probs"))
        ),
        *(
            bad(
                "policy_logps_from_rewards", "log_partition", value, ValueError, FINITE + str(value)
            )
            for value in (math.nan, math.inf)
        ),
        bad(
            *("length_desensitized_logps", "shared_lengths", COUNTS - 4, ValueError),
            "to hold lengths >= 0, got -3 at [0]",
        ),
        bad(
            *("center_rewards", "prompts", torch.tensor([0, 2, -1]), ValueError),
            "to hold numbers >= 0, got -1 at [2]",
        ),
        bad("token_rewards", "beta", 0.0, ValueError, "to be a finite number > 0, got 0.0"),
        bad("prefix_rewards", "beta", -1, ValueError, "to be a finite number > 0, got -1.0"),
        bad(
            *("length_desensitized_logps", "ld_alpha", 1.5, ValueError),
            "to be in [0, 1], got 1.5",
        ),
        bad(
            *("length_desensitized_logps", "shared_lengths", COUNTS.int(), TypeError),
            "to be int64, got int32",
        ),
        bad(
            *("length_desensitized_logps", "shared_lengths", COUNTS[:2], ValueError),
            "to have shape [3] (the batch of 'token_logps'), got [2] (int64, cpu)",
            **{"token_logps": TOKENS[:, :0], "mask": MASK[:, :0]},
        ),
        bad(
            *("implicit_reward_difference", "other_logps", TOKENS[:2], ValueError),
            "to have shape [3, 5] (same as 'logps'), got [2, 5] (float32, cpu)",
        ),
        bad("center_rewards", "prompts", torch.zeros(3), TypeError, "to be int64, got float32"),
        bad(
            *("center_rewards", "prompts", COUNTS[:2], ValueError),
            "to have shape [3] (same as 'rewards'), got [2] (int64, cpu)",
        ),
        bad(
            *("center_rewards", "rewards", TOKENS, ValueError),
            "to have shape (batch,), got [3, 5] (float32, cpu)",
        ),
        bad(
            *("log_partition", "rewards", TOKENS.double(), TypeError),
            "to be float32 (same as 'ref_logps'), got float64",
        ),
        bad(
            *("log_partition", "ref_logps", TOKENS[:, :0], ValueError),
            "to hold at least one response, got [3, 0] (float32, cpu)",
            rewards=TOKENS[:, :0],
        ),
        bad(
            *("policy_logps_from_rewards", "log_partition", TOKENS[:2, 0], ValueError),
            "to have shape [3, 5] (same as 'rewards') or [3], got [2] (float32, cpu)",
        ),
        bad(
            *("policy_logps_from_rewards", "log_partition", TOKENS.double(), TypeError),
            "to be float32 (same as 'rewards'), got float64",
        ),
    ],
)
def test_bad_inputs_read_as_the_operators_refusals(name, changed, argument, error, expected):
    with pytest.raises(error) as raised:
        getattr(selm_core, name)(**GIVEN[name] | changed)
    assert str(raised.value) == f"selm::{name}: expected '{argument}' {expected}"
