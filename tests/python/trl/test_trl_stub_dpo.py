"""The loss of TRL's DPOTrainer on given token log-probabilities, and ours of the same numbers."""

import re
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from selm_core.trl import SELMTrainer
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
from tiny_models import text_dataset, tiny_config, tiny_llama, tiny_tokenizer
from trl import DPOConfig, DPOTrainer

LINES = documented_lines()
LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
    *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
LINKS = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
# By TRL; `sft` ignores the link, see test_trl_stub_deviations.py.
LINKED = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
RANKED = {"aot", "aot_unpaired"}
SMOOTHED = {"exo_pair": 0.1, "robust": 0.2, "aot": 0.1, "aot_unpaired": 0.3}
LENGTHS = {
    "ipo": ("chosen", "rejected"),
    "sigmoid_norm": ("chosen", "rejected"),
    "sft": ("chosen",),
}
DISCOPOP_TAU, COEFFICIENT = 0.3, 0.7
PAIRS, TIME = 6, 12


@dataclass(frozen=True)
class Batch:
    """Token values of chosen rows and then rejected rows; what is not masked in is NaN."""

    logps: torch.Tensor
    ref_logps: torch.Tensor
    log_sum_sq_probs: torch.Tensor
    mask: torch.Tensor


def make_batch(spread, dtype):
    mask = token_rows(2 * PAIRS, TIME, seed=3)
    values = (
        draw(2 * PAIRS, TIME, spread=spread, seed=seed, dtype=dtype).masked_fill(~mask, torch.nan)
        for seed in range(3)
    )
    logps, ref_logps, log_sum_sq_probs = values
    return Batch(logps.requires_grad_(), ref_logps, log_sum_sq_probs, mask)


def make_trainer(batch, loss_type, link, ld_alpha, use_weighting, beta):
    return stub_trainer(
        DPOTrainer,
        model=TokenOutputs(log_probs=batch.logps, log_sum_sq_probs=batch.log_sum_sq_probs),
        ref_model=TokenOutputs(log_probs=batch.ref_logps),
        args=SimpleNamespace(discopop_tau=DISCOPOP_TAU, gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        loss_types=[loss_type],
        loss_weights=[1.5],
        label_smoothing=SMOOTHED.get(loss_type, 0.0),
        f_divergence_type=link,
        f_alpha_divergence_coef=COEFFICIENT,
        ld_alpha=ld_alpha,
        use_weighting=use_weighting,
        beta=beta,
    )


def trl_loss(trainer, batch):
    rows, time = batch.mask.shape
    first = torch.arange(rows)[:, None]  # a prompt token, which names the row
    inputs = {
        "input_ids": first.expand(-1, time + 1),
        "attention_mask": torch.ones(rows, time + 1, dtype=torch.int64),
        "completion_mask": torch.cat([torch.zeros_like(first), batch.mask.long()], dim=1),
    }
    with default_dtype(batch.logps.dtype):
        return trainer._compute_loss(trainer.model, inputs, return_outputs=False)


def our_options(trainer, mask):
    (loss_type,) = trainer.loss_types
    lengths = dict(zip(("chosen", "rejected"), mask.sum(dim=1).chunk(2), strict=True))
    options = {f"{name}_lengths": lengths[name] for name in LENGTHS.get(loss_type, ())}
    if loss_type == "discopop":
        options["discopop_tau"] = trainer.args.discopop_tau
    if trainer.f_divergence_type == "alpha_divergence":
        options["f_alpha_divergence_coef"] = trainer.f_alpha_divergence_coef
    return options


def our_loss(trainer, batch):
    """As the page says: `sft` is of the plain log-probabilities."""
    of_tokens = trainer if trainer.loss_types != ["sft"] else SimpleNamespace(ld_alpha=None)
    logps, ref_logps = (
        LINES.dpo_logps(of_tokens, values, batch.mask) for values in (batch.logps, batch.ref_logps)
    )
    losses = LINES.dpo_loss(trainer, logps, ref_logps, **our_options(trainer, batch.mask))
    if trainer.use_weighting:
        losses = losses * LINES.dpo_weights(batch.logps, batch.log_sum_sq_probs, batch.mask)
    return losses.mean()


def is_valid(loss_type, link, use_weighting):
    """Whether TRL's trainer computes this; the tests below hold what it does about the rest."""
    linked = link == "reverse_kl" or loss_type in LINKED - {"sft"}
    return linked and not (use_weighting and loss_type in {*RANKED, "sft"})


COMBINATIONS = [
    (loss_type, link, ld_alpha, use_weighting)
    for loss_type, link, ld_alpha, use_weighting in product(
        LOSSES, LINKS, (None, 0.0, 0.4), (False, True)
    )
    if is_valid(loss_type, link, use_weighting)
]


def compare(combination, spread, beta):
    # TRL's alpha_divergence is not defined in float64.
    single = "alpha_divergence" in combination
    batch = make_batch(spread, torch.float32 if single else torch.float64)
    trainer = make_trainer(batch, *combination, beta)
    ours = value_and_gradient(lambda: our_loss(trainer, batch), batch.logps)
    # TRL multiplies hinge's losses in place, see below.
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        trls = value_and_gradient(lambda: trl_loss(trainer, batch), batch.logps)
    assert_same(ours, trls, rtol=2e-5 if single else 1e-11)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_value_and_gradient_are_those_of_trl(combination, beta):
    compare(combination, spread=1.5, beta=beta)


@pytest.mark.parametrize(
    "combination", [c for c in COMBINATIONS if c[1] in {"reverse_kl", "js_divergence"}], ids=str
)
def test_large_margins_are_those_of_trl(combination):
    compare(combination, spread=60.0, beta=1.0)


def test_every_loss_of_trl_is_compared():
    listed = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"].split(". If")[0]
    assert re.findall(r"`'(\w+)'`", listed) == list(LOSSES)


def trl_config(folder, **options):
    return DPOConfig(str(folder), bf16=False, activation_checkpointing=False, **options)


def build(trainer_class, config):
    return trainer_class(
        tiny_llama(),
        ref_model=tiny_llama(seed=1),
        args=config,
        train_dataset=text_dataset(),
        processing_class=tiny_tokenizer(),
    )


def test_links_are_refused_where_trl_refuses_them(tmp_path):
    config = trl_config(tmp_path, f_divergence_type="forward_kl", loss_type="aot")
    with pytest.raises(ValueError, match="only supported for the following loss types") as refusal:
        build(DPOTrainer, config)
    (names,) = re.findall(r"loss types: (\[.*?\])", str(refusal.value))
    assert set(re.findall(r"\w+", names)) == LINKED


@pytest.mark.parametrize("loss_type", sorted(set(LOSSES) - LINKED))
@pytest.mark.parametrize("link", LINKS[1:])
def test_a_link_that_a_loss_does_not_know_is_refused(loss_type, link):
    batch = make_batch(1.0, torch.float64)
    trainer = make_trainer(batch, loss_type, link, None, False, 0.1)
    with pytest.raises(ValueError, match=f"'f_divergence_type' to be 'reverse_kl'.*'{loss_type}'"):
        our_loss(trainer, batch)


@pytest.mark.parametrize("loss_type", sorted(RANKED))
def test_weights_of_ranked_losses_are_refused_as_by_trl(tmp_path, loss_type):
    for trainer_class, config in (
        (DPOTrainer, trl_config(tmp_path, loss_type=loss_type, use_weighting=True)),
        (SELMTrainer, tiny_config(tmp_path, loss_type=loss_type, use_weighting=True)),
    ):
        with pytest.raises(NotImplementedError, match="aot"):
            build(trainer_class, config)


def test_exo_pair_without_label_smoothing_is_refused_as_by_trl(tmp_path):
    with pytest.raises(ValueError, match=r"greater than 0\.0 when using 'exo_pair'"):
        build(DPOTrainer, trl_config(tmp_path, loss_type="exo_pair"))
    with pytest.raises(ValueError, match=r"'label_smoothing'.*exo_pair"):
        tiny_config(tmp_path, loss_type="exo_pair")
