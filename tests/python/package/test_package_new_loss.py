"""A pair loss is added in four places, as CONTRIBUTING says: functor, list, golden rows, documentation."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import selm_core
from cmake_projects import CMEEL_PREFIX, REPOSITORY, run
from mpmath import mp, mpf

INCLUDE = REPOSITORY / "include"
LIST = "selm/core/loss_list.hpp"
FUNCTORS = [f"selm/core/{kind}_losses.hpp" for kind in ("margin", "response", "likelihood")]

# Place 1. The square of the margin's distance from 1.
NEW_LOSS = """
template <typename T>
struct SquareLoss {
  static constexpr LossTraits traits = LossTraits("square").with_f_divergence();

  T beta;

  SELM_HOST_DEVICE static SquareLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T error = beta * logratio_diff - T(1);
    return {error * error, beta * T(2) * error};
  }
};
"""

# A loss per call: what the batch loop gives for it, and how a bad option is refused.
PROGRAM = """
#include <selm/selm.hpp>

#include <cstdio>

using Logps = selm::Array1<double>;

void evaluate(const char* name, const selm::PreferenceOptions& options) {
  const Logps w = Logps::Constant(1, -10.0), l = Logps::Constant(1, -12.0);
  const Logps ref_w = Logps::Constant(1, -11.0), ref_l = Logps::Constant(1, -11.5);
  try {
    const auto out = selm::dpo_loss(w, l, ref_w, ref_l, options);
    std::printf("\\"%s\\": [%.17g, %.17g, %.17g],\\n", name, out.losses[0],
                out.grad_chosen_logps[0], out.grad_rejected_logps[0]);
  } catch (const selm::Error& error) {
    std::printf("\\"%s\\": \\"%s\\",\\n", name, error.what());
  }
}

int main() {
  std::printf("{");
  evaluate("alone", {"square", 0.5});
  evaluate("weighted", {{{{"sigmoid", 2.0}, {"square", 0.25}}}, 0.5});
  evaluate("linked", {"square", 0.5, 0.0, "forward_kl"});
  evaluate("smoothed", {"square", 0.5, 0.1});
  selm::PreferenceOptions other{"square", 0.5};
  other.discopop_tau = 0.1;
  evaluate("another's option", other);
  std::printf("\\"terms\\": %d}\\n", selm::make_loss_sum({"square", 0.5}).count);
}
"""

KERNEL = """
#include <selm/cuda/pair_kernels.cuh>

cudaError_t evaluate(const selm::PreferenceInputs<double>& in,
                     const selm::PreferenceOutputs<double>& out, cudaStream_t stream) {
  const auto square = selm::make_preference({"square", 0.5}, {});
  return selm::cuda::launch_preference(square, in, out, 1, stream);
}
"""

# A golden row is no batch: these are held against torch's sort.
RANKED = ("aot", "aot_unpaired")

POLICY_W, POLICY_L, REF_W, REF_L = (-10.0, -12.0, -11.0, -11.5)


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers with a loss more: two of them are changed."""
    copy = tmp_path_factory.mktemp("new_loss") / "include"
    shutil.copytree(INCLUDE, copy)
    end = "}  // namespace selm\n"
    replace_once(copy / FUNCTORS[0], end, NEW_LOSS.lstrip("\n") + "\n" + end)
    # Place 2.
    replace_once(copy / LIST, "OrpoLoss<double>>;", "OrpoLoss<double>, SquareLoss<double>>;")
    return copy


def value_and_gradients(loss: Callable[[mpf, mpf], mpf]) -> list[float]:
    with mp.workdps(40):
        at = (mpf(POLICY_W), mpf(POLICY_L))
        gradients = (mp.diff(loss, at, order) for order in ((1, 0), (0, 1)))
        return [float(number) for number in (loss(*at), *gradients)]


def square(delta: mpf) -> mpf:
    return (mpf("0.5") * delta - 1) ** 2


def logratio_diff(chosen: mpf, rejected: mpf) -> mpf:
    return (chosen - REF_W) - (rejected - REF_L)


def logistic(delta: mpf) -> mpf:
    return mp.log(1 + mp.exp(-delta / 2))


def forward_kl_diff(chosen: mpf, rejected: mpf) -> mpf:
    """The difference of the scores 1 - exp(-rho)."""
    return mp.exp(REF_L - rejected) - mp.exp(REF_W - chosen)


EXACT = {
    "alone": lambda *pair: square(logratio_diff(*pair)),
    "weighted": lambda *pair: 2 * logistic(logratio_diff(*pair)) + square(logratio_diff(*pair)) / 4,
    "linked": lambda *pair: square(forward_kl_diff(*pair)),
}


def test_two_headers_give_the_loss_to_the_options_the_loop_and_the_sum(
    headers: Path, tmp_path: Path
) -> None:
    source, program = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text(PROGRAM)
    folders = [headers, CMEEL_PREFIX / "include", CMEEL_PREFIX / "include/eigen3"]
    run(
        *("g++", "-std=c++17", "-Wall", "-Wextra", "-DFMT_HEADER_ONLY", f"-I{folders[0]}"),
        *(part for folder in folders[1:] for part in ("-isystem", folder)),
        *(source, "-o", program),
    )
    got = json.loads(run(program).stdout)
    for name, loss in EXACT.items():
        assert got[name] == pytest.approx(value_and_gradients(loss), rel=1e-15), name
    assert got["terms"] == 1
    assert got["smoothed"] == (
        "selm::dpo_loss: expected 'label_smoothing' to be 0: loss_type 'square' does not define "
        "label smoothing, got 0.1"
    )
    assert got["another's option"] == (
        "selm::dpo_loss: expected 'discopop_tau' to be left out: loss_type 'square' does not use "
        "it, got a value"
    )


def test_the_kernel_of_all_losses_compiles_with_it(headers: Path, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    source = tmp_path / "kernel.cu"
    source.write_text(KERNEL)
    run(
        *("nvcc", "-std=c++17", "-arch=sm_80", "-Werror", "all-warnings", "-I", headers),
        *("-c", source, "-o", tmp_path / "kernel.o"),
    )


def listed_losses() -> list[str]:
    """The names of the functors in PairLosses, in their order."""
    name_of = {}
    for header in FUNCTORS:
        name_of |= dict(
            re.findall(
                r"^struct (\w+)[^{;]*\{\s*static constexpr LossTraits traits =\s*"
                r'LossTraits\("(\w+)"\)',
                (INCLUDE / header).read_text(),
                re.MULTILINE,
            )
        )
    text = (INCLUDE / LIST).read_text()
    (entries,) = re.findall(r"using PairLosses =\s*TypeList<(.*?)>;", text, re.DOTALL)
    functors = re.findall(r"(\w+)<double>", entries)
    assert len(functors) == entries.count(",") + 1
    assert sorted(name_of) == sorted(functors), (
        "a functor that is not in the list, or has no traits"
    )
    return [name_of[functor] for functor in functors]


@pytest.mark.parametrize("name", listed_losses())
def test_every_loss_has_golden_rows_and_documentation(name: str) -> None:
    """Places 3 and 4. Losses of averages without a reference are functions of their own."""
    alone = f"{name}_loss"
    is_function = alone in selm_core.__all__
    if name in RANKED:
        assert f'"{name}"' in (REPOSITORY / "tests/python/ops/test_ranked_losses.py").read_text()
    else:
        table = "policy_losses" if is_function else "preference"
        rows = (REPOSITORY / f"tests/data/{table}.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss_type")
        assert sum(row.split(",")[column] == name for row in rows) > 20, "golden rows"

    documentation = (REPOSITORY / "docs/losses.md").read_text()
    if is_function:
        assert getattr(selm_core, alone).__doc__
        assert f"`{alone}`" in documentation
    else:
        assert re.search(rf"^    ``{name}`` ", selm_core.dpo_loss.__doc__ or "", re.MULTILINE)
        assert re.search(rf"^\| `{name}` \|", documentation, re.MULTILINE)
