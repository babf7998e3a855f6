"""Options of the preference loss beside an exploration term, and the term's own."""

import pytest
import selm_core
import torch
from selm_core.trl import SELMTrainer
from test_trl_loss import ALPHA, BETA, ROWS, make_trainer
from tiny_models import batch_of, text_dataset

TERM = {"loss/selm", "rewards/response", "logps/response"}


def metrics_of(trainer):
    """Loss and metrics of one batch in training mode."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, ROWS))
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return loss.item(), metrics


@pytest.mark.parametrize(
    "options",
    [
        {"ld_alpha": 0.25},
        {"use_weighting": True},
        {"loss_type": ["sigmoid", "nll"], "loss_weights": [1.0, 0.5]},
        {"ld_alpha": 0.25, "loss_type": ["sigmoid", "sft"]},
        {"loss_type": "apo_zero"},
        {"loss_type": "dpop", "dpop_lambda": 2.0},
        {"loss_type": "r_dpo", "length_margin": 0.1},
    ],
    ids=str,
)
def test_options_of_the_preference_loss_leave_the_term_alone(tmp_path, options):
    plain_loss, plain = metrics_of(make_trainer(tmp_path))
    alone, _ = metrics_of(make_trainer(tmp_path, alpha=0.0, **options))
    loss, metrics = metrics_of(make_trainer(tmp_path, **options))
    for name in TERM:
        assert metrics[name] == pytest.approx(plain[name], rel=1e-6)
    assert metrics["loss/dpo"] == pytest.approx(alone, rel=1e-6)
    assert loss == pytest.approx(metrics["loss/dpo"] + metrics["loss/selm"], rel=1e-6)
    assert loss != pytest.approx(plain_loss, rel=1e-4)


def test_popo_is_bounded(tmp_path):
    _, metrics = metrics_of(make_trainer(tmp_path, exploration="popo", alpha=7.0))
    assert 0 < abs(metrics["loss/selm"]) < 7.0 / (2 * BETA)


def test_clipping_makes_the_term_constant(tmp_path):
    _, free = metrics_of(make_trainer(tmp_path))
    _, clipped = metrics_of(make_trainer(tmp_path, logratio_clip=1e-3))
    assert abs(clipped["loss/selm"]) <= ALPHA * BETA * 1e-3 * (1 + 1e-6) < abs(free["loss/selm"])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_alpha_follows_its_schedule(tmp_path, schedule):
    trainer = make_trainer(
        tmp_path, alpha_schedule=schedule, final_alpha=0.1, max_steps=4, logging_steps=1
    )
    trainer.train()
    logged = [entry["alpha"] for entry in trainer.state.log_history if "alpha" in entry]
    wanted = [
        selm_core.alpha_at(step / 4, alpha=ALPHA, schedule=schedule, final_alpha=0.1)
        for step in range(4)
    ]
    assert logged == pytest.approx(wanted)
    assert logged[0] == ALPHA


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_weighting": True},
        {"ld_alpha": 0.25},
        {"exploration": "popo"},
        {"exploration": "xpo", "logratio_clip": 3.0},
    ],
    ids=str,
)
def test_a_schedule_that_rises_from_zero_trains_and_explores(tmp_path, schedule, options):
    trainer = make_trainer(
        tmp_path, alpha=0.0, alpha_schedule=schedule, final_alpha=0.1, max_steps=3, **options
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [step["alpha"] for step in steps] == sorted({step["alpha"] for step in steps})
    assert [step["loss/selm"] != 0 for step in steps] == [False, True, True]


def test_a_schedule_that_rises_from_zero_needs_responses(tmp_path):
    with pytest.raises(ValueError, match="column 'response'"):
        make_trainer(
            tmp_path,
            text_dataset(drop=("response",)),
            alpha=0.0,
            alpha_schedule="linear",
            final_alpha=0.1,
        )


def test_the_schedule_is_not_logged_where_there_is_none(tmp_path):
    assert "alpha" not in metrics_of(make_trainer(tmp_path))[1]


def test_evaluations_along_a_schedule_differ_by_alpha_alone(tmp_path):
    """As docs/trl.md says: a policy that does not move has another `eval_loss`, and the same rest."""
    trainer = make_trainer(tmp_path, alpha_schedule="linear", learning_rate=0.0, max_steps=2)
    before = trainer.evaluate(trainer.train_dataset)
    trainer.train()
    after = trainer.evaluate(trainer.train_dataset)
    assert (before["eval_alpha"], after["eval_alpha"]) == (ALPHA, 0.0)
    assert before["eval_loss"] != pytest.approx(after["eval_loss"], rel=1e-3)
    for name in ("eval_loss/dpo", "eval_rewards/response"):
        assert before[name] == pytest.approx(after[name], rel=1e-6)


def test_options_are_read_from_the_configuration_and_not_from_copies_of_trl(tmp_path):
    trainer = make_trainer(tmp_path)
    wanted = metrics_of(trainer)
    trainer.beta, trainer.loss_types = 7.0, ["hinge"]
    assert metrics_of(trainer)[0] == wanted[0]
    trainer.args.beta = 7.0
    assert metrics_of(trainer)[0] != wanted[0]


def test_ld_alpha_is_part_of_the_reference_cache_key(tmp_path):
    def columns(**options):
        trainer: SELMTrainer = make_trainer(tmp_path, precompute_ref_log_probs=True, **options)
        return torch.tensor(trainer.train_dataset["ref_chosen_logps"][:])

    plain, shared = columns(), columns(ld_alpha=0.0)
    assert (shared >= plain).all()
    assert (shared > plain).any()
    assert torch.equal(columns(), plain)
