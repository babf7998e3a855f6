"""Rows of docs/deviations.md: what TRL's own code makes of these inputs, and what ours does."""

import math
from dataclasses import replace

import pytest
import torch
from selm_core.errors import UnsupportedError
from stub_trainers import value_and_gradient
from test_trl_stub_dpo import (
    LOSSES,
    PAIRS,
    SMOOTHED,
    Batch,
    build,
    make_batch,
    make_trainer,
    trl_config,
)
from test_trl_stub_dpo import our_loss as ours_of
from test_trl_stub_dpo import trl_loss as trls_of
from tiny_models import tiny_config
from trl import DPOTrainer

BETA, SMOOTHING = 0.1, 0.25
UNSMOOTHED = sorted(set(LOSSES) - set(SMOOTHED) - {"sigmoid"})


def one_pair(chosen, rejected):
    """Completions of one token; the reference is certain of both, so that rho is what is given."""
    logps = torch.tensor([[chosen], [rejected]], requires_grad=True)
    return Batch(logps, torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))


def trainer_of(batch, loss_type, link="reverse_kl", use_weighting=False, smoothing=None):
    trainer = make_trainer(batch, loss_type, link, None, use_weighting, BETA)
    if smoothing is not None:
        trainer.label_smoothing = smoothing
    return trainer


def both(batch, *options):
    """Value and gradient of ours and of TRL's."""
    trainer = trainer_of(batch, *options)
    return (
        value_and_gradient(lambda: ours_of(trainer, batch), batch.logps),
        value_and_gradient(lambda: trls_of(trainer, batch), batch.logps),
    )


def test_trl_ignores_label_smoothing_of_sigmoid_and_ours_flips_labels():
    batch = make_batch(1.0, torch.float64)
    flipped = replace(
        batch, **{name: values.roll(PAIRS, dims=0) for name, values in vars(batch).items()}
    )
    plain, swapped = (trls_of(trainer_of(rows, "sigmoid"), rows) for rows in (batch, flipped))
    smoothed = trainer_of(batch, "sigmoid", smoothing=SMOOTHING)
    assert trls_of(smoothed, batch) == plain
    wanted = (1 - SMOOTHING) * plain + SMOOTHING * swapped
    torch.testing.assert_close(ours_of(smoothed, batch), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss_type", UNSMOOTHED)
def test_trl_ignores_label_smoothing_and_ours_refuses_it(loss_type):
    batch = make_batch(1.0, torch.float64)
    smoothed = trainer_of(batch, loss_type, smoothing=SMOOTHING)
    assert trls_of(smoothed, batch) == trls_of(trainer_of(batch, loss_type), batch)
    with pytest.raises(ValueError, match=f"'{loss_type}' does not define label smoothing"):
        ours_of(smoothed, batch)


def test_trl_ignores_the_link_of_sft_and_ours_refuses_it():
    batch = make_batch(1.0, torch.float64)
    linked = trainer_of(batch, "sft", "forward_kl")
    assert trls_of(linked, batch) == trls_of(trainer_of(batch, "sft"), batch)
    with pytest.raises(ValueError, match=r"'f_divergence_type' to be 'reverse_kl'.*'sft'"):
        ours_of(linked, batch)


def test_trl_ignores_options_that_no_loss_uses_and_ours_refuses_them(tmp_path):
    batch = make_batch(1.0, torch.float64)
    plain = trls_of(trainer_of(batch, "sigmoid"), batch)
    trainer = trainer_of(batch, "sigmoid")
    trainer.args.discopop_tau, trainer.f_alpha_divergence_coef = 0.9, 0.2
    assert trls_of(trainer, batch) == plain
    for option in ({"discopop_tau": 0.9}, {"f_alpha_divergence_coef": 0.2}):
        with pytest.raises(ValueError, match=f"'{next(iter(option))}'"):
            tiny_config(tmp_path, **option)


def test_trl_ignores_ld_alpha_of_sft_and_ours_refuses_it(tmp_path):
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, "sft")
    plain = trls_of(trainer, batch)
    trainer.ld_alpha = 0.25
    assert trls_of(trainer, batch) == plain
    with pytest.raises(ValueError, match="'ld_alpha'"):
        tiny_config(tmp_path, loss_type="sft", ld_alpha=0.25)


def test_trl_pads_in_spite_of_padding_free_and_ours_refuses_it(tmp_path):
    trainer = build(DPOTrainer, trl_config(tmp_path, padding_free=True))
    assert trainer.padding_free is False
    with pytest.raises(UnsupportedError, match="'padding_free'"):
        tiny_config(tmp_path, padding_free=True)


@pytest.mark.parametrize("ld_alpha", [-1.0, 2.0])
def test_trl_computes_any_ld_alpha_and_ours_refuses_it(tmp_path, ld_alpha):
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, "sigmoid")
    plain = trls_of(trainer, batch)
    trainer.ld_alpha = ld_alpha
    assert trls_of(trainer, batch).isfinite()
    assert trls_of(trainer, batch) != plain
    with pytest.raises(ValueError, match="'ld_alpha'"):
        ours_of(trainer, batch)
    with pytest.raises(ValueError, match="'ld_alpha'"):
        tiny_config(tmp_path, ld_alpha=ld_alpha)


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_trl_computes_any_beta_and_ours_refuses_it(beta):
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, "sigmoid")
    trainer.beta = beta
    assert trls_of(trainer, batch).isfinite()
    with pytest.raises(ValueError, match="'beta'"):
        ours_of(trainer, batch)


@pytest.mark.parametrize("tau", [0.0, -0.05])
def test_trl_computes_any_discopop_tau_and_ours_refuses_it(tau):
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, "discopop")
    trainer.args.discopop_tau = tau
    assert trls_of(trainer, batch).isfinite()
    with pytest.raises(ValueError, match="'discopop_tau'"):
        ours_of(trainer, batch)


@pytest.mark.parametrize("loss_type", ["aot", "aot_unpaired", "exo_pair"])
def test_trl_takes_negative_label_smoothing_and_ours_refuses_it(loss_type):
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, loss_type, smoothing=-0.1)
    assert trls_of(trainer, batch).isfinite() == (loss_type != "exo_pair")
    with pytest.raises(ValueError, match="'label_smoothing'"):
        ours_of(trainer, batch)


@pytest.mark.parametrize("loss_type", ["aot", "aot_unpaired", "exo_pair"])
def test_trl_takes_more_label_smoothing_than_one_half_and_ours_refuses_it(loss_type):
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, loss_type, smoothing=0.75)
    assert trls_of(trainer, batch).isfinite()
    with pytest.raises(ValueError, match="'label_smoothing'"):
        ours_of(trainer, batch)


def test_robust_at_one_half():
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, "robust", smoothing=0.5)
    assert not trls_of(trainer, batch).isfinite()
    with pytest.raises(ValueError, match="'label_smoothing'"):
        ours_of(trainer, batch)


def test_alpha_divergence_in_float64():
    batch = make_batch(1.0, torch.float64)
    trainer = trainer_of(batch, "sigmoid", "alpha_divergence")
    with pytest.raises(KeyError, match="float64"):
        trls_of(trainer, batch)
    single = make_batch(1.0, torch.float32)
    torch.testing.assert_close(
        ours_of(trainer, batch).float(),
        trls_of(trainer_of(single, "sigmoid", "alpha_divergence"), single),
    )


def test_alpha_divergence_beyond_the_clamp():
    ours, trls = both(one_pair(-283.0, -1.0), "sigmoid", "alpha_divergence")
    assert trls[1][0] == 0
    assert ours[1][0] < -1e36


def test_forward_kl_of_two_unlikely_responses():
    ours, trls = both(one_pair(-100.0, -100.0), "sigmoid", "forward_kl")
    assert trls[0].isnan()
    assert ours[0].item() == pytest.approx(1.5 * math.log(2), rel=1e-6)


def test_discopop_at_a_large_negative_margin():
    ours, trls = both(one_pair(-1000.0, -1.0), "discopop")
    assert trls[0].isnan()
    assert ours[0].item() == pytest.approx(1.5 * BETA * 999, rel=1e-6)  # its logistic part


def test_apo_down_of_a_pair_that_is_told_apart():
    """TRL's gradient is 0 where sigmoid(x) rounds to 1."""
    ours, trls = both(one_pair(-1.0, -401.0), "apo_down")
    assert trls[1][1] == 0
    assert ours[1][1].item() == pytest.approx(1.5 * BETA * math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("pair", [(-math.inf, -1.0), (-1.0, -math.inf)], ids=str)
def test_an_infinite_log_probability(loss_type, pair):
    ours, trls = both(one_pair(*pair), loss_type)
    assert not ours[0].isnan()
    assert not ours[1].isnan().any()
    breaks = loss_type == "exo_pair" or (loss_type == "discopop" and pair[0] == -math.inf)
    assert trls[0].isnan() == breaks
    if not breaks:
        torch.testing.assert_close(ours, trls, rtol=1e-6, atol=0)


def test_trl_cannot_train_hinge_with_weights():
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        both(make_batch(1.0, torch.float64), "hinge", "reverse_kl", True)


def test_weights_of_the_likelihood_are_an_error_in_trl_and_refused_here(tmp_path):
    batch = make_batch(1.0, torch.float64)
    with pytest.raises(RuntimeError, match="single memory location"):
        trls_of(trainer_of(batch, "sft", use_weighting=True), batch)
    with pytest.raises(ValueError, match="'use_weighting'"):
        tiny_config(tmp_path, loss_type="sft", use_weighting=True)
