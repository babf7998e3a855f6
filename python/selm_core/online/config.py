"""The options of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from selm_core.errors import InputError

Response = Literal["greedy", "sample"]
DType = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True)
class OnlineConfig:
    """Options of `OnlineSELM`; all but the folder can be written as JSON, and a run is continued only
    if they are equal.

    Args:
        output_dir: folder of the run; a run found there is continued
        iterations: T of Algorithm 1; iteration t trains on the t-th portion of the data
        samples_per_prompt: completions sampled per prompt when the data has prompts alone
            (default 2); the best and the worst become the pair. Refused for preference pairs
        response: the exploration response: decoded greedily (as the authors' code does), or a
            sample (as the paper writes it), the first of the prompt's samples
        max_new_tokens: a completion that reaches it stays unfinished
        temperature: of sampling
        top_k: sampling is among so many likeliest tokens; 0 is all. Far cheaper than `top_p` on a CPU
        top_p: sampling is among the likeliest tokens of this total probability
        generation_batch_size: prompts that are generated for at once
        judge_batch_size: completions per call of the judge
        dtype: type that weights are loaded in: float32, bfloat16, float16 or float64
        seed: with equal versions and machine a run is repeatable
        training: keyword arguments of `selm_core.trl.SELMConfig`: alpha, beta, learning_rate, ...;
            alpha = 0 is iterative DPO, and a list of them has one for each iteration. Another
            `exploration` than "selm" is refused: XPO's reference policy, for one, is fixed, and the
            loop moves it
        lora: keyword arguments of `peft.LoraConfig`; the adapter is merged after each iteration.
            None trains all weights

    Raises:
        InputError: an option outside its range.
    """

    output_dir: str | os.PathLike[str]
    iterations: int = 3
    samples_per_prompt: int | None = None
    response: Response = "greedy"
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    generation_batch_size: int = 16
    judge_batch_size: int = 64
    dtype: DType = "float32"
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Checks each option by name."""
        for name, (expected, holds) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise InputError(f"OnlineConfig: expected '{name}' to be {expected}, got {value!r}")
        alpha = self.training.get("alpha")
        if isinstance(alpha, list) and len(alpha) != self.iterations:
            raise InputError(
                "OnlineConfig: expected 'alpha' in 'training' to be a number, or a list of one for "
                f"each of {self.iterations} iterations, got {alpha}"
            )

    def training_of(self, iteration: int) -> dict[str, Any]:
        """The keyword arguments of `SELMConfig` in this iteration, the first of which is 1."""
        training = dict(self.training)
        if isinstance(training.get("alpha"), list):
            training["alpha"] = training["alpha"][iteration - 1]
        return training


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


def _is_json_mapping(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


_POSITIVE_INT = ("a positive integer", lambda v: _is_int(v) and v >= 1)
_NATURAL = ("an integer of at least 0", lambda v: _is_int(v) and v >= 0)

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "output_dir": ("a path", _is_path),
    "iterations": _POSITIVE_INT,
    "samples_per_prompt": (
        "an integer of at least 2, or None",
        lambda v: v is None or (_is_int(v) and v >= 2),
    ),
    "response": (f"one of {get_args(Response)}", lambda v: v in get_args(Response)),
    "max_new_tokens": _POSITIVE_INT,
    "temperature": ("a finite number above 0", lambda v: _is_number(v) and v > 0),
    "top_k": _NATURAL,
    "top_p": ("a number above 0, at most 1", lambda v: _is_number(v) and 0 < v <= 1),
    "generation_batch_size": _POSITIVE_INT,
    "judge_batch_size": _POSITIVE_INT,
    "dtype": (f"one of {get_args(DType)}", lambda v: v in get_args(DType)),
    "seed": _NATURAL,
    "training": ("a mapping that can be written as JSON", _is_json_mapping),
    "lora": (
        "a mapping that can be written as JSON, or None",
        lambda v: v is None or _is_json_mapping(v),
    ),
}
