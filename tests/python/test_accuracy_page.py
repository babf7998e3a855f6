"""docs/accuracy.md is of the current losses, and the script behind it measures what it says."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from mpmath import mp, mpf
from trl.trainer.dpo_config import DPOConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmarks():
    """Imports a module of the script as where the script runs."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)


def losses_of_the_library():
    headers = (ROOT / "include/selm/core").glob("*_losses.hpp")
    return set(re.findall(r'LossTraits\("(\w+)"\)', "".join(h.read_text() for h in headers)))


def test_every_loss_is_measured(benchmarks):
    losses = losses_of_the_library()
    assert "sigmoid" in losses
    assert {options.loss_type for options in benchmarks("accuracy_pairs").LOSSES} == losses


def losses_of_trl():
    """As the help of its option names them, and those of its CPO and ORPO trainers."""
    listed = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"].split(". If")[0]
    return {*re.findall(r"`'(\w+)'`", listed), "simpo", "orpo"}


def test_every_table_of_losses_names_every_loss_of_trl_and_none_that_is_gone():
    """A loss that is new here joins the page when the script runs."""
    page = (ROOT / "docs/accuracy.md").read_text()
    tables = re.findall(r"^### (?:Value|Gradient).*?(?=^#)", page, re.M | re.S)
    assert len(tables) == 10
    for table in tables:
        named = set(re.findall(r"^\| `(\w+)`", table, re.M))
        assert losses_of_trl() <= named <= losses_of_the_library()


def test_the_page_says_that_every_promise_was_kept():
    page = (ROOT / "docs/accuracy.md").read_text()
    assert page.count("| kept |") == 8
    assert "broken" not in page


def test_errors_are_counted_in_distances_of_neighbouring_numbers(benchmarks):
    errors = benchmarks("accuracy_errors")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for value in (1.0, 1.5, 300.0, 2.0**-20, torch.finfo(dtype).smallest_normal / 4):
            x = torch.tensor(value, dtype=dtype)
            above = torch.nextafter(x, torch.tensor(torch.inf, dtype=dtype)).item()
            assert errors.error(above, mpf(x.item()), dtype) == 1
            with mp.workdps(50):
                between = (mpf(above) + mpf(x.item())) / 2
            assert errors.error(x.item(), between, dtype) == -0.5
    assert errors.error(float("inf"), mpf("1e40"), torch.float32) == 0
    for lost in (float("nan"), float("inf"), float("-inf")):
        assert errors.error(lost, mpf("1e30"), torch.float32) is None
    found = errors.errors_in_ulp([1.0, 1.0 - 2**-24, float("nan")], [mpf(1)] * 3, torch.float32)
    assert (found.largest, found.mean, found.bias, found.lost) == (0.5, 0.25, -0.25, 1)


def test_a_small_run_finds_us_exact_and_another_library_off(benchmarks):
    pairs, peers = benchmarks("accuracy_pairs"), benchmarks("accuracy_peers")
    measure = benchmarks("accuracy_losses").measure
    ours = peers.ours([options.loss_type for options in pairs.LOSSES])
    off = {name: shifted(f) for name, f in ours.losses.items()}
    libraries = [ours, peers.Library("off", "0", off)]
    for make in (pairs.realistic_pairs, pairs.stress_pairs):
        inputs = [pair.rounded(torch.float32) for pair in make(4)]
        for options in pairs.LOSSES:
            errors, share = measure(options, inputs, torch.float32, libraries)
            assert 0 < share <= 0.26
            assert errors["value"]["selm_core"].largest <= 0.51
            assert errors["gradient"]["selm_core"].largest <= 0.51
            assert 3 < errors["value"]["off"].largest < 10
            assert errors["gradient"]["off"].largest < 10


def shifted(loss):
    """Larger by 4 to 8 ulp."""
    return lambda *arguments: loss(*arguments) * (1 + 2.0**-21)


def test_the_libraries_compute_the_same_losses(benchmarks):
    pairs, peers = benchmarks("accuracy_pairs"), benchmarks("accuracy_peers")
    libraries = [peers.trl(), peers.liger(), peers.eager()]
    trl, _, eager = (set(library.losses) for library in libraries)
    assert trl == losses_of_trl()
    assert trl <= eager <= losses_of_the_library()
    (pair,) = pairs.realistic_pairs(1)
    for library in libraries:
        for options in pairs.LOSSES:
            if options.loss_type in library.losses:
                found = peers.value_and_gradient(library, options, pair, torch.float32)
                exact = pairs.exact_loss(options, pair.rounded(torch.float32))
                for name, value in found.items():
                    assert value == pytest.approx(float(exact(name)), rel=1e-4)
