import json
import shutil

import pytest
from selm_core.online.state import (
    NotARunError,
    RunFolder,
    RunStateError,
    SettingsMismatchError,
    verify,
)

SETTINGS = {"config": {"alpha": 0.001, "seed": 0}, "model": "m"}
VERSIONS = {"torch": "2"}


def commit(folder, number, text="content"):
    with folder.commit(number, VERSIONS) as destination:
        (destination / "model").mkdir()
        (destination / "model" / "weights").write_text(text)
        (destination / "record.json").write_text(json.dumps({"iteration": number}))


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_new_run_has_nothing_completed(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run", SETTINGS)
    assert folder.completed is None
    assert json.loads((folder.path / "run.json").read_text())["settings"] == SETTINGS


def test_committed_iterations_are_found_again(tmp_path):
    folder = RunFolder(tmp_path, SETTINGS)
    commit(folder, 0)
    commit(folder, 1)
    assert RunFolder(tmp_path, SETTINGS).completed == 1
    assert (folder.iteration(1) / "model" / "weights").read_text() == "content"
    assert {p.name for p in tmp_path.iterdir()} == {"run.json", "HEAD", "iter_000", "iter_001"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_iteration_that_fails_leaves_the_committed_state_as_it_was(tmp_path, error):
    folder = RunFolder(tmp_path, SETTINGS)
    commit(folder, 0)
    before = files(tmp_path)

    def fail_half_way():
        with folder.commit(1, VERSIONS) as destination:
            (destination / "half").write_text("done")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert files(tmp_path) == before
    assert RunFolder(tmp_path, SETTINGS).completed == 0


def test_what_a_killed_run_left_is_removed(tmp_path):
    commit(RunFolder(tmp_path, SETTINGS), 0)
    before = files(tmp_path)
    for name in (
        "iter_001.tmp-0a1b2c3d",
        "iter_001",
    ):  # killed before the rename, and between the rename and HEAD
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text("half")
    assert RunFolder(tmp_path, SETTINGS).completed == 0
    assert files(tmp_path) == before


def test_other_settings_are_refused_by_naming_each_difference(tmp_path):
    commit(RunFolder(tmp_path, SETTINGS), 0)
    before = files(tmp_path)
    other = {"config": {"alpha": 0.0, "seed": 0, "beta": 1}, "model": "m"}
    with pytest.raises(SettingsMismatchError) as caught:
        RunFolder(tmp_path, other)
    assert "config.alpha: 0.001 there, 0.0 given" in str(caught.value)
    assert "config.beta: 'absent' there, 1 given" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert files(tmp_path) == before


def test_settings_may_be_corrected_before_anything_is_committed(tmp_path):
    RunFolder(tmp_path, SETTINGS)
    corrected = {**SETTINGS, "model": "n"}
    commit(RunFolder(tmp_path, corrected), 0)
    assert RunFolder(tmp_path, corrected).completed == 0
    with pytest.raises(SettingsMismatchError, match="model: 'n' there, 'm' given"):
        RunFolder(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format_version": 9, "settings": {}}'])
def test_a_run_file_of_another_program_is_not_touched(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(NotARunError, match="expected a run's file of format_version 1"):
        RunFolder(tmp_path, SETTINGS)
    assert files(tmp_path) == {"run.json": text.encode()}


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path):
    (tmp_path / "iter_holiday.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "iter_holiday.txt"):
        with pytest.raises(NotARunError, match="expected an empty folder or a run"):
            RunFolder(path, SETTINGS)
    assert files(tmp_path) == {"iter_holiday.txt": b"mine"}


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("iter_001/model/weights", lambda b: b[:-1], "expected 7 bytes, found 6"),
        ("iter_001/model/weights", lambda b: b[:-1] + b"T", "expected SHA-256"),
        ("iter_000/record.json", lambda b: b + b" ", "expected"),
        ("iter_000/manifest.json", lambda b: b.replace(b'"2"', b'"3"'), "expected SHA-256"),
        ("iter_001/manifest.json", lambda b: b"", "expected SHA-256"),
        ("run.json", lambda b: b + b" ", "expected SHA-256"),
        ("HEAD", lambda b: b[:5], "expected JSON"),
        ("HEAD", lambda b: b"9", "expected 'iteration' and 'manifest_sha256', found 9"),
        ("HEAD", lambda b: b"{}", "expected 'iteration' and 'manifest_sha256', found {}"),
    ],
)
def test_a_damaged_file_is_named_before_anything_changes(tmp_path, name, damage, message):
    folder = RunFolder(tmp_path, SETTINGS)
    commit(folder, 0)
    commit(folder, 1)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    before = files(tmp_path)
    with pytest.raises(RunStateError, match=message) as caught:
        RunFolder(tmp_path, SETTINGS)
    assert str(tmp_path / name) in str(caught.value)
    assert files(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotARunError, match="the folder cannot be made"):
        RunFolder(tmp_path / "file" / "run", SETTINGS)


def test_the_model_of_an_earlier_iteration_may_be_deleted(tmp_path):
    folder = RunFolder(tmp_path, SETTINGS)
    commit(folder, 0)
    commit(folder, 1)
    shutil.rmtree(folder.iteration(0) / "model")
    assert RunFolder(tmp_path, SETTINGS).completed == 1
    shutil.rmtree(folder.iteration(1) / "model")
    with pytest.raises(RunStateError, match=r"iter_001/model/weights"):
        RunFolder(tmp_path, SETTINGS)


def test_a_missing_file_is_named(tmp_path):
    commit(RunFolder(tmp_path, SETTINGS), 0)
    (tmp_path / "iter_000" / "model" / "weights").unlink()
    with pytest.raises(RunStateError, match="weights: expected a file of 7 bytes, found none"):
        verify(tmp_path)
