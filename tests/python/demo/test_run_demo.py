"""`selm demo` from prompts to report, with a model of random weights and a judge of one line."""

import dataclasses
import re

import pytest
from selm_core import cli
from selm_core.demo import run as demo
from selm_core.online import OnlineConfig
from tiny_models import tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


class TinyJudge:
    """Has a taste without ties and a part, as the demo's judge has."""

    def __call__(self, prompts, completions):
        return [1e-3 * sum(map(ord, text)) for text in completions]

    def parts(self, prompts, completions):
        return {"letters": self(prompts, completions)}


@pytest.fixture
def tiny_demo(monkeypatch, tmp_path):
    """The demo, made small where it takes long; everything else is as it is."""
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    full_config, full_prompts = demo.demo_config, demo.load_prompts
    monkeypatch.setattr(demo, "demo_model", lambda: tmp_path / "model")
    monkeypatch.setattr(demo, "OfflineJudge", TinyJudge)
    monkeypatch.setattr(
        demo,
        "demo_config",
        lambda *arguments, **options: dataclasses.replace(
            full_config(*arguments, **options), iterations=2, max_new_tokens=6
        ),
    )
    monkeypatch.setattr(demo, "load_prompts", lambda split: full_prompts(split)[:6])
    return tmp_path / "run"


def run(output, *options):
    assert cli.main(["demo", "--output", str(output), *options]) == 0


def modified(output):
    return {path: path.stat().st_mtime_ns for path in output.glob("iter_*/**/*") if path.is_file()}


def test_the_demo_leaves_a_report_a_model_and_samples(tiny_demo, capsys):
    run(tiny_demo)
    last = demo.demo_config(tiny_demo).iterations
    printed = capsys.readouterr().out
    model = tiny_demo / f"iter_{last:03d}" / "model"
    assert f"report: {tiny_demo / 'report.html'}" in printed
    assert f"model:  {model}" in printed
    for label in ("initial model |", *(f"iteration {n} |" for n in range(1, last + 1))):
        assert label in printed
    shown = [row["prompt"][-1]["content"] for row in demo.load_prompts("held_out")]
    for question in shown[: demo.SAMPLES_SHOWN]:
        assert question in printed
    assert printed.count("    before ") == printed.count("    after  ") == demo.SAMPLES_SHOWN

    trained, tokenizer = (
        kind.from_pretrained(model) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    ids = tokenizer("abc", return_tensors="pt").input_ids
    assert trained.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]

    page = (tiny_demo / "report.html").read_text()
    assert page.count("<svg") > 1
    assert all(question in page for question in shown)
    assert all(field.name in page for field in dataclasses.fields(OnlineConfig)[1:])
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)|@import|url\((?!#|data:)""", page)


def test_a_finished_demo_is_shown_again_and_restart_starts_anew(tiny_demo, capsys):
    run(tiny_demo)
    first, before = capsys.readouterr().out, modified(tiny_demo)
    run(tiny_demo)
    assert modified(tiny_demo) == before
    assert without_seconds(capsys.readouterr().out) == without_seconds(first)
    run(tiny_demo, "--restart")
    assert modified(tiny_demo).keys() == before.keys()
    assert all(modified(tiny_demo)[path] > time for path, time in before.items())
    assert without_seconds(capsys.readouterr().out) == without_seconds(first)


def without_seconds(printed):
    return re.sub(r"^\d+ s;", "", printed, flags=re.MULTILINE)


def test_other_options_in_the_folder_say_how_to_start_again(tiny_demo, capsys):
    run(tiny_demo)
    assert cli.main(["demo", "--output", str(tiny_demo), "--seed", "1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "config.seed: 0 there, 1 given" in error
    assert "`selm demo --restart` deletes it and starts again" in error
