"""The SELM loss of the trainer against the model's own logits in float64."""

import copy

import pytest
import torch
from datasets import Dataset
from selm_core.trl import SELMTrainer
from tiny_models import (
    batch_of,
    gradients,
    text_dataset,
    text_examples,
    tiny_config,
    tiny_llama,
    tiny_tokenizer,
)

ALPHA, BETA = 0.5, 0.3
ROWS = [0, 1, 2, 3]


def make_trainer(tmp_path, dataset=None, **options):
    options = {"alpha": ALPHA, "beta": BETA, **options}
    return SELMTrainer(
        tiny_llama(),
        ref_model=tiny_llama(seed=1),
        args=tiny_config(tmp_path, **options),
        train_dataset=text_dataset() if dataset is None else dataset,
        processing_class=tiny_tokenizer(),
    )


def sequence_logp(model, prompt, completion):
    """Log-probability of one completion from the full float64 logits, without padding."""
    ids = torch.tensor([prompt + completion])
    logps = model(input_ids=ids).logits[0].log_softmax(-1)
    steps = range(len(prompt), ids.size(1))
    return sum(logps[t - 1, ids[0, t]] for t in steps)


def paper_loss(policy, reference, examples, alpha=ALPHA, beta=BETA, exploration="selm"):
    """Mean over the examples of arXiv 2405.19332, eq. 4.2 (or XPO's term), in float64."""
    losses = []
    for example in examples:
        rho, logp = {}, {}
        for completion in ("chosen", "rejected", "response"):
            arguments = example["prompt_ids"], example[f"{completion}_ids"]
            logp[completion] = sequence_logp(policy, *arguments)
            with torch.no_grad():
                rho[completion] = logp[completion] - sequence_logp(reference, *arguments)
            rho[completion] = rho[completion] + logp[completion] - logp[completion].detach()
        dpo = torch.log1p(torch.exp(-beta * (rho["chosen"] - rho["rejected"])))
        term = alpha * beta * rho["response"] if exploration == "selm" else alpha * logp["response"]
        losses.append(dpo + term)
    return torch.stack(losses).mean()


def assert_matches_paper(trainer, rows=ROWS, **options):
    policy = copy.deepcopy(trainer.model).double()
    reference = copy.deepcopy(trainer.ref_model).double()
    expected = paper_loss(policy, reference, [trainer.train_dataset[i] for i in rows], **options)
    expected.backward()

    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, rows))
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6, check_dtype=False)
    wanted = gradients(policy)
    scale = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in gradients(trainer.model).items():
        torch.testing.assert_close(grad.double(), wanted[name], rtol=1e-3, atol=1e-5 * scale)


def test_loss_and_gradient_are_those_of_the_paper(tmp_path):
    assert_matches_paper(make_trainer(tmp_path))


def test_xpo_loss_and_gradient(tmp_path):
    assert_matches_paper(make_trainer(tmp_path, exploration="xpo"), exploration="xpo")


def test_xpo_gradient_is_that_of_selm_at_alpha_times_beta(tmp_path):
    selm, xpo = (
        make_trainer(tmp_path, alpha=alpha, exploration=kind)
        for kind, alpha in (("selm", ALPHA), ("xpo", ALPHA * BETA))
    )
    for trainer in (selm, xpo):
        trainer.compute_loss(trainer.model, batch_of(trainer, ROWS)).backward()
    wanted = gradients(selm.model)
    for name, grad in gradients(xpo.model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_label_smoothing_mixes_both_labels(tmp_path):
    def dpo(**options):
        trainer = make_trainer(tmp_path, alpha=0.0, **options)
        return trainer.compute_loss(trainer.model, batch_of(trainer, ROWS)).item()

    swapped = Dataset.from_list(
        [{**e, "chosen": e["rejected"], "rejected": e["chosen"]} for e in text_examples()]
    )
    expected = 0.8 * dpo() + 0.2 * dpo(dataset=swapped)
    assert dpo(label_smoothing=0.2) == pytest.approx(expected, rel=1e-5)


def shared_responses():
    """Responses that are the chosen one, the rejected one, another example's, and a new one."""
    examples = text_examples(4)
    examples[0]["response"] = examples[0]["chosen"]
    examples[1]["response"] = examples[1]["rejected"]
    examples[3] = {**examples[2], "rejected": "something else"}
    return Dataset.from_list(examples)


def test_equal_rows_are_scored_once(tmp_path):
    trainer = make_trainer(tmp_path, shared_responses())
    batch = batch_of(trainer, ROWS)
    # 4 x 3 completions; the two responses above, and example 3's chosen and response, are shared.
    assert len(batch["input_ids"]) == 12 - 4
    assert len({tuple(row) for row in batch["input_ids"].tolist()}) == 12 - 4
    assert_matches_paper(trainer)


def rows_run(trainer, batch):
    """Number of rows of each pass of the backbones of policy and reference."""
    shapes = []
    hooks = [
        model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        for model in (trainer.model, trainer.ref_model)
    ]
    trainer.compute_loss(trainer.model, batch)
    for hook in hooks:
        hook.remove()
    return [rows for rows, _ in shapes]


def test_one_forward_of_each_model_scores_all_rows(tmp_path):
    trainer = make_trainer(tmp_path)
    assert rows_run(trainer, batch_of(trainer, ROWS)) == [12, 12]


def test_alpha_zero_costs_no_third_row(tmp_path):
    trainer = make_trainer(tmp_path, text_dataset(), alpha=0.0)
    assert rows_run(trainer, batch_of(trainer, ROWS)) == [8, 8]


def test_a_response_that_is_the_chosen_one_costs_nothing(tmp_path):
    examples = [{**example, "response": example["chosen"]} for example in text_examples()]
    trainer = make_trainer(tmp_path, Dataset.from_list(examples))
    assert rows_run(trainer, batch_of(trainer, ROWS)) == [8, 8]


def test_logged_parts_add_up_to_the_loss(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = batch_of(trainer, ROWS)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch).item()
    metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    assert metrics["loss/dpo"] + metrics["loss/selm"] == pytest.approx(loss, rel=1e-6)
    assert metrics["loss/selm"] == pytest.approx(ALPHA * metrics["rewards/response"], rel=1e-5)
    policy = copy.deepcopy(trainer.model).double()
    logps = [
        float(sequence_logp(policy, row["prompt_ids"], row["response_ids"]))
        for row in map(trainer.train_dataset.__getitem__, ROWS)
    ]
    assert metrics["logps/response"] == pytest.approx(sum(logps) / 4, rel=1e-5)


def test_training_lowers_the_likelihood_of_the_response(tmp_path):
    def final_logps(alpha):
        trainer = make_trainer(tmp_path, alpha=alpha, max_steps=8, learning_rate=1e-3)
        trainer.train()
        return trainer.state.log_history[-2]["logps/response"]

    assert final_logps(10.0) < final_logps(0.1) - 1.0


@pytest.mark.parametrize("options", [{"activation_checkpointing": True}, {"bf16": True}])
def test_checkpointing_and_autocast_change_only_the_rounding(tmp_path, options):
    plain, other = make_trainer(tmp_path), make_trainer(tmp_path, **options)
    wanted = float(plain.compute_loss(plain.model, batch_of(plain, ROWS)))
    loss = other.compute_loss(other.model, batch_of(other, ROWS))
    loss.backward()
    assert float(loss) == pytest.approx(wanted, rel=1e-6 if "bf16" not in options else 0.05)
    assert all(parameter.grad.isfinite().all() for parameter in other.model.parameters())


@pytest.mark.parametrize(("options", "dtype"), [({}, "float32"), ({"bf16": True}, "bfloat16")])
def test_mixed_precision_reaches_policy_and_reference(tmp_path, options, dtype):
    trainer = make_trainer(tmp_path, **options)
    found = []
    for model in (trainer.model, trainer.ref_model):
        projection = model.model.layers[0].self_attn.q_proj
        projection.register_forward_hook(lambda module, inputs, output: found.append(output.dtype))
    trainer.compute_loss(trainer.model, batch_of(trainer, ROWS))
    assert found == [getattr(torch, dtype)] * 2


def test_gradient_accumulation_gives_the_step_of_the_whole_batch(tmp_path):
    weights = []
    for batch, steps in ((4, 1), (2, 2)):
        trainer = make_trainer(
            tmp_path,
            text_dataset(4),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=2,
            optim="sgd",
            learning_rate=0.1,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    start = tiny_llama().state_dict()
    assert any((weights[0][name] - start[name]).abs().max() > 1e-3 for name in start)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-6)


def test_evaluation_logs_the_metrics_with_prefix(tmp_path):
    trainer = make_trainer(tmp_path)
    metrics = trainer.evaluate(text_dataset(3))
    logged = trainer.state.log_history[-1]
    for name in ("loss", "loss/selm", "logps/response", "rewards/response", "rewards/accuracies"):
        assert f"eval_{name}" in logged
    policy = copy.deepcopy(trainer.model).double()
    reference = copy.deepcopy(trainer.ref_model).double()
    losses = [
        float(paper_loss(policy, reference, [trainer.train_dataset[i] for i in rows]).detach())
        for rows in ([0, 1], [2])
    ]
    # The loop weighs every batch alike, as in TRL.
    assert metrics["eval_loss"] == pytest.approx((2 * losses[0] + losses[1]) / 3, rel=1e-5)
