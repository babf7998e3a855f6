"""A run on disk: one folder per committed iteration, and `HEAD`, the file that says which one is
the last.

    run.json        settings of the run, written once
    HEAD            iteration and the SHA-256 of its manifest
    iter_000/       the initial model's evaluation
    iter_001/       record.json, pairs.jsonl, evaluation.json, model/, manifest.json
    ...

An iteration is written into a temporary folder, flushed, described by a manifest (size and SHA-256
of every file, SHA-256 of the previous manifest), renamed into place, and only then does HEAD move
to it. Whatever the chain HEAD -> manifest -> manifest -> run.json does not vouch for was never
committed and is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from selm_core.errors import UserError

FORMAT_VERSION = 1
MODEL = "model"  # the folder inside an iteration's that holds its policy


class RunStateError(UserError, RuntimeError):
    """The folder's content is not what was committed."""


class SettingsMismatchError(UserError, ValueError):
    """The folder holds a run with other settings."""


class NotARunError(UserError, FileExistsError):
    """The folder holds something else than a run."""


class RunFolder:
    """Opens the run in `path`, or starts one there. Raises, with everything left as it was,
    SettingsMismatchError if the run there has other `settings`, RunStateError if its files are
    damaged, NotARunError if the folder holds something else."""

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        """Opens or starts the run."""
        self.path = Path(path)
        run_file = self.path / "run.json"
        settings = json.loads(json.dumps(settings))
        if run_file.exists():
            stored = _read_settings(run_file)
        elif self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise NotARunError(
                f"{self.path}: expected an empty folder or a run (run.json), found other files"
            )
        if (self.path / "HEAD").exists():
            _check_settings(self.path, stored, settings)
        else:  # nothing is committed: what failed before its first iteration may be corrected
            _make_folder(self.path)
            _write_atomically(run_file, {"format_version": FORMAT_VERSION, "settings": settings})
        self.completed = verify(self.path)
        self._remove_uncommitted()

    def iteration(self, number: int) -> Path:
        """Where an iteration of this run lies once it is committed."""
        return iteration_path(self.path, number)

    @contextmanager
    def commit(self, number: int, versions: dict[str, str]) -> Iterator[Path]:
        """A temporary folder that becomes iteration `number` when the block ends, and is removed if
        it raises."""
        final = self.iteration(number)
        temporary = final.with_name(f"{final.name}.tmp-{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            yield temporary
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            manifest = {
                "format_version": FORMAT_VERSION,
                "iteration": number,
                "parent_sha256": _sha256(self._parent_manifest(number)),
                "versions": versions,
                "files": {
                    str(p.relative_to(temporary)): {"size": p.stat().st_size, "sha256": _sha256(p)}
                    for p in files
                },
            }
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
            for path in [*temporary.rglob("*"), temporary]:
                _fsync(path)
            os.rename(temporary, final)
            _fsync(self.path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _write_atomically(
            self.path / "HEAD",
            {"iteration": number, "manifest_sha256": _sha256(final / "manifest.json")},
        )
        self.completed = number

    def _parent_manifest(self, number: int) -> Path:
        return (
            self.iteration(number - 1) / "manifest.json" if number > 0 else self.path / "run.json"
        )

    def _remove_uncommitted(self) -> None:
        committed = {
            self.iteration(number)
            for number in range(0 if self.completed is None else self.completed + 1)
        }
        for folder in set(self.path.glob("iter_*")) - committed:
            shutil.rmtree(folder)


def iteration_path(run: Path, number: int) -> Path:
    """Where an iteration lies once it is committed."""
    return run / f"iter_{number:03d}"


def verify(path: Path) -> int | None:
    """The last committed iteration, every file of the chain checked; None before the first. Changes
    nothing. The models of earlier iterations are not needed any more: they may have been deleted."""
    head_file = path / "HEAD"
    if not head_file.exists():
        return None
    head = _read_json(head_file)
    if not isinstance(head, dict) or head.keys() != {"iteration", "manifest_sha256"}:
        raise RunStateError(
            f"{head_file}: expected 'iteration' and 'manifest_sha256', found {head}"
        )
    expected = head["manifest_sha256"]
    for number in range(head["iteration"], -1, -1):
        folder = iteration_path(path, number)
        manifest = _checked_manifest(folder / "manifest.json", expected)
        deleted = number < head["iteration"] and not (folder / MODEL).exists()
        for name, file in manifest["files"].items():
            if not (deleted and Path(name).parts[0] == MODEL):
                _check_file(folder / name, file["size"], file["sha256"])
        expected = manifest["parent_sha256"]
    _check_sha256(path / "run.json", expected)
    return int(head["iteration"])


def _checked_manifest(file: Path, expected: str) -> dict[str, Any]:
    _check_sha256(file, expected)
    manifest = _read_json(file)
    if manifest["format_version"] != FORMAT_VERSION:
        raise RunStateError(
            f"{file}: expected format_version {FORMAT_VERSION}, found {manifest['format_version']}"
        )
    return cast(dict[str, Any], manifest)


def _check_file(file: Path, size: int, sha256: str) -> None:
    if not file.is_file():
        raise RunStateError(f"{file}: expected a file of {size} bytes, found none")
    if file.stat().st_size != size:
        raise RunStateError(f"{file}: expected {size} bytes, found {file.stat().st_size}")
    _check_sha256(file, sha256)


def _check_sha256(file: Path, expected: str) -> None:
    if not file.is_file():
        raise RunStateError(f"{file}: expected a file with SHA-256 {expected}, found none")
    found = _sha256(file)
    if found != expected:
        raise RunStateError(f"{file}: expected SHA-256 {expected}, found {found}")


def _check_settings(path: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    stored, given = _flatten(stored), _flatten(given)
    differences = [
        f"{key}: {stored.get(key, 'absent')!r} there, {given.get(key, 'absent')!r} given"
        for key in sorted(stored.keys() | given.keys())
        if stored.get(key, "absent") != given.get(key, "absent")
    ]
    if differences:
        raise SettingsMismatchError(
            f"{path} holds a run with other settings ({'; '.join(differences)}): "
            "use the same settings to continue it, another folder, or delete this one"
        )


def _read_settings(run_file: Path) -> dict[str, Any]:
    content = _read_json(run_file)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise NotARunError(
            f"{run_file}: expected a run's file of format_version {FORMAT_VERSION}, found another"
        )
    return cast(dict[str, Any], content["settings"])


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotARunError(f"{path}: the folder cannot be made: {error}") from error


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise RunStateError(f"{file}: expected JSON, found something else ({error})") from error


def _write_atomically(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_name(f"{file.name}.tmp-{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(content, indent=1))
    _fsync(temporary)
    os.replace(temporary, file)
    _fsync(file.parent)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
