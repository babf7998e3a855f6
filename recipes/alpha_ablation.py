"""Does the exploration term help? The demo's loop with alpha = 0 (iterative DPO) and alpha > 0.

Runs of one seed share the order of the data and the samples of the first iteration, so alphas are
compared seed by seed. Scores are on the dev prompts: the demo's held-out prompts stay out of every
choice. Interrupted, it continues.

    python recipes/alpha_ablation.py --alphas 0 0.001 0.1 --seeds 0 1 2
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from statistics import fmean, stdev

from selm_core.cli import quiet_libraries
from selm_core.demo.run import demo_config, demo_loop
from selm_core.online.evaluate import Evaluation

COLUMNS = ("score", "finish_rate", "response_tokens", "win_rate", "kl")


def main() -> None:
    """Runs what is missing, then prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.001, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/alpha_ablation"))
    options = parser.parse_args()
    if len(options.seeds) < 3:
        parser.error(f"expected at least 3 seeds, got {len(options.seeds)}: fewer say nothing")

    quiet_libraries()
    results: dict[float, list[Evaluation]] = {alpha: [] for alpha in options.alphas}
    for seed in options.seeds:
        for alpha in options.alphas:
            results[alpha].append(_final_evaluation(options.output, alpha, seed))
    _print_table(results)
    summary = {str(alpha): [vars(e) for e in evaluations] for alpha, evaluations in results.items()}
    (options.output / "results.json").write_text(json.dumps(summary, indent=1))


def _final_evaluation(output: Path, alpha: float, seed: int) -> Evaluation:
    folder = output / f"alpha_{alpha:g}" / f"seed_{seed}"
    print(f"\nalpha {alpha:g}, seed {seed}", flush=True)
    online = demo_loop(demo_config(folder, seed=seed, alpha=alpha), eval_split="dev")
    evaluation = online.run()[-1].evaluation
    assert evaluation is not None
    for iteration in range(1, online.config.iterations):  # only the last model is needed to go on
        shutil.rmtree(online.policy(iteration), ignore_errors=True)
    return evaluation


def _print_table(results: dict[float, list[Evaluation]]) -> None:
    print(f"\n{'alpha':>8}" + "".join(f"{name:>18}" for name in COLUMNS) + f"{'score - first':>18}")
    baseline = [evaluation.score for evaluation in next(iter(results.values()))]
    for alpha, evaluations in results.items():
        cells = [_mean_and_error([getattr(e, name) for e in evaluations]) for name in COLUMNS]
        gains = [e.score - b for e, b in zip(evaluations, baseline, strict=True)]
        print(f"{alpha:>8g}" + "".join(f"{cell:>18}" for cell in [*cells, _mean_and_error(gains)]))
    print(
        "mean over the seeds, plus or minus the standard error; the last column is paired by seed"
    )


def _mean_and_error(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values) / math.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
