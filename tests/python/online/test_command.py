"""`selm train` from the outside."""

import json
import signal
import subprocess
import sys
import time

import pytest

JUDGES = """
import pathlib, time

def length(prompts, completions):
    if pathlib.Path("slow").exists():
        pathlib.Path("judging").touch()
        time.sleep(60)
    return [len(text) + 0.1 * index for index, text in enumerate(completions)]
"""


@pytest.fixture
def folder(tmp_path, tiny_model):
    (tmp_path / "my_judges.py").write_text(JUDGES)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (tmp_path / "eval.jsonl").write_text('{"prompt": "c"}\n')
    config = {
        "model": str(tiny_model),
        "judge": "my_judges:length",
        "train": "train.jsonl",
        "eval": "eval.jsonl",
        "online": {
            "output_dir": "run",
            "iterations": 2,
            "max_new_tokens": 4,
            "training": {"use_cpu": True, "bf16": False, "report_to": "none"},
            "lora": {"r": 2, "target_modules": "all-linear"},
        },
    }
    (tmp_path / "short.json").write_text(json.dumps(config))
    return tmp_path


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "selm_core", "train", "short.json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_run_prints_a_line_per_iteration_and_where_its_results_lie(folder):
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Warning" not in err
    lines = [line for line in out.splitlines() if line]
    assert [line.split(" | ")[0] for line in lines[:3]] == [
        "initial model",
        "iteration 1",
        "iteration 2",
    ]
    assert lines[3:] == ["report: run/report.html", "model:  run/iter_002/model"]
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "run" / "iter_002" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_ctrl_c_leaves_committed_state_and_the_same_command_goes_on(folder):
    (folder / "slow").touch()
    process = start(folder)
    while not (folder / "judging").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "selm: interrupted; run the same command again to continue"
    assert [p.name for p in (folder / "run").iterdir()] == ["run.json"]
    (folder / "slow").unlink()
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "iteration 2 |" in out


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_one_clear_line(folder):
    assert start(folder).communicate(timeout=300)
    config = (folder / "short.json").read_text()
    (folder / "short.json").write_text(config.replace('"max_new_tokens": 4', '"max_new_tokens": 5'))
    process = start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "config.max_new_tokens: 4 there, 5 given" in err.splitlines()[-1]
    assert "Traceback" not in err
