"""selm_core.numpy against the golden tables, NumPy's own arithmetic, and layouts."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import selm_core.numpy as selm
from golden_rows import (
    EXPLORATION_OPTIONS,
    LOGPS,
    LOSS_OPTIONS,
    by_key,
    groups,
    is_promised,
    lengths_given,
    read_table,
)

DTYPES = [np.float32, np.float64]
Rows = list[dict]


def column(rows: Rows, name: str, dtype: type = np.float64) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=dtype)


def assert_promise(got: np.ndarray, rows: Rows, output: str) -> None:
    """float64: 8u times the condition number; float32: 2 ulp beside that."""
    promised = [is_promised(output, row) for row in rows]
    got, rows = got[promised], [row for row, keep in zip(rows, promised, strict=True) if keep]
    exact, scale = column(rows, output), column(rows, f"{output}_scale")
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    bound = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(exact), scale)[finite]
    bound += 2.0**-1064
    if got.dtype == np.float32:
        bound += 2 * np.spacing(np.abs(rounded[finite]))
    assert np.all(np.abs(got[finite].astype(np.float64) - exact[finite]) <= bound), output


def exact_rows(dtype: type, table: str, names: list[str]) -> Rows:
    """The rows whose inputs are numbers of `dtype`."""
    return [
        row
        for row in read_table(table)
        if all(row[n] is None or float(dtype(row[n])) == row[n] for n in names)
    ]


def calls(dtype: type, table: str, inputs: list[str], options: list[str]) -> list:
    """(options, rows) of every call that the table's rows make."""
    losses = by_key(exact_rows(dtype, table, inputs), lambda row: row["loss_type"])
    return [call for rows in losses for call in groups(rows, options)]


def lengths_of(rows: Rows) -> dict[str, np.ndarray]:
    return {f"{name}s": column(rows, name, np.int64) for name in lengths_given(rows)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_selm_loss_meets_the_golden_table(dtype: type) -> None:
    for options, rows in calls(dtype, "preference", LOGPS, LOSS_OPTIONS + EXPLORATION_OPTIONS):
        out = selm.selm_loss(
            *(column(rows, name, dtype) for name in LOGPS), **options, **lengths_of(rows)
        )
        assert all(array.dtype == dtype and array.shape == (len(rows),) for array in out)
        assert_promise(out.losses, rows, "loss")
        assert_promise(out.dpo_losses, rows, "dpo_loss")
        assert_promise(out.exploration, rows, "exploration_term")
        assert_promise(out.chosen_rewards, rows, "chosen_reward")
        assert_promise(out.rejected_rewards, rows, "rejected_reward")
        assert_promise(out.response_rewards, rows, "response_reward")
        assert_promise(out.grad_chosen_logps, rows, "d_chosen")
        assert_promise(out.grad_rejected_logps, rows, "d_rejected")
        assert_promise(out.grad_response_logps, rows, "d_response")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dpo_loss_is_selm_loss_with_alpha_0(dtype: type) -> None:
    for options, rows in calls(dtype, "preference", LOGPS, LOSS_OPTIONS):
        pairs = [column(rows, name, dtype) for name in LOGPS if not name.endswith("response")]
        dpo = selm.dpo_loss(*pairs, **options, **lengths_of(rows))
        both = selm.selm_loss(
            *pairs[:2], None, *pairs[2:], None, alpha=0.0, **options, **lengths_of(rows)
        )
        assert both.response_rewards is None
        assert both.grad_response_logps is None
        for name in dpo._fields:
            np.testing.assert_array_equal(getattr(dpo, name), getattr(both, name))


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_without_a_reference_meet_the_golden_table(dtype: type) -> None:
    logps = ["policy_chosen", "policy_rejected"]
    own = {
        "simpo": (selm.simpo_loss, ["simpo_gamma", "label_smoothing"]),
        "orpo": (selm.orpo_loss, []),
    }
    other = (selm.cpo_loss, ["loss_type", "label_smoothing"])
    options = ["loss_type", "beta", "label_smoothing", "simpo_gamma"]
    for given, rows in calls(dtype, "policy_losses", logps, options):
        call, names = own.get(given["loss_type"], other)
        keywords = {name: given[name] for name in ("beta", *names)}
        policy = [column(rows, name, dtype) for name in logps]
        out = call(*policy, **keywords, **lengths_of(rows))
        assert_promise(out.losses, rows, "loss")
        assert_promise(out.chosen_rewards, rows, "chosen_reward")
        assert_promise(out.rejected_rewards, rows, "rejected_reward")
        assert_promise(out.grad_chosen_logps, rows, "d_chosen")
        assert_promise(out.grad_rejected_logps, rows, "d_rejected")


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_of_single_responses_meet_the_golden_table(dtype: type) -> None:
    options = ["loss_type", "beta", "desirable_weight", "undesirable_weight", "kl"]
    for given, rows in calls(dtype, "unpaired", ["policy", "ref", "kl"], options):
        out = selm.kto_loss(
            column(rows, "policy", dtype),
            column(rows, "ref", dtype),
            column(rows, "desirable", np.bool_),
            given.pop("kl", None),
            **given,
        )
        assert_promise(out.losses, rows, "loss")
        assert_promise(out.rewards, rows, "reward")
        assert_promise(out.grad_policy_logps, rows, "d_policy")


@pytest.mark.parametrize("dtype", DTYPES)
def test_exploration_bonus_and_rewards_meet_the_golden_table(dtype: type) -> None:
    for options, rows in calls(dtype, "preference", LOGPS, ["beta", *EXPLORATION_OPTIONS]):
        policy, ref = (column(rows, f"{side}_response", dtype) for side in ("policy", "ref"))
        beta, kind, clip = options["beta"], options["exploration"], options.get("logratio_clip")
        bonus = selm.exploration_bonus(
            policy,
            None if kind == "xpo" and clip is None else ref,
            alpha=options["alpha"],
            beta=None if kind == "xpo" else beta,
            kind=kind,
            logratio_clip=clip,
        )
        assert_promise(bonus.bonus, rows, "exploration_term")
        assert_promise(bonus.grad_policy_logps, rows, "d_response")
        assert_promise(selm.implicit_rewards(policy, ref, beta=beta), rows, "response_reward")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimate_meets_the_golden_table(dtype: type, kind: str) -> None:
    rows = [row for row in exact_rows(dtype, "kl", ["policy", "ref"]) if row["kind"] == kind]
    out = selm.kl_estimate(column(rows, "policy", dtype), column(rows, "ref", dtype), kind=kind)
    assert_promise(out.estimates, rows, "estimate")
    assert_promise(out.grad_policy_logps, rows, "d_policy")


def test_partition_and_its_policy_meet_the_golden_table() -> None:
    for row in read_table("partition"):
        beta = float(row["beta"])
        ref, rewards, policy = (
            np.array(str(row[name]).split(), dtype=np.float64)
            for name in ("ref_logps", "rewards", "policy_logps")
        )
        log_partition = selm.log_partition(ref, rewards, beta=beta)
        size = np.abs(rewards / beta).max() + np.abs(ref).max()
        assert log_partition == pytest.approx(float(row["log_partition"]), abs=1e-15 * size)
        got = selm.policy_logps_from_rewards(rewards, ref, beta=beta, log_partition=log_partition)
        np.testing.assert_allclose(got, policy, rtol=0, atol=2e-15 * size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_token_log_probabilities_meet_the_golden_table(dtype: type) -> None:
    eps = np.finfo(dtype).eps
    for row in read_table("token_logps"):
        logits = np.array([str(row["logits"]).split()], dtype=dtype)
        index = np.array([int(row["target"])])
        keywords = {"temperature": float(row["temperature"])}
        with np.errstate(over="ignore"):
            logp, grad = dtype(row["logp"]), np.array([str(row["grad"]).split()], dtype=dtype)
        got = selm.selective_log_softmax(logits, index, **keywords)
        np.testing.assert_allclose(got, [logp], rtol=2 * eps, atol=1e-15)
        got = selm.selective_log_softmax_grad(np.ones(1, dtype), logits, index, **keywords)
        np.testing.assert_allclose(got, grad, rtol=2 * eps + 1e-13, atol=0)


def softmax_logps(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_sequence_logps_are_the_shifted_sums_of_tokens() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(3, 7, 50))
    labels = generator.integers(0, 50, size=(3, 7))
    labels[0, :4] = -100
    labels[2, 1:] = -100
    scored = labels[:, 1:] != -100
    tokens = np.take_along_axis(
        softmax_logps(logits)[:, :-1], np.where(scored, labels[:, 1:], 0)[..., None], -1
    )[..., 0]
    expected = np.where(scored, tokens, 0.0).sum(1)
    np.testing.assert_allclose(selm.sequence_logps(logits, labels), expected, rtol=1e-14)
    average = selm.sequence_logps(logits, labels, average_log_prob=True)
    np.testing.assert_allclose(average, expected / np.maximum(scored.sum(1), 1), rtol=1e-14)


@pytest.mark.parametrize("average", [False, True])
def test_the_sequence_gradient_is_the_slope_of_the_sequence_logps(average: bool) -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(2, 4, 5))
    labels = np.array([[1, 2, -100, 4], [0, 0, 3, 1]])
    upstream = np.array([0.5, -2.0])

    def total(values: np.ndarray) -> float:
        return float(upstream @ selm.sequence_logps(values, labels, average_log_prob=average))

    slopes = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        slopes[place] = (total(logits + step) - total(logits - step)) / 2e-5
    got = selm.sequence_logps_grad(upstream, logits, labels, average_log_prob=average)
    np.testing.assert_allclose(got, slopes, atol=1e-9)
    assert np.all(got[:, -1] == 0.0)


def test_margins_and_accuracies() -> None:
    chosen, rejected = np.float32([[1.0, 2.0], [3.0, 0.5]]), np.float32([[0.5, 2.0], [4.0, 0.0]])
    np.testing.assert_array_equal(selm.reward_margins(chosen, rejected), chosen - rejected)
    accuracies = selm.reward_accuracies(chosen, rejected)
    np.testing.assert_array_equal(accuracies, np.float32([[1, 0], [0, 1]]))
    assert accuracies.dtype == np.float32


# -------------------------------------------------------------------------------------------------
# Layouts and shapes


def test_arrays_that_are_not_contiguous_or_aligned_give_the_same() -> None:
    table = -10 * np.random.default_rng(3).random((20, 4))
    columns = [np.ascontiguousarray(values) for values in table.T]
    expected = selm.dpo_loss(*columns).losses
    np.testing.assert_array_equal(selm.dpo_loss(*table.T).losses, expected)
    reverse = selm.dpo_loss(*(values[::-1] for values in columns)).losses
    np.testing.assert_array_equal(reverse[::-1], expected)
    repeated = selm.dpo_loss(*(np.broadcast_to(values[:1], 20) for values in columns)).losses
    np.testing.assert_array_equal(repeated, np.full(20, expected[0]))
    packed = [np.frombuffer(b"\0" + values.tobytes(), np.uint8)[1:] for values in columns]
    np.testing.assert_array_equal(selm.dpo_loss(*(p.view(float) for p in packed)).losses, expected)


def test_logits_of_any_layout_give_the_same() -> None:
    generator = np.random.default_rng(4)
    logits = generator.normal(size=(3, 6, 40)).astype(np.float32)
    index = generator.integers(0, 40, size=(3, 6))
    expected = selm.selective_log_softmax(logits, index)
    assert expected.shape == (3, 6)
    for other in (np.asfortranarray(logits), logits.swapaxes(0, 1).copy().swapaxes(0, 1)):
        np.testing.assert_array_equal(selm.selective_log_softmax(other, index), expected)
    flat = selm.selective_log_softmax(logits.reshape(18, 40), index.reshape(18).astype(np.int32))
    np.testing.assert_array_equal(flat, expected.reshape(18))
    grad = selm.selective_log_softmax_grad(np.ones((3, 6), np.float32), logits, index)
    assert grad.shape == logits.shape


def test_inputs_are_not_changed_and_results_own_their_memory() -> None:
    arrays = [np.full(3, value) for value in (-1.0, -2.0, -3.0, -4.0)]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    out = selm.dpo_loss(*arrays)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    out.losses[:] = 0.0
    assert np.all(selm.dpo_loss(*arrays).losses != 0.0)


def test_empty_batches_have_empty_results() -> None:
    none = np.zeros(0, np.float32)
    assert all(values.shape == (0,) for values in selm.dpo_loss(none, none, none, none))
    assert selm.sequence_logps(np.zeros((0, 3, 5)), np.zeros((0, 3), np.int64)).shape == (0,)
    assert np.all(selm.sequence_logps(np.zeros((2, 0, 5)), np.zeros((2, 0), np.int64)) == 0.0)
    assert selm.selective_log_softmax(np.zeros((0, 5)), np.zeros(0, np.int64)).shape == (0,)


# -------------------------------------------------------------------------------------------------
# The module


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, selm_core.numpy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_gil_is_free_while_it_computes() -> None:
    logits = np.zeros((40, 50_000), np.float32)
    index = np.zeros(40, np.int64)
    seen = threading.Event()

    def work() -> None:
        for _ in range(200):
            if not seen.is_set():
                selm.selective_log_softmax(logits, index)

    # Python takes the GIL from no thread now, so this one runs on only where the worker lets it go.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        runs_beside_the_worker = worker.is_alive()
        seen.set()
    finally:
        sys.setswitchinterval(interval)
    worker.join()
    assert runs_beside_the_worker
