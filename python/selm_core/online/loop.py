"""The iterated loop of SELM (arXiv 2405.19332, Algorithm 1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selm_core.errors import InputError, UnsupportedError, UserError
from selm_core.online.adapter import check_adapter
from selm_core.online.candidates import (
    Candidates,
    Generator,
    candidates_from_pairs,
    candidates_from_samples,
)
from selm_core.online.config import OnlineConfig
from selm_core.online.data import (
    Row,
    portion,
    read_rows,
    rows_sha256,
    shared_prompt,
    tokenize_prompts,
)
from selm_core.online.evaluate import (
    Evaluation,
    judge_responses,
    mean_kl,
    summarize,
)
from selm_core.online.identity import library_versions, model_identity, qualified_name
from selm_core.online.judge import Judge, score_in_batches
from selm_core.online.pairs import PairSet, build_pairs
from selm_core.online.record import (
    IterationRecord,
    read_record,
    read_responses,
    write_pairs,
    write_record,
    write_responses,
)
from selm_core.online.seeds import derive_seed
from selm_core.online.state import MODEL, RunFolder, iteration_path
from selm_core.online.summary import summary_line
from selm_core.online.trainer_options import check_max_length, check_trainer_options
from selm_core.online.training import (
    ADVICE,
    TrainingDivergedError,
    load_model,
    selm_config,
    train,
)
from selm_core.trl import SELMConfig


class NoPairsError(UserError, RuntimeError):
    """The judge's scores left nothing to train on."""


def print_summary(record: IterationRecord) -> None:
    """Prints the iteration's line without tearing a progress bar."""
    tqdm.write(summary_line(record))


class OnlineSELM:
    """Iterates: generate with the reference policy, let the judge rank, train on best against
    worst, take the trained policy as the next reference.

    Args:
        model: path of a causal language model with its tokenizer, or its name on a hub
        judge: scores completions, see `Judge`
        train_dataset: rows with `prompt`, or with `prompt`, `chosen` and `rejected`, as text or
            messages as in TRL. The judge ranks the policy's samples in the first case,
            {response, chosen, rejected} in the second
        config: all options
        eval_dataset: rows with `prompt`, never trained on; after each iteration the judge scores
            greedy responses to them

    Raises:
        InputError: data or options that cannot work, before anything is written.

    Every iteration is committed to `config.output_dir` when it is complete. Interrupted, `run`
    continues after the last complete iteration.
    """

    def __init__(
        self,
        model: str | Path,
        judge: Judge,
        train_dataset: Iterable[Mapping[str, Any]],
        *,
        config: OnlineConfig,
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        """Reads the data and checks it together with the options; writes nothing."""
        self.model = str(model)
        self.judge = judge
        self.config = config
        self.train_rows = read_rows(train_dataset, name="train_dataset")
        self.eval_rows = (
            [] if eval_dataset is None else read_rows(eval_dataset, name="eval_dataset")
        )
        self.output_dir = Path(config.output_dir)
        architecture, self.tokenizer = _read_model(self.model)
        self.eval_prompts = [row.prompt for row in self.eval_rows]
        self._check_data()
        self._check_options(architecture)
        self.train_prompt_ids = tokenize_prompts(
            self.tokenizer, self.train_rows, name="train_dataset"
        )
        self.eval_prompt_ids = tokenize_prompts(self.tokenizer, self.eval_rows, name="eval_dataset")
        check_max_length(self._selm_config(1).max_length, self.train_prompt_ids)

    def run(
        self, on_iteration: Callable[[IterationRecord], None] = print_summary
    ) -> list[IterationRecord]:
        """Runs to the last iteration; `on_iteration` also receives the iterations that an earlier
        call completed."""
        folder = RunFolder(self.output_dir, self.settings())
        records = []
        for number in range(self.config.iterations + 1):
            if folder.completed is None or number > folder.completed:
                with folder.commit(number, library_versions()) as destination:
                    write_record(destination, self._iteration(number, destination))
            records.append(read_record(folder.iteration(number)))
            on_iteration(records[-1])
        return records

    def policy(self, iteration: int) -> str:
        """Where the policy after `iteration` lies; 0 is the initial model."""
        return (
            self.model
            if iteration == 0
            else str(iteration_path(self.output_dir, iteration) / MODEL)
        )

    def settings(self) -> dict[str, Any]:
        """What must be equal for a run to be continued."""
        config = asdict(self.config)
        del config["output_dir"]
        return {
            "config": config,
            "model": model_identity(self.model),
            "train_dataset_sha256": rows_sha256(self.train_rows),
            "eval_dataset_sha256": rows_sha256(self.eval_rows),
            "judge": qualified_name(self.judge),
        }

    def _check_data(self) -> None:
        if len(self.train_rows) < self.config.iterations:
            raise InputError(
                "OnlineSELM: expected 'train_dataset' to have a row for each of "
                f"{self.config.iterations} iterations, got {len(self.train_rows)}"
            )
        if self.has_pairs and self.tokenizer.eos_token_id is None:
            raise InputError(
                "OnlineSELM: expected a tokenizer with an end token (eos_token), because 'chosen' "
                "and 'rejected' end with it, got none"
            )
        if (shared := shared_prompt(self.train_rows, self.eval_rows)) is not None:
            raise InputError(
                "OnlineSELM: expected 'eval_dataset' without prompts of 'train_dataset', "
                f"got {shared!r} in both"
            )

    def _check_options(self, architecture: PreTrainedConfig) -> None:
        if self.has_pairs and self.config.samples_per_prompt is not None:
            raise InputError(
                "OnlineSELM: expected 'samples_per_prompt' to be None for data with 'chosen' and "
                "'rejected' (the judge ranks {response, chosen, rejected}), "
                f"got {self.config.samples_per_prompt}"
            )
        args, *_ = [self._selm_config(t) for t in range(1, self.config.iterations + 1)]
        if args.world_size > 1:
            raise UnsupportedError(
                f"OnlineSELM: expected one process, got {args.world_size}: they would write one "
                "folder"
            )
        with torch.device("meta"):
            policy = AutoModelForCausalLM.from_config(architecture)
        check_trainer_options(args, policy)
        if self.config.lora is not None:
            check_adapter(policy, self.config.lora)

    @property
    def has_pairs(self) -> bool:
        """Whether the training data holds preference pairs."""
        return self.train_rows[0].chosen is not None

    def _selm_config(self, iteration: int) -> SELMConfig:
        return selm_config(
            self.config.training_of(iteration),
            output_dir=self.output_dir / "logs" / f"iter_{iteration:03d}",
            seed=derive_seed(self.config.seed, iteration, "train"),
        )

    def _iteration(self, number: int, destination: Path) -> IterationRecord:
        seconds: dict[str, float] = {}
        if number == 0:
            with _timed(seconds, "evaluate"):
                evaluation = self._evaluate(number, self.model, destination)
            return IterationRecord(0, 0, 0, {}, {}, None, evaluation, seconds)
        rows = portion(self.train_rows, number, self.config.iterations)
        with _timed(seconds, "generate"):
            candidates = self._candidates(number, rows)
        with _timed(seconds, "judge"):
            pair_set = self._judge(number, candidates)
            write_pairs(destination, pair_set.pairs)
        with _timed(seconds, "train"):
            training = train(
                self.policy(number - 1),
                self.tokenizer,
                pair_set.pairs,
                args=self._selm_config(number),
                lora=self.config.lora,
                dtype=self.config.dtype,
                destination=destination / MODEL,
                description=f"{self._label(number)}: train",
            )
        with _timed(seconds, "evaluate"):
            evaluation = self._evaluate(number, destination / MODEL, destination)
        return IterationRecord(
            iteration=number,
            prompts=len(rows),
            pairs=len(pair_set.pairs),
            invalid_scores=dict(pair_set.invalid_scores),
            dropped_prompts=dict(pair_set.dropped_prompts),
            training=training,
            evaluation=evaluation,
            seconds=seconds,
        )

    def _candidates(self, number: int, rows: Sequence[Row]) -> list[Candidates]:
        generator = self._generator(number, self._load(self.policy(number - 1)))
        prompt_ids = portion(self.train_prompt_ids, number, self.config.iterations)
        if self.has_pairs:
            return candidates_from_pairs(generator, rows, prompt_ids)
        return candidates_from_samples(
            generator, rows, prompt_ids, with_response=self._selm_config(number).explores
        )

    def _judge(self, number: int, candidates: Sequence[Candidates]) -> PairSet:
        scores = score_in_batches(
            self.judge,
            [item.prompt for item in candidates for _ in item.completions],
            [completion.text for item in candidates for completion in item.completions],
            batch_size=self.config.judge_batch_size,
            description=f"{self._label(number)}: judge",
        )
        remaining = iter(scores)
        pair_set = build_pairs(
            candidates, [[next(remaining) for _ in item.completions] for item in candidates]
        )
        if not pair_set.pairs:
            raise NoPairsError(
                f"iteration {number}: no pair is left of {len(candidates)} prompts "
                f"({_counts(pair_set.invalid_scores)} scores, "
                f"{_counts(pair_set.dropped_prompts)} prompts dropped); "
                "check the judge, or sample more and more varied completions"
            )
        return pair_set

    def _evaluate(
        self, number: int, policy_path: str | Path, destination: Path
    ) -> Evaluation | None:
        if not self.eval_rows:
            return None
        policy = self._load(policy_path)
        completions = self._generator(number, policy)(
            self.eval_prompt_ids, purpose="evaluate", greedy=True
        )
        responses = judge_responses(
            self.judge,
            self.eval_prompts,
            completions,
            batch_size=self.config.judge_batch_size,
            description=f"{self._label(number)}: judge",
        )
        write_responses(destination, responses)
        if number == 0:
            return summarize(responses, responses, kl=0.0)
        kl = mean_kl(
            policy,
            self._load(self.model),
            self.eval_prompt_ids,
            completions,
            description=f"{self._label(number)}: KL",
        )
        if not math.isfinite(kl):
            raise TrainingDivergedError(
                f"iteration {number}: the KL to the initial model is {kl}; {ADVICE}"
            )
        initial = read_responses(iteration_path(self.output_dir, 0))
        return summarize(responses, initial, kl=kl)

    def _generator(self, number: int, policy: PreTrainedModel) -> Generator:
        seed = derive_seed(self.config.seed, number)
        return Generator(policy, self.tokenizer, self.config, seed, self._label(number))

    def _load(self, path: str | Path) -> PreTrainedModel:
        return load_model(path, dtype=self.config.dtype, device=self._selm_config(1).device)

    def _label(self, number: int) -> str:
        return f"iteration {number}/{self.config.iterations}"


def _read_model(model: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Its configuration and tokenizer; the weights are not looked at."""
    try:
        return AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(
            "OnlineSELM: expected 'model' to be a folder with a causal language model and its "
            f"tokenizer, or the name of one on a hub, got {model!r}: {str(error).splitlines()[0]}"
        ) from error


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counter.items()) or "no"


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
