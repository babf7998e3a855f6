"""The losses of TRL's CPOTrainer (CPO, SimPO) and ORPOTrainer on given logits, and ours of the same."""

import math
from collections import namedtuple

import pytest
import selm_core
import torch
from stub_trainers import (
    IGNORED,
    Logits,
    assert_same,
    documented_lines,
    draw,
    stub_trainer,
    token_rows,
    value_and_gradient,
)
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

LINES = documented_lines()
PAIRS, TIME, VOCABULARY = 5, 10, 7
# ORPOTrainer casts to float32.
EXACT, SINGLE = 1e-11, 5e-6

LossCase = namedtuple("LossCase", "loss_type label_smoothing beta")
CPO_CASES = [
    *(
        LossCase(name, e, beta)
        for name in ("sigmoid", "simpo")
        for e in (0.0, 0.2, 0.5)
        for beta in (0.1, 2.0)
    ),
    *(LossCase(name, 0.0, beta) for name in ("hinge", "ipo") for beta in (0.1, 2.0)),
]


class DocumentedCPOTrainer(CPOTrainer):
    """TRL's trainer with the method of docs/trl.md."""

    cpo_loss = LINES.cpo_loss


def make_batch(spread, dtype=torch.float64):
    """A batch as TRL's collator makes it, and the logits of its rows, chosen first."""
    logits = draw(2 * PAIRS, TIME, VOCABULARY, spread=spread, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (2 * PAIRS, TIME), generator=generator)
    completion = token_rows(2 * PAIRS, TIME - 1, seed=2)
    labels = ids.masked_fill(~torch.nn.functional.pad(completion, (1, 0)), IGNORED)
    batch = {}
    for name, rows in (("chosen", slice(0, PAIRS)), ("rejected", slice(PAIRS, None))):
        batch[f"{name}_input_ids"] = ids[rows]
        batch[f"{name}_labels"] = labels[rows]
        batch[f"{name}_attention_mask"] = attended(labels[rows])
    return logits.requires_grad_(), labels, batch


def attended(labels):
    """1 up to the last token of the completion."""
    return (labels != IGNORED).flip(1).cumsum(dim=1).clamp(max=1).flip(1)


def make_cpo(case, trainer_class=CPOTrainer, **attributes):
    return stub_trainer(
        trainer_class,
        is_encoder_decoder=False,
        pad_token_id=0,
        simpo_gamma=0.7,
        cpo_alpha=0.3,
        alpha=0.0,
        **case._asdict(),
        **attributes,
    )


def sums_and_lengths(logits, labels):
    """Log-probabilities and numbers of tokens, chosen and rejected."""
    logps = selm_core.sequence_logps(logits, labels)
    lengths = (labels[:, 1:] != IGNORED).sum(dim=1)
    return logps.chunk(2), lengths.chunk(2)


def our_cpo_loss(trainer, logits, labels):
    """From sums and lengths, with the likelihood term that CPO adds."""
    logps, lengths = sums_and_lengths(logits, labels)
    options = {"beta": trainer.beta, "label_smoothing": trainer.label_smoothing}
    if trainer.loss_type == "simpo":
        terms = selm_core.simpo_loss(*logps, *lengths, simpo_gamma=trainer.simpo_gamma, **options)
    else:
        if trainer.loss_type == "ipo":
            options |= {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
        terms = selm_core.cpo_loss(*logps, loss_type=trainer.loss_type, **options)
    return terms.losses.mean() - trainer.cpo_alpha * logps[0].sum() / lengths[0].sum()


@pytest.mark.parametrize("case", CPO_CASES, ids=str)
@pytest.mark.parametrize("spread", [3.0, 80.0])
def test_cpo_and_simpo_of_logits_are_those_of_trl(case, spread):
    logits, labels, batch = make_batch(spread)
    trainer = make_cpo(case)
    model = Logits(logits)
    ours = value_and_gradient(lambda: our_cpo_loss(trainer, logits, labels), logits)
    trls = value_and_gradient(lambda: trainer.get_batch_loss_metrics(model, batch)[0], logits)
    assert_same(ours, trls, rtol=EXACT)


@pytest.mark.parametrize("case", CPO_CASES, ids=str)
def test_the_documented_method_gives_trls_loss_and_metrics(case):
    logits, _, batch = make_batch(3.0)
    (loss, metrics), (trl_loss, trl_metrics) = (
        make_cpo(case, trainer_class).get_batch_loss_metrics(Logits(logits), batch)
        for trainer_class in (DocumentedCPOTrainer, CPOTrainer)
    )
    assert loss.item() == pytest.approx(trl_loss.item(), rel=EXACT)
    assert metrics == pytest.approx(trl_metrics, rel=EXACT)


def losses_and_gradient(method, trainer, logps):
    """Losses of given log-probabilities, (2, batch), and the gradient of their sum."""
    losses = method(trainer, *logps)[0]
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    return losses.detach(), gradient


@pytest.mark.parametrize("case", CPO_CASES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 100.0, 1e4])
def test_margins_in_float32(case, spread):
    trainer = make_cpo(case)
    logps = draw(2, 64, spread=spread, seed=5, dtype=torch.float32).requires_grad_()
    ours = losses_and_gradient(LINES.cpo_loss, trainer, logps)
    trls = losses_and_gradient(CPOTrainer.cpo_loss, trainer, logps)
    torch.testing.assert_close(ours, trls, rtol=SINGLE, atol=SINGLE)


def test_alphapo_is_refused():
    trainer = make_cpo(CPO_CASES[0])
    trainer.alpha = 0.25
    with pytest.raises(ValueError, match="'alpha'"):
        LINES.cpo_loss(trainer, torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("loss_type", ["hinge", "ipo"])
def test_label_smoothing_that_trl_ignores_is_refused(loss_type):
    plain, smoothed = (make_cpo(LossCase(loss_type, e, 0.1)) for e in (0.0, 0.2))
    logps = draw(2, 3, spread=4.0, seed=6)
    assert torch.equal(*(CPOTrainer.cpo_loss(trainer, *logps)[0] for trainer in (plain, smoothed)))
    with pytest.raises(ValueError, match=f"'{loss_type}' does not define label smoothing"):
        LINES.cpo_loss(smoothed, *logps)


def our_orpo_loss(trainer, logits, labels, batch):
    """The likelihood is that of the chosen rows with their prompts, as in TRL."""
    everything = batch["chosen_input_ids"].masked_fill(batch["chosen_attention_mask"] == 0, IGNORED)
    nll = (
        -selm_core.sequence_logps(logits[:PAIRS], everything).sum()
        / (everything[:, 1:] != IGNORED).sum()
    )
    logps, lengths = sums_and_lengths(logits, labels)
    return nll + selm_core.orpo_loss(*logps, *lengths, beta=trainer.beta).losses.mean()


def make_orpo(beta):
    return stub_trainer(ORPOTrainer, is_encoder_decoder=False, padding_value=0, beta=beta)


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("spread", [0.3, 3.0, 80.0])
def test_orpo_of_logits_is_that_of_trl(beta, spread):
    logits, labels, batch = make_batch(spread)
    trainer = make_orpo(beta)
    model = Logits(logits)
    ours = value_and_gradient(lambda: our_orpo_loss(trainer, logits, labels, batch), logits)
    trls = value_and_gradient(lambda: trainer.get_batch_loss_metrics(model, batch)[0], logits)
    assert_same(ours, trls, rtol=SINGLE)


@pytest.mark.parametrize("spread", [1e-5, 1e-3, 1.0, 80.0, 1e4])
def test_the_documented_line_of_orpo_is_that_of_trl(spread):
    """Log-probabilities per token, from the certain to the impossible."""
    trainer, nll = make_orpo(0.3), torch.tensor(0.4)
    logps = draw(2, 64, spread=spread, seed=7, dtype=torch.float32).requires_grad_()
    ours = value_and_gradient(lambda: LINES.orpo_loss(trainer, nll, *logps), logps)
    trls = value_and_gradient(lambda: nll - trainer.odds_ratio_loss(*logps)[0].mean(), logps)
    assert_same(ours, trls, rtol=SINGLE)


def test_orpo_of_a_certain_response():
    """TRL's gradient is NaN where exp(logp) rounds to 1."""
    trainer = make_orpo(0.3)
    logps = torch.tensor([[-1e-9], [-2.0]], requires_grad=True)
    _, trls = value_and_gradient(lambda: -trainer.odds_ratio_loss(*logps)[0].mean(), logps)
    _, ours = value_and_gradient(lambda: LINES.orpo_loss(trainer, torch.tensor(0.0), *logps), logps)
    assert trls[0].isnan()
    # With s = log odds(w) - log odds(l): -beta * sigmoid(-s) / (1 - p(w)), and sigmoid(-s) is about
    # odds(l) * (1 - p(w)) for a p(w) of nearly 1.
    odds = math.exp(-2.0) / -math.expm1(-2.0)
    assert ours[0].item() == pytest.approx(-0.3 * odds, rel=1e-6)
