"""What each public header costs a compiler, and each Python module an interpreter.

Writes the tables of docs/compile_times.md. Times are CPU seconds, which other work on the machine changes
least. Needs g++, clang++, nvcc and the environment of `make build`.
"""

from __future__ import annotations

import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compile_times.md"
PACKAGES = Path(sysconfig.get_paths()["purelib"])

SELM = ("-I", str(ROOT / "include"))
CMEEL = PACKAGES / "cmeel.prefix" / "include"
EIGEN_FMT = ("-DFMT_HEADER_ONLY", "-I", str(CMEEL), "-I", str(CMEEL / "eigen3"))
TORCH = ("-I", str(PACKAGES / "torch" / "include"))
CUDA = ("-I", str(Path(shutil.which("nvcc") or "").resolve().parents[1] / "include"))

COMPILES, IMPORTS = 3, 7


@dataclass(frozen=True)
class Unit:
    """A translation unit."""

    name: str
    source: str
    flags: tuple[str, ...] = ()
    standards: tuple[int, ...] = (17, 20)


def included(*headers: str) -> str:
    """Lines that include these."""
    return "".join(f"#include <{header}>\n" for header in headers)


EIGEN_FMT_CALL = """
double call(const Eigen::Ref<const Eigen::ArrayXd>& x) { return x.sum(); }
std::string call(double number) { return fmt::format("got {}", number); }
"""
HOST_CALL = """
using Logps = selm::Array1Ref<double>;
double call(const Logps& a, const Logps& b, const Logps& c, const Logps& d) {
  return selm::dpo_loss(a, b, c, d).losses.sum();
}
"""
CORE_CALL = """
void call(const selm::PreferenceInputs<double>& in, const selm::PreferenceOutputs<double>& out) {
  selm::make_preference({}, {}).evaluate_row(0, in, out);
}
"""
DEVICE_CALL = """
struct Squared {
  SELM_HOST_DEVICE selm::ValueAndGrad<double> operator()(double x) const { return {x * x, 2 * x}; }
};
cudaError_t call(const selm::PreferenceInputs<double>& in, const selm::PreferenceOutputs<double>& out) {
  return selm::cuda::launch_preference(selm::Preference<Squared>{}, in, out, 1, nullptr);
}
"""
BARE = included("Eigen/Core", "fmt/format.h")
CORE = included("selm/core/loss_list.hpp", "selm/core/preference.hpp")

HOST_UNITS = [
    Unit("nothing", ""),
    Unit("`selm/core/preference.hpp`, `loss_list.hpp`", CORE, SELM),
    Unit("the same, and all losses on one row", CORE + CORE_CALL, SELM),
    Unit("`Eigen/Core`, `fmt/format.h`", BARE, EIGEN_FMT),
    Unit("the same, a sum and a text", BARE + EIGEN_FMT_CALL, EIGEN_FMT),
    Unit("`selm/selm.hpp`", included("selm/selm.hpp"), SELM + EIGEN_FMT),
    Unit("the same, and `dpo_loss`", included("selm/selm.hpp") + HOST_CALL, SELM + EIGEN_FMT),
    Unit("`cuda_runtime_api.h`", included("cuda_runtime_api.h"), CUDA),
    Unit("`selm/cuda/launch.hpp`", included("selm/cuda/launch.hpp"), SELM + CUDA),
    Unit("`ATen/core/Tensor.h`", included("ATen/core/Tensor.h"), TORCH, (20,)),
    Unit("`selm/torch/ops.hpp`", included("selm/torch/ops.hpp"), SELM + TORCH, (20,)),
]
DEVICE_UNITS = [
    Unit("nothing", ""),
    Unit("`selm/cuda/launch.hpp`", included("selm/cuda/launch.hpp"), SELM),
    Unit("`selm/cuda/pair_kernels.cuh`", included("selm/cuda/pair_kernels.cuh"), SELM),
    Unit(
        "the same, and the kernel of a loss of one's own",
        included("selm/cuda/pair_kernels.cuh") + DEVICE_CALL,
        SELM,
    ),
]

IMPORT_STATEMENTS = [
    "import numpy",
    "import selm_core.numpy",
    "import torch",
    "import selm_core",
    "from selm_core import dpo_loss",
]


def children_seconds() -> float:
    """CPU time of the commands that were run so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compile_seconds(compiler: tuple[str, ...], unit: Unit, standard: int, source: Path) -> float:
    """The best of several compilations to an object file."""
    source.write_text(unit.source)
    command = [*compiler, f"-std=c++{standard}", "-O2", *unit.flags]
    found = []
    for _ in range(COMPILES):
        before = children_seconds()
        subprocess.run([*command, "-c", source, "-o", source.with_suffix(".o")], check=True)
        found.append(children_seconds() - before)
    return min(found)


def preprocessed_lines(compiler: tuple[str, ...], unit: Unit, source: Path) -> int:
    """Lines that are not blank, in the oldest standard."""
    source.write_text(unit.source)
    text = subprocess.run(
        [*compiler, f"-std=c++{unit.standards[0]}", *unit.flags, "-E", source],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sum(not re.match(r"\s*(#|$)", line) for line in text.splitlines())


def compile_table(units: list[Unit], compilers: dict[str, tuple[str, ...]], suffix: str) -> str:
    """One row for each unit, one column for each compiler and standard."""
    heads = [(name, standard) for name in compilers for standard in (17, 20)]
    rows = [["translation unit", "lines", *(f"{name}, C++{s}" for name, s in heads)]]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"unit{suffix}"
        for unit in units:
            times = [
                f"{compile_seconds(compilers[name], unit, standard, source):.2f}"
                if standard in unit.standards
                else ""
                for name, standard in heads
            ]
            lines = preprocessed_lines(next(iter(compilers.values())), unit, source)
            rows.append([unit.name, f"{lines:,}", *times])
            print(rows[-1], flush=True)
    return table(rows)


def import_seconds(statement: str) -> float:
    """The median of several fresh interpreters, after one that warms the file cache."""
    code = (
        f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    found = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(IMPORTS + 1)
    ]
    return statistics.median(found[1:])


def import_table() -> str:
    """One row for each statement."""
    rows = [["statement", "seconds"]]
    for statement in IMPORT_STATEMENTS:
        rows.append([f"`{statement}`", f"{import_seconds(statement):.3f}"])
        print(rows[-1], flush=True)
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *body])


def conditions() -> str:
    """Where this ran, and with which versions."""

    def said(*command: str) -> str:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (number,) = re.findall(r"(?:version|release|\)) v?(\d+\.\d+(?:\.\d+)?)", text)[:1]
        return number

    (cpu,) = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)[:1]
    packages = ", ".join(
        f"{name} {version(package)}"
        for name, package in (
            *(("Eigen", "cmeel-eigen"), ("fmt", "cmeel-fmt")),
            *(("torch", "torch"), ("NumPy", "numpy")),
        )
    )
    compilers = ", ".join(
        f"{name} {said(command, '--version')}"
        for name, command in (("g++", "g++"), ("clang", "clang++"), ("nvcc", "nvcc"))
    )
    return f"{compilers}, {packages}, Python {platform.python_version()}, {cpu}."


def main() -> None:
    """Measure everything and replace what the page has below its mark."""
    sections = [
        conditions(),
        f"Host compilers, `-O2`, the best of {COMPILES}:",
        compile_table(HOST_UNITS, {"g++": ("g++",), "clang": ("clang++",)}, ".cpp"),
        f"nvcc, `-O2 -arch=sm_80`, the best of {COMPILES}:",
        compile_table(DEVICE_UNITS, {"nvcc": ("nvcc", "-arch=sm_80")}, ".cu"),
        f"Imports in fresh interpreters, the median of {IMPORTS}:",
        import_table(),
    ]
    mark = "<!-- measured -->\n"
    written = PAGE.read_text().partition(mark)[0]
    PAGE.write_text(f"{written}{mark}\n" + "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
