"""Preference optimisation for language models: DPO and SELM losses, exact and fast.

SELM (Self-Exploring Language Models, arXiv 2405.19332) adds an optimistic term to a preference loss that
steers the policy towards potentially high-reward responses. Submodules:

- ``selm_core`` itself: losses, log-probabilities and rewards on torch tensors (CPU and CUDA);
- ``selm_core.numpy``: the same on NumPy arrays, without torch;
- ``selm_core.trl``: ``SELMTrainer`` for TRL;
- ``selm_core.online``: the iterated loop that generates, judges, trains and moves its reference.
"""

import importlib
from typing import TYPE_CHECKING, Any

from selm_core import _build

if TYPE_CHECKING:
    from selm_core._info import cmake_prefix_path, info
    from selm_core.logps import LinearLogps, linear_logps, selective_log_softmax, sequence_logps
    from selm_core.losses import PreferenceLoss, SELMLoss, dpo_loss, selm_loss
    from selm_core.policy_losses import (
        UnpairedPreferenceLoss,
        cpo_loss,
        kto_loss,
        orpo_loss,
        simpo_loss,
    )
    from selm_core.rewards import (
        center_rewards,
        exploration_bonus,
        implicit_reward_difference,
        implicit_rewards,
        kl_estimate,
        log_partition,
        policy_logps_from_rewards,
        reward_accuracies,
        reward_margins,
    )
    from selm_core.schedules import alpha_at
    from selm_core.token_level import (
        length_desensitized_logps,
        masked_mean,
        masked_sum,
        prefix_rewards,
        token_rewards,
        wpo_weights,
    )

__version__ = _build.VERSION

# Names are resolved on first use, so that `import selm_core.numpy` never imports torch.
_HOME = {
    "_info": ["info", "cmake_prefix_path"],
    "logps": ["LinearLogps", "linear_logps", "selective_log_softmax", "sequence_logps"],
    "losses": ["PreferenceLoss", "SELMLoss", "dpo_loss", "selm_loss"],
    "policy_losses": ["UnpairedPreferenceLoss", "cpo_loss", "kto_loss", "orpo_loss", "simpo_loss"],
    "rewards": [
        "center_rewards",
        "exploration_bonus",
        "implicit_reward_difference",
        "implicit_rewards",
        "kl_estimate",
        "log_partition",
        "policy_logps_from_rewards",
        "reward_accuracies",
        "reward_margins",
    ],
    "schedules": ["alpha_at"],
    "token_level": [
        "length_desensitized_logps",
        "masked_mean",
        "masked_sum",
        "prefix_rewards",
        "token_rewards",
        "wpo_weights",
    ],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "LinearLogps",
    "PreferenceLoss",
    "SELMLoss",
    "UnpairedPreferenceLoss",
    "__version__",
    "alpha_at",
    "center_rewards",
    "cmake_prefix_path",
    "cpo_loss",
    "dpo_loss",
    "exploration_bonus",
    "implicit_reward_difference",
    "implicit_rewards",
    "info",
    "kl_estimate",
    "kto_loss",
    "length_desensitized_logps",
    "linear_logps",
    "log_partition",
    "masked_mean",
    "masked_sum",
    "orpo_loss",
    "policy_logps_from_rewards",
    "prefix_rewards",
    "reward_accuracies",
    "reward_margins",
    "selective_log_softmax",
    "selm_loss",
    "sequence_logps",
    "simpo_loss",
    "token_rewards",
    "wpo_weights",
]


if not TYPE_CHECKING:  # a type checker would believe that every name is there

    def __getattr__(name: str) -> Any:
        """Import the home of a public name on first use (PEP 562)."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'selm_core' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"selm_core.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Public names, resolved or not."""
    return sorted(__all__)
