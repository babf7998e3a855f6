"""The `selm` command."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selm_core.errors import MissingPackageError, UserError

FAILED = 1
INTERRUPTED = 130  # the exit code that shells use for SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code. What a user can put right is said in a line;
    anything else is a bug and keeps its traceback."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("\nselm: interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        print(f"selm: error: {error}", file=sys.stderr)
        return FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selm", description="Self-exploring preference optimisation of language models (SELM)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="improve a small real language model in minutes, on a CPU",
        description="Three SELM iterations on SmolLM2-135M-Instruct with an offline judge. Writes "
        "the trained model and report.html. Interrupted, it continues when it is run again.",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        help="folder of the run (default: %(default)s)",
    )
    demo.add_argument("--seed", type=_seed, default=0, help="(default: %(default)s)")
    demo.add_argument(
        "--restart", action="store_true", help="remove the run in the folder and start again"
    )
    demo.set_defaults(command=_demo)

    train = commands.add_parser(
        "train",
        help="run the online loop on your model, prompts and judge",
        description="Runs the online loop as a TOML or JSON file describes it; see docs/online.md. "
        "Interrupted, it continues when it is run again.",
    )
    train.add_argument("config", type=Path, help="file with model, judge, train, eval and [online]")
    train.set_defaults(command=_train)

    info = commands.add_parser("info", help="show versions and back ends")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(command=_info)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def _demo(options: argparse.Namespace) -> None:
    # The demo works without a network; TRL would report its use to the hub.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with _packages_named():
        quiet_libraries()
        from selm_core.demo.run import run_demo

        run_demo(options.output, seed=options.seed, restart=options.restart)


def _train(options: argparse.Namespace) -> None:
    with _packages_named():
        quiet_libraries()
        from selm_core.online.config_file import run_config_file

    run_config_file(options.config)


def _info(options: argparse.Namespace) -> None:
    import selm_core

    with _packages_named():
        info = selm_core.info()
    if options.json:
        print(json.dumps(info, indent=1))
    else:
        width = max(map(len, info))
        for name, value in info.items():
            print(f"{name:<{width}}  {_as_text(value)}")


def _as_text(value: str | bool | list[str] | None) -> str:
    if value is None or value == []:
        return "none"
    return ", ".join(value) if isinstance(value, list) else str(value)


@contextmanager
def _packages_named() -> Iterator[None]:
    """Says what to install where a package is missing, or lacks what is imported from it."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "selm_core" or isinstance(error, UserError):
            raise
        advice = f": pip install '{_requirement(package)}'" if package else ""
        raise MissingPackageError(f"{error}{advice}") from error


def _requirement(package: str) -> str:
    """`package` with the versions that selm_core works with, as its metadata has them."""
    for line in importlib.metadata.requires("selm-core") or []:
        requirement = line.partition(";")[0].strip()
        name = re.split(r"[^\w.-]", requirement)[0]
        if name.replace("-", "_") == package:
            return requirement
    return package


def quiet_libraries() -> None:
    """The loop shows its own progress; the libraries' bars for every model that is loaded would
    bury it."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # PEFT 0.21 asks transformers by a name that has been deprecated since.
    warnings.filterwarnings(
        "ignore", "`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )
