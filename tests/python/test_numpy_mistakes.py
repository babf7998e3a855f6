"""Bad arguments of selm_core.numpy: which error, and how it reads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import selm_core.numpy as selm

ROW = np.full(4, -5.0)
PAIR = [ROW] * 4
LOGITS = np.zeros((2, 3, 10))
LABELS = np.zeros((2, 3), np.int64)


def dpo(**options: Any) -> Callable[[], object]:
    return lambda: selm.dpo_loss(*PAIR, **options)


def dpo_with(position: int, value: Any) -> Callable[[], object]:
    return lambda: selm.dpo_loss(*PAIR[:position], value, *PAIR[position + 1 :])


MISTAKES = {
    "list": (
        dpo_with(0, [-5.0]),
        TypeError,
        r"'policy_chosen_logps' to be a numpy.ndarray, got list",
    ),
    "none": (
        dpo_with(2, None),
        TypeError,
        r"'ref_chosen_logps' to be a numpy.ndarray, got NoneType",
    ),
    "half": (
        dpo_with(0, ROW.astype(np.float16)),
        TypeError,
        r"'policy_chosen_logps' to be float32 or float64, got float16",
    ),
    "integers": (dpo_with(0, np.zeros(4, int)), TypeError, r"float32 or float64, got int64"),
    "mask": (
        dpo_with(1, np.ma.masked_array(ROW, mask=[1, 0, 0, 0])),
        TypeError,
        r"'policy_rejected_logps' to be a numpy.ndarray without a mask, got MaskedArray \(pass "
        r".compressed\(\) or .filled\(value\)\)",
    ),
    "masked labels": (
        lambda: selm.sequence_logps(LOGITS, np.ma.masked_array(LABELS)),
        TypeError,
        r"'labels' to be a numpy.ndarray without a mask",
    ),
    "mixed": (
        dpo_with(3, ROW.astype(np.float32)),
        TypeError,
        r"'ref_rejected_logps' to be float64 \(same as 'policy_chosen_logps'\), got float32",
    ),
    "byte order": (dpo_with(0, ROW.astype(">f8")), TypeError, r"got >f8"),
    "column": (dpo_with(1, ROW[:, None]), ValueError, r"to have shape \(batch,\), got \[4, 1\]"),
    "tokens": (dpo_with(0, np.zeros((4, 9))), ValueError, r"reduce per-token values first"),
    "scalar": (dpo_with(0, np.array(-5.0)), ValueError, r"to have shape \(batch,\), got \[\]"),
    "short": (
        dpo_with(2, ROW[:1]),
        ValueError,
        r"^selm::dpo_loss: expected 'ref_chosen_logps' to have shape \[4\] "
        r"\(same as 'policy_chosen_logps'\), got \[1\]$",
    ),
    "positive": (dpo_with(1, np.array([-1.0, -1.0, 0.5, -1.0])), ValueError, r"0.5 at \[2\]"),
    "beta bool": (dpo(beta=True), TypeError, r"'beta' to be a number, got bool"),
    "beta text": (dpo(beta="0.1"), TypeError, r"'beta' to be a number, got str"),
    "beta array": (dpo(beta=np.array(0.1)), TypeError, r"'beta' to be a number, got ndarray"),
    "beta sign": (dpo(beta=-1), ValueError, r"'beta' to be a finite number > 0, got -1"),
    "beta nan": (dpo(beta=float("nan")), ValueError, r"got nan"),
    "loss type": (
        dpo(loss_type="dpo"),
        ValueError,
        r"one of 'sigmoid', 'hinge', 'ipo', .*, got 'dpo'$",
    ),
    "loss type number": (
        dpo(loss_type=3),
        TypeError,
        r"'loss_type' to be a str or a sequence of str, got int",
    ),
    "smoothing": (dpo(label_smoothing=0.7), ValueError, r"in \[0, 0.5\]"),
    "smoothing unused": (
        dpo(loss_type="hinge", label_smoothing=0.1),
        ValueError,
        r"'hinge' does not define label smoothing",
    ),
    "link unused": (
        dpo(loss_type="nll", f_divergence_type="forward_kl", chosen_lengths=np.ones(4, np.int64)),
        ValueError,
        r"'f_divergence_type' to be 'reverse_kl': loss_type 'nll' does not use it, got 'forward_kl'",
    ),
    "lengths missing": (dpo(loss_type="ipo"), ValueError, r"'chosen_lengths' to be given"),
    "lengths unused": (
        dpo(chosen_lengths=np.ones(4, np.int64)),
        ValueError,
        r"'chosen_lengths' to be left out",
    ),
    "lengths float": (
        dpo(loss_type="ipo", chosen_lengths=np.ones(4), rejected_lengths=np.ones(4, np.int64)),
        TypeError,
        r"'chosen_lengths' to be int64, got float64",
    ),
    "lengths of a column": (
        dpo(loss_type="nll", chosen_lengths=np.ones((4, 1), np.int64)),
        ValueError,
        r"'chosen_lengths' to have shape \(batch,\), got \[4, 1\]",
    ),
    "half precision remedy": (
        dpo_with(0, ROW.astype(np.float16)),
        TypeError,
        r"got float16: .* in float32$",
    ),
    "keyword": (dpo(reduction="mean"), TypeError, r"reduction"),
    "response missing": (
        lambda: selm.selm_loss(ROW, ROW, None, ROW, ROW, None, alpha=0.1, beta=0.1),
        ValueError,
        r"'policy_response_logps' to be given for alpha 0.1",
    ),
    "alpha": (
        lambda: selm.selm_loss(*[ROW] * 6, alpha=float("inf"), beta=0.1),
        ValueError,
        r"'alpha' to be a finite number, got inf",
    ),
    "exploration": (
        lambda: selm.selm_loss(*[ROW] * 6, alpha=0.1, beta=0.1, exploration="none"),
        ValueError,
        r"'exploration' to be one of 'selm', 'xpo', 'popo', got 'none'",
    ),
    "bonus reference": (
        lambda: selm.exploration_bonus(ROW, ROW, alpha=0.1, kind="xpo"),
        ValueError,
        r"'ref_logps' to be left out",
    ),
    "bonus beta": (
        lambda: selm.exploration_bonus(ROW, ROW, alpha=0.1),
        ValueError,
        r"'beta' to be given for kind 'selm'",
    ),
    "rewards": (
        lambda: selm.reward_margins(ROW, ROW[None]),
        ValueError,
        r"'rejected_rewards' to have shape \[4\] \(same as 'chosen_rewards'\), got \[1, 4\]",
    ),
    **{
        f"{name} {what}": (lambda f=f, a=a, b=b: f(a, b), TypeError, message)
        for name, f in (("margins", selm.reward_margins), ("accuracies", selm.reward_accuracies))
        for what, a, b, message in (
            ("half", ROW.astype(np.float16), ROW, r"'chosen_rewards' to be float32 or float64"),
            ("mixed", ROW, ROW.astype(np.float32), r"'rejected_rewards' to be float64 \(same as"),
        )
    },
    "no responses": (
        lambda: selm.log_partition(ROW[:0], ROW[:0], beta=0.1),
        ValueError,
        r"'ref_logps' to hold at least one response, got \[0\]",
    ),
    "kl kind": (lambda: selm.kl_estimate(ROW, ROW, kind="k4"), ValueError, r"'k1', 'k2', 'k3'"),
    "label value": (
        lambda: selm.sequence_logps(LOGITS, LABELS + 10),
        IndexError,
        r"'labels' to hold -100 \(ignored\) or a token id below the vocabulary size 10, "
        r"got 10 at \[0, 1\]",
    ),
    "label dtype": (
        lambda: selm.sequence_logps(LOGITS, LABELS.astype(np.uint8)),
        TypeError,
        r"'labels' to be int64 or int32, got uint8",
    ),
    "label shape": (
        lambda: selm.sequence_logps(LOGITS, LABELS[:, 1:]),
        ValueError,
        r"'labels' to have shape \[2, 3\] .* got \[2, 2\] \(already shifted\?\)",
    ),
    "logits rank": (
        lambda: selm.sequence_logps(LOGITS[0], LABELS[0]),
        ValueError,
        r"'logits' to have shape \(batch, time, vocab\), got \[3, 10\]",
    ),
    "index shape": (
        lambda: selm.selective_log_softmax(LOGITS, LABELS[0]),
        ValueError,
        r"'index' to have shape \[2, 3\]",
    ),
    "no vocabulary": (
        lambda: selm.selective_log_softmax(np.zeros((2, 0)), np.zeros(2, np.int64)),
        ValueError,
        r"'logits' to have a vocabulary of at least 1 token",
    ),
    "temperature": (
        lambda: selm.selective_log_softmax(LOGITS, LABELS, temperature=0.0),
        ValueError,
        r"'temperature' to be a finite number > 0, got 0",
    ),
    "subnormal temperature": (
        lambda: selm.selective_log_softmax(LOGITS, LABELS, temperature=1e-310),
        ValueError,
        r"'temperature' to keep 1 / temperature within the range of float64, got 1e-310, which",
    ),
    "ignore index": (
        lambda: selm.selective_log_softmax(LOGITS, LABELS, ignore_index=1.0),
        TypeError,
        r"'ignore_index' to be an integer, got float",
    ),
    "average": (
        lambda: selm.sequence_logps(LOGITS, LABELS, average_log_prob=1),
        TypeError,
        r"'average_log_prob' to be a bool, got int",
    ),
    "upstream": (
        lambda: selm.selective_log_softmax_grad(np.ones(2), LOGITS, LABELS),
        ValueError,
        r"'grad_logps' to have shape \[2, 3\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise_the_right_error_with_a_helpful_message(mistake: str) -> None:
    call, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message) as raised:
        call()
    assert type(raised.value) is error


def test_numpy_scalars_are_numbers() -> None:
    expected = selm.dpo_loss(*PAIR, beta=0.5).losses
    np.testing.assert_array_equal(selm.dpo_loss(*PAIR, beta=np.float32(0.5)).losses, expected)
