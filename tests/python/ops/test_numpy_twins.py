"""What selm_core.numpy shares with tensors and is no operator: the same results and errors."""

import math

import numpy as np
import pytest
import selm_core
import selm_core.numpy
import torch

inf, nan = math.inf, math.nan
TYPES = [torch.float32, torch.float64]


def random_logps(seed, *shape, dtype=torch.float64):
    return -8 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def token_cases(dtype):
    """Random tokens; tokens that are infinite, and garbage where masked; nothing at all."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(7, 33, generator=generator) < 0.7
    mask[2] = False
    shared = torch.randint(0, 30, (7,), generator=generator)
    yield random_logps(1, 7, 33, dtype=dtype), random_logps(2, 7, 33, dtype=dtype), mask, shared
    policy = torch.tensor([[nan, -1.0, -inf, 5.0], [-inf, -0.0, -3.0, nan]], dtype=dtype)
    ref = torch.tensor([[inf, -2.0, -1.0, nan], [-inf, -1e-30, -inf, -1.0]], dtype=dtype)
    edges = torch.tensor([[False, True, True, False], [True, True, True, False]])
    yield policy, ref, edges, torch.tensor([1, 0])
    for rows, time in ((0, 4), (3, 0)):
        none = torch.zeros(rows, time, dtype=dtype)
        yield none, none, none.bool(), torch.zeros(rows, dtype=torch.int64)


def calls(dtype):
    for policy, ref, mask, shared in token_cases(dtype):
        yield "masked_sum", (policy, mask), {}
        yield "masked_mean", (policy, mask), {}
        for ld_alpha in (0.0, 0.3, 1.0):
            yield "length_desensitized_logps", (policy, mask, shared), {"ld_alpha": ld_alpha}
        yield "wpo_weights", (policy, ref, mask), {}
        yield "token_rewards", (policy, ref, mask), {"beta": 0.1}
        yield "prefix_rewards", (policy, ref, mask), {"beta": 0.1}
    rewards = random_logps(4, 40, dtype=dtype) + 4
    prompts = torch.randint(0, 9, (40,), generator=torch.Generator().manual_seed(5))
    yield "center_rewards", (rewards, prompts), {}
    yield "center_rewards", (rewards[:0], prompts[:0]), {}
    for shape in ((6,), (2, 3), (2, 3, 5), (0, 3)):
        ref, other = random_logps(6, *shape, dtype=dtype), random_logps(7, *shape, dtype=dtype)
        yield "implicit_reward_difference", (ref, other), {"beta": 0.3}
        yield "log_partition", (ref, other + 4), {"beta": 0.3}
        for log_z in (0.7, other[..., 0], other + 1):
            yield (
                "policy_logps_from_rewards",
                (other + 4, ref),
                {"beta": 0.3, "log_partition": log_z},
            )
    row = torch.tensor([[-inf, -1.0, -2.0], [-inf, -inf, -inf]], dtype=dtype)
    yield "log_partition", (row, torch.zeros_like(row)), {"beta": 1.0}


def as_array(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_and_tensors_give_the_same(dtype):
    """Within the last digits of float64, in which both compute."""
    for name, given, options in calls(dtype):
        expected = getattr(selm_core, name)(*given, **options).numpy()
        got = getattr(selm_core.numpy, name)(
            *map(as_array, given), **{key: as_array(value) for key, value in options.items()}
        )
        assert got.dtype == expected.dtype, name
        assert got.shape == expected.shape, name
        unit = np.finfo(got.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=16 * unit, atol=1e-14, err_msg=name)


TOKENS, MASK, COUNTS = -torch.ones(3, 5), torch.ones(3, 5, dtype=torch.bool), torch.ones(3).long()
POSITIVE = TOKENS.clone()
POSITIVE[1, 1] = 0.5
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
    "prefix_rewards": {
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


def mistakes():
    for name, given in GIVEN.items():
        for argument, value in given.items():
            if not isinstance(value, torch.Tensor):
                bad_numbers = ("x", nan, True) if argument == "log_partition" else ("x", nan, -1.0)
                yield from ((name, argument, bad) for bad in bad_numbers)
                continue
            yield from ((name, argument, bad) for bad in (value.int(), value[:2]))
            if argument.endswith(("logps", "probs")):
                yield name, argument, POSITIVE
    yield "length_desensitized_logps", "shared_lengths", COUNTS - 4
    yield "center_rewards", "prompts", COUNTS - 2
    yield "policy_logps_from_rewards", "log_partition", TOKENS[:2, 0]
    yield "policy_logps_from_rewards", "log_partition", TOKENS.double()


def refusal(module, name, given):
    try:
        getattr(module, name)(**given)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize(("name", "argument", "value"), list(mistakes()))
def test_arrays_and_tensors_are_refused_alike(name, argument, value):
    """The same error, but for what only one of them has: a dtype and a device after a shape."""
    given = GIVEN[name] | {argument: value}
    tensors = refusal(selm_core, name, given)
    arrays = refusal(selm_core.numpy, name, {key: as_array(x) for key, x in given.items()})
    assert tensors is not None
    assert arrays is not None
    assert arrays[0] is tensors[0]
    # A float prints its whole number without ".0" in C++.
    written = (
        tensors[1].split(" (float32, cpu)")[0].split(" (int64, cpu)")[0].split(" (bool, cpu)")[0]
    )
    assert arrays[1] in (written, written.removesuffix(".0"), written.replace("(int32, cpu)", ""))
