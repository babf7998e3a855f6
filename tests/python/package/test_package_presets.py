"""The presets that CONTRIBUTING names configure, build and pass their tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cmake_projects import CMEEL_PREFIX, REPOSITORY, Project, run

PRESETS = json.loads((REPOSITORY / "CMakePresets.json").read_text())


def configure(preset: str, build: Path, *definitions: str) -> str:
    return run(
        *("cmake", "--preset", preset, "-S", REPOSITORY, "-B", build, "-G", "Ninja"),
        *(f"-D{definition}" for definition in (f"CMAKE_PREFIX_PATH={CMEEL_PREFIX}", *definitions)),
    ).stdout


def test_every_preset_can_be_built() -> None:
    names = {p["name"] for p in PRESETS["configurePresets"] if not p.get("hidden")}
    assert {p["configurePreset"] for p in PRESETS["buildPresets"]} == names


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("SELM_WITH_CUDA=0", "expected SELM_WITH_CUDA to be AUTO, ON or OFF, got '0'"),
        ("SELM_WITH_TORCH=maybe", "expected SELM_WITH_TORCH to be AUTO, ON or OFF, got 'maybe'"),
    ],
)
def test_an_option_of_another_value_is_refused(
    definition: str, message: str, project: Callable[[str], Project]
) -> None:
    refused = project(".").configure(definition, check=False)
    assert refused.returncode != 0
    assert message in " ".join(refused.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["core", "asan"])
def test_presets_without_torch_build_and_pass(preset: str, tmp_path: Path) -> None:
    output = configure(preset, tmp_path)
    assert "SELM_WITH_TORCH=OFF (asked for)" in output
    assert "SELM_WITH_CUDA=OFF (asked for)" in output
    run("cmake", "--build", tmp_path, "--parallel", "2")
    run("ctest", "--test-dir", tmp_path, "--output-on-failure", "--no-tests=error")


@pytest.mark.slow
def test_examples_build_inside_and_pass(tmp_path: Path) -> None:
    """With LibTorch and without CUDA: the one combination that no other test builds."""
    output = configure("release", tmp_path, "SELM_WITH_CUDA=OFF", "SELM_BUILD_EXAMPLES=ON")
    assert "SELM_WITH_TORCH=ON" in output
    run("cmake", "--build", tmp_path, "--parallel", "2")
    run("ctest", "--test-dir", tmp_path, "--output-on-failure", "--no-tests=error")
