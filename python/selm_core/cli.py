"""The `selm` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INTERRUPTED = 130  # the exit code that shells use for SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except KeyboardInterrupt:
        print("\nselm: interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    return code


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
    demo.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
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


def _demo(options: argparse.Namespace) -> int:
    quiet_libraries()
    from selm_core.demo.run import run_demo

    return _run(lambda: run_demo(options.output, seed=options.seed, restart=options.restart))


def _train(options: argparse.Namespace) -> int:
    quiet_libraries()
    from selm_core.online.config_file import run_config_file

    return _run(lambda: run_config_file(options.config))


def _info(options: argparse.Namespace) -> int:
    import selm_core

    info = selm_core.info()
    if options.json:
        print(json.dumps(info, indent=1))
    else:
        width = max(map(len, info))
        for name, value in info.items():
            print(f"{name:<{width}}  {', '.join(value) if isinstance(value, list) else value}")
    return 0


def _run(command: Callable[[], None]) -> int:
    """Errors that say all the user needs are shown without a traceback."""
    from selm_core.online import NoPairsError, RunStateError, SettingsMismatchError
    from selm_core.online.config_file import ConfigFileError

    try:
        command()
    except (
        ConfigFileError,
        NoPairsError,
        RunStateError,
        SettingsMismatchError,
        FileExistsError,
    ) as error:
        print(f"selm: error: {error}", file=sys.stderr)
        return 1
    return 0


def quiet_libraries() -> None:
    """The loop shows its own progress; the libraries' bars for every model that is loaded would
    bury it."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
