"""SELM for TRL: ``SELMConfig`` and ``SELMTrainer`` extend TRL's ``DPOConfig`` and ``DPOTrainer``.

``use_linear_logps`` lets TRL's own trainers compute their head as ours does.
``UNSUPPORTED_OPTIONS`` and ``UNSUPPORTED_SETUPS`` list what the trainer refuses.
"""

from selm_core.trl._compat import require_trl

require_trl()

from selm_core.trl.config import SELMConfig  # noqa: E402
from selm_core.trl.data import DataCollatorForSELM, prepare_dataset  # noqa: E402
from selm_core.trl.fused_head import use_linear_logps  # noqa: E402
from selm_core.trl.trainer import SELMTrainer  # noqa: E402
from selm_core.trl.unsupported import UNSUPPORTED_OPTIONS, UNSUPPORTED_SETUPS  # noqa: E402

__all__ = [
    "UNSUPPORTED_OPTIONS",
    "UNSUPPORTED_SETUPS",
    "DataCollatorForSELM",
    "SELMConfig",
    "SELMTrainer",
    "prepare_dataset",
    "use_linear_logps",
]
