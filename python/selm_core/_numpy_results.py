"""What the functions of selm_core.numpy return."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]


class PreferenceLoss(NamedTuple):
    """What :func:`selm_core.numpy.dpo_loss` returns, each of shape ``(batch,)``."""

    losses: Floats
    """Loss per pair, to be minimised."""
    chosen_rewards: Floats
    """Implicit rewards ``beta * (policy - ref)`` of the chosen responses."""
    rejected_rewards: Floats
    """Implicit rewards of the rejected responses."""
    grad_chosen_logps: Floats
    """Derivative of ``losses`` with respect to ``policy_chosen_logps``; of their sum where a loss
    ranks the batch."""
    grad_rejected_logps: Floats
    """Derivative of ``losses`` with respect to ``policy_rejected_logps``."""


class SELMLoss(NamedTuple):
    """What :func:`selm_core.numpy.selm_loss` returns, each of shape ``(batch,)``."""

    losses: Floats
    """``dpo_losses + exploration``, rounded once."""
    dpo_losses: Floats
    """The preference loss alone."""
    exploration: Floats
    """The exploration term alone."""
    chosen_rewards: Floats
    """Implicit rewards ``beta * (policy - ref)`` of the chosen responses."""
    rejected_rewards: Floats
    """Implicit rewards of the rejected responses."""
    response_rewards: Floats | None
    """Implicit rewards of the exploration responses; None when there were none."""
    grad_chosen_logps: Floats
    """Derivative of ``losses`` with respect to ``policy_chosen_logps``."""
    grad_rejected_logps: Floats
    """Derivative of ``losses`` with respect to ``policy_rejected_logps``."""
    grad_response_logps: Floats | None
    """Derivative of ``losses`` with respect to ``policy_response_logps``."""


class UnpairedPreferenceLoss(NamedTuple):
    """What :func:`kto_loss` returns, each of shape ``(batch,)``."""

    losses: Floats
    """Loss per response, to be minimised."""
    rewards: Floats
    """Implicit rewards ``beta * (policy - ref)``."""
    grad_policy_logps: Floats
    """Derivative of ``losses`` with respect to ``policy_logps``."""


class ExplorationBonus(NamedTuple):
    """What :func:`selm_core.numpy.exploration_bonus` returns, each of the inputs' shape."""

    bonus: Floats
    """The term that is added to a loss."""
    grad_policy_logps: Floats
    """Its derivative with respect to ``policy_logps``."""


class KLEstimate(NamedTuple):
    """What :func:`selm_core.numpy.kl_estimate` returns, each of the inputs' shape."""

    estimates: Floats
    """One estimate per sample, in nats."""
    grad_policy_logps: Floats
    """Their derivatives with respect to ``policy_logps``."""
