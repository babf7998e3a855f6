"""The golden tables are what their script writes, and agree with numbers known otherwise."""

import csv
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from mpmath import mp, mpf

DATA = Path(__file__).parents[1] / "data"

# An independent calculation for log-probabilities -10, -12 and -9, references -11, -11.5 and -9.5,
# lengths 8 and 10, beta 0.1: (loss type, label smoothing) -> loss without the exploration term.
KNOWN_LOSSES = {
    ("sigmoid", 0.0): 0.6209570478,
    ("sigmoid", 0.1): 0.6359570478,
    ("hinge", 0.0): 0.85,
    ("ipo", 0.0): 23.280625,
}
KNOWN_SELM_LOSS = 0.6210070478  # sigmoid, alpha 1e-3
KNOWN_SIGMOID_GRADIENT = -0.0462570155
KNOWN_KL = {"k1": 0.5, "k2": 0.125, "k3": 0.1065306597}  # at a log-ratio of 0.5


@pytest.fixture(scope="module")
def make_golden() -> ModuleType:
    sys.path.insert(0, str(DATA))  # as where the script runs
    try:
        return importlib.import_module("make_golden")
    finally:
        sys.path.remove(str(DATA))


def read(table: str) -> list[dict[str, str]]:
    with (DATA / table).open() as file:
        return list(csv.DictReader(file))


TABLES = [
    *("kl.csv", "partition.csv", "scalar.csv", "token_logps.csv"),
    *(
        pytest.param(table, marks=pytest.mark.slow)  # derivatives at hundreds of digits
        for table in ("preference.csv", "policy_losses.csv", "unpaired.csv")
    ),
]


@pytest.mark.parametrize("table", TABLES)
def test_the_committed_table_is_what_the_script_writes(
    make_golden: ModuleType, tmp_path: Path, table: str
) -> None:
    make_golden.write_table(tmp_path, table)
    assert (tmp_path / table).read_bytes() == (DATA / table).read_bytes()


LIMITS = {
    "grows like a logarithm": (lambda x: x["beta"] * mp.log(1 + x["policy"] ** 2), math.inf),
    "falls like a logarithm": (lambda x: -mp.log(-x["policy"]), -math.inf),
    "grows like a root": (lambda x: mp.sqrt(-x["policy"]), math.inf),
    "grows linearly": (lambda x: -x["policy"] / 1000, math.inf),
    "vanishes slowly": (lambda x: 1 / x["policy"], 0.0),
    "converges": (lambda x: 3 + 1 / x["policy"], 3.0),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limits_are_told_apart(make_golden: ModuleType, case: str) -> None:
    numbers = sys.modules["golden_numbers"]
    f, limit = LIMITS[case]
    x = {"policy": mpf("-inf"), "beta": mpf("0.001")}
    assert numbers.outputs({"f": f}, x)["f"] == repr(limit)


@pytest.mark.parametrize(
    "f", [lambda x: mp.sin(x["policy"]), lambda x: 9 - 1 / mp.log(-x["policy"])]
)
def test_a_value_without_a_visible_limit_is_named(
    make_golden: ModuleType, f: Callable[[Mapping[str, mpf]], mpf]
) -> None:
    numbers = sys.modules["golden_numbers"]
    x = {"policy": mpf("-inf"), "beta": mpf("0.1")}
    message = r"neither convergent nor divergent: .* on the way to {'policy': -inf, 'beta': 0.1}"
    with pytest.raises(ValueError, match=message) as raised, numbers.named("loss 'own'"):
        numbers.outputs({"f": f}, x)
    assert raised.value.__notes__ == ["the row's options: loss 'own'"]


def test_rows_of_one_loss_are_those_of_the_table(
    make_golden: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    make_golden.print_loss("preference.csv", "nll")
    printed = capsys.readouterr().out.splitlines()
    table = (DATA / "preference.csv").read_text().splitlines()
    assert printed == [row for row in table if row.startswith(("loss_type,", "nll,"))]
    with pytest.raises(SystemExit, match=r"preference\.csv has no rows of 'simpo'"):
        make_golden.print_loss("preference.csv", "simpo")


def test_digits_suffice_for_a_margin_that_both_responses_add_to(make_golden: ModuleType) -> None:
    """The slope of exo_pair is s(m) s(-m) (m - log((1 - e) / e)) at a margin m."""
    tables = sys.modules["golden_tables"]
    options = tables.LossOptions("exo_pair", 1.0, 0.001)
    logps = {"policy_chosen": 0, "ref_chosen": -300, "policy_rejected": -300, "ref_rejected": 0}
    x = {name: mpf(value) for name, value in logps.items()}
    with mp.workdps(tables.digits_for(x, options)):
        slope = float(
            tables.gradients(lambda x: tables.PAIR_LOSSES["exo_pair"](x, options))["d_chosen"](x)
        )
    assert slope == pytest.approx(math.exp(-600) * (600 - math.log(999)), rel=1e-12, abs=0)


def test_the_oracle_knows_the_documented_example(make_golden: ModuleType) -> None:
    tables = sys.modules["golden_tables"]  # which make_golden imports
    example = [repr(value) for value in tables.DOCUMENTED_EXAMPLE]
    rows = {
        (row["loss_type"], float(row["label_smoothing"])): row
        for row in read("preference.csv")
        if [row[name] for name in tables.LOGPS] == example
        and row["beta"] == "0.1"
        and row["f_divergence_type"] == "reverse_kl"
    }
    for key, loss in KNOWN_LOSSES.items():
        assert float(rows[key]["dpo_loss"]) == pytest.approx(loss, abs=1e-10)
    sigmoid = rows["sigmoid", 0.0]
    assert float(sigmoid["alpha"]) == 1e-3
    assert float(sigmoid["loss"]) == pytest.approx(KNOWN_SELM_LOSS, abs=1e-10)
    assert float(sigmoid["d_chosen"]) == pytest.approx(KNOWN_SIGMOID_GRADIENT, abs=1e-10)
    assert float(sigmoid["d_rejected"]) == pytest.approx(-KNOWN_SIGMOID_GRADIENT, abs=1e-10)
    assert float(sigmoid["d_response"]) == pytest.approx(1e-4, abs=1e-15)


def test_the_oracle_knows_the_documented_kl_estimates(make_golden: ModuleType) -> None:
    for kind, value in KNOWN_KL.items():
        got = make_golden.KL_ESTIMATORS[kind]({"policy": make_golden.mpf(0.5), "ref": 0})
        assert float(got) == pytest.approx(value, abs=1e-10)
