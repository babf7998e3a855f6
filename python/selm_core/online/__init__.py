"""The iterated loop of SELM: generate, judge, train, repeat."""

from selm_core.online.config import OnlineConfig
from selm_core.online.judge import Judge, JudgeWithParts
from selm_core.online.loop import NoPairsError, OnlineSELM
from selm_core.online.record import IterationRecord
from selm_core.online.state import NotARunError, RunStateError, SettingsMismatchError
from selm_core.online.training import TrainingDivergedError

__all__ = [
    "IterationRecord",
    "Judge",
    "JudgeWithParts",
    "NoPairsError",
    "NotARunError",
    "OnlineConfig",
    "OnlineSELM",
    "RunStateError",
    "SettingsMismatchError",
    "TrainingDivergedError",
]
