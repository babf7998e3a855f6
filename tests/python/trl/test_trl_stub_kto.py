"""The loss of TRL's KTOTrainer on given token log-probabilities, and ours of the same numbers."""

import math
from types import SimpleNamespace

import pytest
import selm_core
import torch
from stub_trainers import (
    TokenOutputs,
    assert_same,
    default_dtype,
    documented_lines,
    draw,
    stub_trainer,
    token_rows,
    value_and_gradient,
)
from trl import KTOConfig, KTOTrainer

LINES = documented_lines()
LOSSES = ("kto", "apo_zero_unpaired")
ROWS, TIME = 6, 12
LABELS = {
    "mixed": [True, False, False, True, True, False],
    "desirable": [True] * ROWS,
    "undesirable": [False] * ROWS,
}


class Batch:
    """Rows of responses and then rows of mismatched ones, from which TRL takes the baseline.

    `baseline` says whether it is above 0, the bound that TRL sets.
    """

    def __init__(self, label, spread, baseline, dtype):
        self.mask = token_rows(2 * ROWS, TIME, seed=4)
        policy, reference = (
            draw(2 * ROWS, TIME, spread=spread, seed=seed, dtype=dtype) for seed in (0, 1)
        )
        low, high = (reference, policy) if baseline else (policy, reference)
        low[ROWS:] = high[ROWS:] - 0.5
        self.logps = policy.masked_fill(~self.mask, torch.nan).requires_grad_()
        self.ref_logps = reference.masked_fill(~self.mask, torch.nan)
        self.label = torch.tensor(LABELS[label])

    def inputs(self):
        """What TRL's collator gives; the first token of a row names it."""
        names = torch.arange(2 * ROWS)[:, None]
        completion = torch.cat([torch.zeros_like(names), self.mask.long()], dim=1)
        inputs = {"label": self.label}
        for prefix, rows in (("", slice(0, ROWS)), ("KL_", slice(ROWS, None))):
            inputs[f"{prefix}input_ids"] = names[rows].expand(-1, TIME + 1)
            inputs[f"{prefix}attention_mask"] = torch.ones(ROWS, TIME + 1, dtype=torch.int64)
            inputs[f"{prefix}completion_mask"] = completion[rows]
        return inputs


def make_trainer(batch, loss_type, beta, weights):
    return stub_trainer(
        KTOTrainer,
        model=TokenOutputs(log_probs=batch.logps),
        ref_model=TokenOutputs(log_probs=batch.ref_logps),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        calculate_KL=loss_type == "kto",
        loss_type=loss_type,
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )


def trl_loss(trainer, batch):
    with default_dtype(batch.logps.dtype):
        return trainer._compute_loss(trainer.model, batch.inputs(), return_outputs=False)


def our_loss(trainer, batch):
    logps, mismatched = selm_core.masked_sum(batch.logps, batch.mask).split(ROWS)
    ref_logps, ref_mismatched = selm_core.masked_sum(batch.ref_logps, batch.mask).split(ROWS)
    kl = (mismatched - ref_mismatched).mean().clamp(min=0).detach()
    return LINES.kto_loss(trainer, logps, ref_logps, batch.label, kl).mean()


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.4)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "spread"),
    [(torch.float64, 1.5), (torch.float64, 60.0), (torch.float32, 1.5)],
    ids=str,
)
def test_value_and_gradient_are_those_of_trl(
    loss_type, label, baseline, beta, weights, dtype, spread
):
    batch = Batch(label, spread, baseline, dtype)
    trainer = make_trainer(batch, loss_type, beta, weights)
    ours = value_and_gradient(lambda: our_loss(trainer, batch), batch.logps)
    trls = value_and_gradient(lambda: trl_loss(trainer, batch), batch.logps)
    # TRL's 1 - sigmoid(x) is exact to half an ulp of 1, however small it is.
    atol = max(weights) * torch.finfo(dtype).eps
    assert_same(ours, trls, rtol=1e-11 if dtype == torch.float64 else 1e-5, atol=atol)
    if loss_type == "kto":
        assert (trainer._metrics["train"]["kl"][0] > 0) == baseline


def test_losses_near_zero():
    """TRL's loss and gradient are 0 where sigmoid(x) rounds to 1."""
    batch = Batch("desirable", 1.5, True, torch.float32)
    batch.ref_logps = batch.logps.detach() - 30.0
    trainer = make_trainer(batch, "apo_zero_unpaired", 1.0, (1.0, 1.0))
    trls = value_and_gradient(lambda: trl_loss(trainer, batch), batch.logps)
    ours = value_and_gradient(lambda: our_loss(trainer, batch), batch.logps)
    assert trls[0] == trls[1].abs().max() == 0
    lengths = batch.mask[:ROWS].sum(dim=1).tolist()
    wanted = sum(math.exp(-30 * length) for length in lengths) / ROWS  # 1 - sigmoid(30 |y|)
    assert ours[0].item() == pytest.approx(wanted, rel=1e-5)
    assert ours[1].abs().max() > 0


def test_every_loss_of_trl_is_compared():
    assert KTOConfig.__dataclass_fields__["loss_type"].metadata["choices"] == list(LOSSES)
