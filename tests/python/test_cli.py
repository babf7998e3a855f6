import json
import subprocess
import sys

import pytest
import selm_core
from selm_core import cli


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


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_info", interrupted)
    assert cli.main(["info"]) == 130
    assert "run the same command again" in capsys.readouterr().err
