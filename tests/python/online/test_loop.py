import dataclasses
import json
import math
from statistics import fmean

import pytest
import torch
from selm_core.errors import InputError, UnsupportedError
from selm_core.online import (
    NoPairsError,
    OnlineConfig,
    OnlineSELM,
    SettingsMismatchError,
    TrainingDivergedError,
    training,
)
from selm_core.online.record import read_responses
from selm_core.online.training import _is_the_loops
from selm_core.trl import SELMConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

PROMPTS = [
    {"prompt": [{"role": "user", "content": text}]}
    for text in ["hi", "what", "why so", "who", "when is it", "b"]
]
HELD_OUT = [{"prompt": [{"role": "user", "content": text}]} for text in ["where", "how", "c"]]
TRAINING = {
    "alpha": 1e-2,
    "beta": 0.1,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "report_to": "none",
}
LORA = {"r": 4, "target_modules": "all-linear"}


def share_of_a(prompts, completions):
    """A judge with a simple taste and no ties."""
    return [text.count("a") / (len(text) + 1) + 1e-3 * len(text) for text in completions]


def run_config(output_dir, training=None, **changes):
    defaults = {"iterations": 2, "max_new_tokens": 8, "samples_per_prompt": 4, "lora": LORA}
    return OnlineConfig(
        output_dir=str(output_dir),
        training={**TRAINING, **(training or {})},
        **{**defaults, **changes},
    )


def run(model, config, *, judge=share_of_a, train=PROMPTS, held_out=HELD_OUT, **options):
    online = OnlineSELM(model, judge, train, config=config, eval_dataset=held_out)
    return online, online.run(**options)


def pairs_of(online, iteration):
    lines = (online.output_dir / f"iter_{iteration:03d}" / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def test_a_run_leaves_pairs_evaluations_and_a_model_per_iteration(tiny_model, tmp_path):
    online, records = run(tiny_model, run_config(tmp_path))
    assert [record.iteration for record in records] == [0, 1, 2]
    assert records[0].evaluation.win_rate == 0.5
    for record in records[1:]:
        assert record.prompts == 3
        assert 0 < record.pairs <= 3
        assert record.training.means["reward_accuracy"] is not None
        assert record.evaluation.kl > 0
        for pair in pairs_of(online, record.iteration):
            assert pair["chosen_score"] > pair["rejected_score"]
            assert pair["chosen_score"] == share_of_a([""], [pair["chosen"]["text"]])[0]
    before, after = weights(tiny_model), weights(online.policy(2))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_each_iteration_starts_from_the_one_before(tiny_model, tmp_path):
    """With a vanishing learning rate nothing moves, however many iterations follow."""
    online, records = run(tiny_model, run_config(tmp_path, {"learning_rate": 1e-12}))
    initial = read_responses(online.output_dir / "iter_000")
    assert read_responses(online.output_dir / "iter_002") == initial
    assert records[2].evaluation.kl == pytest.approx(0, abs=1e-6)
    # With a real one the second iteration starts from the first one's result.
    online, _ = run(tiny_model, run_config(tmp_path / "moved"))
    first, second = weights(online.policy(1)), weights(online.policy(2))
    distance = {name: (second[name] - first[name]).norm() for name in first}
    from_initial = {
        name: (second[name] - value).norm() for name, value in weights(tiny_model).items()
    }
    assert sum(distance.values()) < sum(from_initial.values())


def test_full_fine_tuning(tiny_model, tmp_path):
    online, records = run(tiny_model, run_config(tmp_path, {"learning_rate": 1e-3}, lora=None))
    first_step = records[2].training.steps[0]
    # policy and reference agree before the first step: margin 0, also in the second iteration
    assert first_step["reward_margin"] == pytest.approx(0, abs=1e-5)
    before, after = weights(tiny_model), weights(online.policy(2))
    assert all(
        not torch.equal(before[name], after[name]) for name in before if "layernorm" not in name
    )


def test_the_judges_taste_is_learned(tiny_model, tmp_path):
    def late_letters(prompts, completions):
        return [sum(c in "nopqrstuvwxyz" for c in text) / max(1, len(text)) for text in completions]

    prompts = [{"prompt": f"{first}{second}"} for first in "abcdefghi" for second in "rstuv"]
    training = {"per_device_train_batch_size": 4, "num_train_epochs": 3}
    config = run_config(tmp_path, training, iterations=3, samples_per_prompt=6)
    _, records = run(tiny_model, config, judge=late_letters, train=prompts)
    assert records[-1].evaluation.score > records[0].evaluation.score + 0.1
    assert records[-1].evaluation.win_rate > 0.5


def test_continuing_gives_what_an_undisturbed_run_gives(tiny_model, tmp_path):
    expected, _ = run(tiny_model, run_config(tmp_path / "undisturbed"))
    calls = 0

    def dies_in_the_second_iteration(prompts, completions):
        nonlocal calls
        calls += 1
        if calls == 4:  # initial evaluation, judge, evaluation, judge
            raise KeyboardInterrupt
        return share_of_a(prompts, completions)

    dies_in_the_second_iteration.__qualname__ = share_of_a.__qualname__
    config = run_config(tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, config, judge=dies_in_the_second_iteration)
    assert not (tmp_path / "interrupted" / "iter_002").exists()
    seen = []
    resumed, _ = run(tiny_model, config, on_iteration=seen.append)
    assert [record.iteration for record in seen] == [0, 1, 2]
    assert pairs_of(resumed, 2) == pairs_of(expected, 2)
    ours, theirs = weights(resumed.policy(2)), weights(expected.policy(2))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_complete_run_is_not_run_again(tiny_model, tmp_path):
    _, first = run(tiny_model, run_config(tmp_path))

    def never(prompts, completions):
        raise AssertionError

    never.__qualname__ = share_of_a.__qualname__
    _, again = run(tiny_model, run_config(tmp_path), judge=never)
    assert again == first


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "config.seed: 0 there, 1 given"),
        ({"training": {"alpha": 0.0}}, "config.training.alpha: 0.01 there, 0.0 given"),
        ({"lora": None}, "config.lora"),
        ({"train": PROMPTS[:-1]}, "train_dataset_sha256"),
        ({"held_out": HELD_OUT[:-1]}, "eval_dataset_sha256"),
        ({"judge": lambda prompts, completions: [0.0] * len(prompts)}, "judge:"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tiny_model, tmp_path, change, named):
    run(tiny_model, run_config(tmp_path, iterations=1))
    data = {key: change.pop(key) for key in ("train", "held_out", "judge") if key in change}
    with pytest.raises(SettingsMismatchError, match=named):
        run(tiny_model, run_config(tmp_path, iterations=1, **change), **data)


def test_another_model_is_refused(tiny_model, tmp_path):
    online, _ = run(tiny_model, run_config(tmp_path / "run", iterations=1))
    with pytest.raises(SettingsMismatchError, match="model: 'sha256:"):
        run(online.policy(1), run_config(tmp_path / "run", iterations=1))


@pytest.mark.parametrize("response", ["greedy", "sample"])
def test_alpha_zero_is_iterative_dpo_on_the_same_data(tiny_model, tmp_path, response):
    config = run_config(tmp_path / "selm", iterations=1, response=response)
    selm, _ = run(tiny_model, config)
    dpo_config = run_config(tmp_path / "dpo", {"alpha": 0.0}, iterations=1, response=response)
    dpo, records = run(tiny_model, dpo_config)
    assert all(pair["response"] is None for pair in pairs_of(dpo, 1))
    assert not records[1].training.means["exploration"]
    without = [{**pair, "response": None} for pair in pairs_of(selm, 1)]
    assert without == pairs_of(dpo, 1)


def test_a_list_of_alphas_has_one_for_each_iteration(tiny_model, tmp_path):
    config = run_config(tmp_path / "list", {"alpha": [0.5, 0.0]})
    online, records = run(tiny_model, config)
    explored = [record.training.means["exploration"] for record in records[1:]]
    assert explored[0]
    assert not explored[1]
    assert all(pair["response"] is not None for pair in pairs_of(online, 1))
    assert all(pair["response"] is None for pair in pairs_of(online, 2))
    constant, _ = run(tiny_model, run_config(tmp_path / "number", {"alpha": 0.5}, iterations=2))
    first, second = (weights(run.policy(1)) for run in (online, constant))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run(tiny_model, config)[1] == records


def test_a_schedule_that_rises_from_zero_explores_in_the_loop(tiny_model, tmp_path):
    rising = {"alpha": 0.0, "alpha_schedule": "linear", "final_alpha": 0.5, "num_train_epochs": 2}
    online, records = run(tiny_model, run_config(tmp_path, rising, iterations=1))
    assert records[1].training.means["exploration"]
    assert all(pair["response"] is not None for pair in pairs_of(online, 1))


def test_a_sampled_response_is_the_first_sample_and_a_greedy_one_is_greedy(tiny_model, tmp_path):
    seen = {}

    def judge(prompts, completions):
        seen.setdefault("calls", []).append((prompts, completions))
        return share_of_a(prompts, completions)

    sampled, _ = run(
        tiny_model,
        run_config(tmp_path / "s", iterations=1, response="sample"),
        judge=judge,
        held_out=None,
    )
    ((prompts, completions),) = seen["calls"]
    first = {p[-1]["content"]: c for p, c in reversed(list(zip(prompts, completions, strict=True)))}
    assert all(
        pair["response"]["text"] == first[pair["prompt"][-1]["content"]]
        for pair in pairs_of(sampled, 1)
    )

    greedy, _ = run(tiny_model, run_config(tmp_path / "g", iterations=1), held_out=None)
    shown, _ = run(
        tiny_model, run_config(tmp_path / "e", iterations=1), train=HELD_OUT, held_out=PROMPTS
    )
    by_prompt = {
        r.prompt[-1]["content"]: r.text for r in read_responses(shown.output_dir / "iter_000")
    }
    assert all(
        pair["response"]["text"] == by_prompt[pair["prompt"][-1]["content"]]
        for pair in pairs_of(greedy, 1)
    )


def test_preference_pairs_are_ranked_together_with_the_response(tiny_model, tmp_path):
    rows = [{"prompt": p["prompt"], "chosen": "abc", "rejected": "aaaaaaaa"} for p in PROMPTS]
    ranked = []

    def judge(prompts, completions):
        ranked.append(completions)
        return [
            100.0 if text == "aaaaaaaa" else -100.0 if text == "abc" else 0.0
            for text in completions
        ]

    config = run_config(tmp_path, iterations=1, samples_per_prompt=None)
    online, _ = run(tiny_model, config, judge=judge, train=rows, held_out=None)
    assert len(ranked[0]) == 3 * len(rows)
    for pair in pairs_of(online, 1):
        assert (pair["chosen"]["text"], pair["rejected"]["text"]) == ("aaaaaaaa", "abc")
        assert pair["chosen"]["token_ids"][-1] == 1  # a text from data ends with the end token
        assert pair["response"]["text"] not in ("aaaaaaaa", "abc")


def test_invalid_scores_and_ties_are_dropped_and_counted(tiny_model, tmp_path):
    def judge(prompts, completions):
        scores = [float(index) for index in range(len(prompts))]
        for index, prompt in enumerate(prompts):
            if prompt[-1]["content"] == "hi":
                scores[index] = 1.0
            if prompt[-1]["content"] == "what":
                scores[index] = float("nan")
        return scores

    _, records = run(tiny_model, run_config(tmp_path, iterations=1), judge=judge, held_out=None)
    assert records[1].pairs == 4
    assert records[1].dropped_prompts == {"tie": 1, "too_few_scores": 1}
    assert records[1].invalid_scores == {"nan": 4}


def test_an_iteration_without_a_pair_stops_with_the_counts(tiny_model, tmp_path):
    config = run_config(tmp_path)
    with pytest.raises(
        NoPairsError,
        match=r"iteration 1: no pair is left of 3 prompts \(no scores, 3 tie prompts dropped\)",
    ):
        run(tiny_model, config, judge=lambda prompts, completions: [0.0] * len(prompts))
    assert {p.name for p in tmp_path.iterdir()} == {"run.json", "HEAD", "iter_000"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"mean loss .* is nan \(first in log entry 2: nan\)"),
        ({"logging_steps": 100}, "mean loss .* is nan;"),
        ({"per_device_train_batch_size": 8}, "logits are not finite"),  # one step, with a good loss
    ],
)
def test_a_training_that_diverged_commits_nothing(tiny_model, tmp_path, options, message):
    training = {"learning_rate": 1e30, "max_grad_norm": 0.0, **options}
    with pytest.raises(TrainingDivergedError, match=message):
        run(tiny_model, run_config(tmp_path, training, lora=None), held_out=None)
    assert json.loads((tmp_path / "HEAD").read_text())["iteration"] == 0


def test_a_policy_without_a_kl_is_not_committed(tiny_model, tmp_path, monkeypatch):
    """The pairs that are checked after training may all have probabilities where another text has
    none."""
    monkeypatch.setattr(training, "_check_probabilities", lambda policy, pair: None)
    options = {"learning_rate": 1e30, "max_grad_norm": 0.0, "logging_steps": 1000}
    with pytest.raises(TrainingDivergedError, match="the KL to the initial model is nan"):
        run(tiny_model, run_config(tmp_path, {**options, "max_steps": 1}, lora=None))
    assert json.loads((tmp_path / "HEAD").read_text())["iteration"] == 0


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"iterations": 7}, {}, "a row for each of 7 iterations, got 6"),
        ({}, {"held_out": PROMPTS[:1]}, "without prompts of 'train_dataset'"),
        (
            {},
            {"train": [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2},
            "'samples_per_prompt' to be None",
        ),
        ({"training": {"output_dir": "x", "seed": 3}}, {}, r"without \['output_dir', 'seed'\]"),
        ({"training": {"push_to_hub": True}}, {}, r"without \['push_to_hub'\]"),
        (
            {"training": {"learning_rte": 1e-3}},
            {},
            r"arguments of SELMConfig, got \['learning_rte'\]",
        ),
        ({"training": {"bf16": "false"}}, {}, "'bf16' in 'training' to be NoneType or bool"),
        ({"training": {"use_cpu": 1}}, {}, "'use_cpu' in 'training' to be bool, got 1"),
        ({"training": {"learning_rate": "1e-3"}}, {}, "'learning_rate' in 'training' to be float"),
        ({"training": {"alpha": -1.0}}, {}, "'training': .*'alpha'"),
        ({"training": {"alpha": None}}, {}, "'alpha' in 'training' to be float, got None"),
        ({"training": {"alpha": [0.1]}}, {}, r"each of 2 iterations, got \[0.1\]"),
        ({"training": {"alpha": [0.1, -1.0]}}, {}, "'training': .*'alpha'"),
        ({"training": {"alpha": [0.1, None]}}, {}, "'alpha' in 'training' to be float, got None"),
        ({"training": {"beta": [0.1, 0.2]}}, {}, "'beta' in 'training' to be float"),
        ({"training": {"exploration": "xpo"}}, {}, "to be 'selm', got 'xpo': the loop is SELM's"),
        ({"training": {"num_train_epochs": 0}}, {}, "'num_train_epochs' in 'training' to be a num"),
        ({"training": {"max_steps": 0}}, {}, "'max_steps' in 'training' to be -1 or at least 1"),
        (
            {"training": {"per_device_train_batch_size": 0}},
            {},
            "'per_device_train_batch_size' in 'training' to be at least 1, got 0",
        ),
        ({"training": {"report_to": "nobody"}}, {}, "report_to in 'training': nobody is not"),
        ({"training": {"report_to": "azure_ml"}}, {}, "report_to in 'training': .*azure"),
        ({"training": {"optim": "adamw_bnb_8bit"}}, {}, "optim .*'training': .*bitsandbytes"),
        ({"training": {"learning_rate": -1.0}}, {}, "optim .*'training': Invalid learning rate"),
        ({"training": {"lr_scheduler_type": "up"}}, {}, "'training': up is not a valid"),
        (
            {"training": {"lr_scheduler_type": "cosine_with_min_lr"}},
            {},
            "lr_scheduler_type .*'training': .*min_lr",
        ),
        ({"training": {"max_length": 5}}, {}, "'max_length' in 'training' to be above .* got 5"),
        ({"lora": {"rank": 4}}, {}, r"'lora' to hold arguments of LoraConfig, got \['rank'\]"),
        ({"lora": {"inference_mode": True}}, {}, r"got \['inference_mode'\]"),
        ({"lora": {"r": "4"}}, {}, "'r' in 'lora' to be int, got '4'"),
        ({"lora": {"use_rslora": "no"}}, {}, "'use_rslora' in 'lora' to be bool"),
        ({"lora": {"r": 0, "target_modules": "all-linear"}}, {}, "'lora': `r` should be"),
        ({"lora": {"layers_pattern": "x"}}, {}, "'lora': .*layers_to_transform"),
        ({"lora": {"target_modules": ["no_such_module"]}}, {}, "'lora': .*no_such_module"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny_model, tmp_path, options, data, message
):
    with pytest.raises(InputError, match=message):
        run(tiny_model, run_config(tmp_path / "run", **options), **data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["deepspeed", "fsdp"])
def test_options_of_launchers_are_refused_before_anything_is_written(tiny_model, tmp_path, option):
    with pytest.raises(UnsupportedError, match=rf"without \['{option}'\]: .* one process"):
        run(tiny_model, run_config(tmp_path / "run", training={option: "missing.json"}))
    assert not (tmp_path / "run").exists()


def test_an_adapter_on_the_head_is_refused_before_anything_is_written(tiny_model, tmp_path):
    config = run_config(tmp_path / "run", lora={"target_modules": ["q_proj", "lm_head"]})
    with pytest.raises(UnsupportedError, match="a PEFT adapter on the output head"):
        run(tiny_model, config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("initial", ["pissa", "olora", "gaussian", "eva"])
def test_adapters_whose_initial_values_depend_on_the_weights_pass_the_check(
    tiny_model, tmp_path, initial
):
    lora = {**LORA, "init_lora_weights": initial}
    OnlineSELM(tiny_model, share_of_a, PROMPTS, config=run_config(tmp_path / "run", lora=lora))


def test_a_model_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"expected 'model' to be a folder.*got '.*nothing'"):
        run(tmp_path / "nothing", run_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_pairs_need_an_end_token(tiny_model, tmp_path):
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
    config = run_config(tmp_path / "run", samples_per_prompt=None)
    with pytest.raises(InputError, match="a tokenizer with an end token"):
        run(tmp_path / "model", config, train=rows)
    assert not (tmp_path / "run").exists()


def test_every_option_of_what_the_loop_does_itself_is_refused():
    names = {field.name for field in dataclasses.fields(SELMConfig)}
    refused = {name for name in names if _is_the_loops(name)}
    assert refused >= {
        name
        for name in names
        if name.startswith(("save_", "eval_", "hub_", "do_", "load_best")) or name.endswith("_eval")
    }
    assert refused >= {"push_to_hub", "resume_from_checkpoint", "per_device_eval_batch_size"}
    assert not refused & {
        "activation_checkpointing",
        "alpha",
        "gradient_checkpointing",
        "learning_rate",
        "logging_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "precompute_ref_log_probs",
        "report_to",
        "use_cpu",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("iterations", True),
        ("samples_per_prompt", 1),
        ("response", "beam"),
        ("max_new_tokens", 0),
        ("output_dir", 3),
        ("output_dir", ""),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", "1"),
        ("dtype", "floaty"),
        ("dtype", "int8"),
        ("dtype", None),
        ("top_k", -1),
        ("top_p", 1.5),
        ("generation_batch_size", 2.5),
        ("judge_batch_size", 0),
        ("seed", -1),
        ("training", None),
        ("training", {"learning_rate": math.nan}),
        ("lora", "all-linear"),
        ("lora", {"target_modules": {"q_proj"}}),
    ],
)
def test_options_are_checked_by_name(name, value):
    with pytest.raises(InputError, match=f"OnlineConfig: expected '{name}' to be"):
        dataclasses.replace(OnlineConfig("x"), **{name: value})


def test_several_processes_are_refused(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(SELMConfig, "world_size", 2)
    with pytest.raises(UnsupportedError, match="expected one process, got 2"):
        run(tiny_model, run_config(tmp_path))


def test_evaluation_means_are_of_the_stored_responses(tiny_model, tmp_path):
    online, records = run(tiny_model, run_config(tmp_path, iterations=1))
    stored = read_responses(online.output_dir / "iter_001")
    assert [r.prompt for r in stored] == [row["prompt"] for row in HELD_OUT]
    assert records[1].evaluation.score == pytest.approx(fmean(r.score for r in stored))
    assert records[1].evaluation.response_tokens == pytest.approx(fmean(r.tokens for r in stored))
