"""Preference losses on NumPy arrays; `selm_core.numpy` offers them."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from selm_core import _numpy
from selm_core import _scalars as check
from selm_core._loss_options import loss_options
from selm_core._numpy_results import Floats, PreferenceLoss, SELMLoss, UnpairedPreferenceLoss

Lengths: TypeAlias = npt.NDArray[np.int64]


def dpo_loss(
    policy_chosen_logps: Floats,
    policy_rejected_logps: Floats,
    ref_chosen_logps: Floats,
    ref_rejected_logps: Floats,
    *,
    beta: float = 0.1,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float | None = None,
    discopop_tau: float | None = None,
    dpop_lambda: float | None = None,
    length_margin: float | None = None,
    chosen_lengths: Lengths | None = None,
    rejected_lengths: Lengths | None = None,
) -> PreferenceLoss:
    """Direct preference optimisation and its pairwise relatives; see :func:`selm_core.dpo_loss`.

    Args:
        policy_chosen_logps: Log-probabilities of the chosen responses under the policy, in nats,
            each summed over its tokens, shape ``(batch,)``.
        policy_rejected_logps: The same of the rejected responses.
        ref_chosen_logps: The same under the reference policy.
        ref_rejected_logps: The same of the rejected responses.
        beta: Inverse temperature of the implicit reward, > 0.
        loss_type: A loss of :func:`selm_core.dpo_loss`, or several, whose weighted sum it is.
        loss_weights: One finite weight for each of several losses; None is 1 each.
        label_smoothing: Probability that a label is flipped, for losses that define it.
        f_divergence_type: See :func:`selm_core.dpo_loss`, and so are the following.
        f_alpha_divergence_coef: Of ``alpha_divergence``.
        discopop_tau: Of ``discopop``.
        dpop_lambda: Of ``dpop``.
        length_margin: Of ``r_dpo``, which needs it.
        chosen_lengths: Tokens per chosen response, ``(batch,)``, int64, >= 1; for the losses that
            read them, and for no other.
        rejected_lengths: Tokens per rejected response.
    """
    op = "dpo_loss"
    options = (
        check.number(op, "beta", beta),
        *loss_options(
            op,
            loss_type=loss_type,
            loss_weights=loss_weights,
            label_smoothing=label_smoothing,
            f_divergence_type=f_divergence_type,
            f_alpha_divergence_coef=f_alpha_divergence_coef,
            discopop_tau=discopop_tau,
            dpop_lambda=dpop_lambda,
            length_margin=length_margin,
        ),
    )
    return PreferenceLoss(
        *_numpy.dpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            ref_chosen_logps,
            ref_rejected_logps,
            options,
            chosen_lengths,
            rejected_lengths,
        )
    )


def selm_loss(
    policy_chosen_logps: Floats,
    policy_rejected_logps: Floats,
    policy_response_logps: Floats | None,
    ref_chosen_logps: Floats,
    ref_rejected_logps: Floats,
    ref_response_logps: Floats | None,
    *,
    alpha: float,
    beta: float,
    exploration: str = "selm",
    logratio_clip: float | None = None,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float | None = None,
    discopop_tau: float | None = None,
    dpop_lambda: float | None = None,
    length_margin: float | None = None,
    chosen_lengths: Lengths | None = None,
    rejected_lengths: Lengths | None = None,
) -> SELMLoss:
    """Preference loss plus exploration term (SELM, arXiv 2405.19332, eq. 4.2).

    Args:
        policy_chosen_logps: As in :func:`dpo_loss`, and so are the other ``chosen``, ``rejected``.
        policy_rejected_logps: See :func:`dpo_loss`.
        policy_response_logps: Log-probabilities of the exploration responses, drawn from the
            reference policy, shape ``(batch,)``. With ``alpha=0`` both response arguments may be
            None.
        ref_chosen_logps: See :func:`dpo_loss`.
        ref_rejected_logps: See :func:`dpo_loss`.
        ref_response_logps: The exploration responses under the reference policy.
        alpha: Strength of the term; 0 gives :func:`dpo_loss` bit for bit, < 0 is pessimism.
        beta: Inverse temperature of the implicit reward, > 0.
        exploration: ``"selm"``, ``"xpo"`` or ``"popo"``, see :func:`exploration_bonus`.
        logratio_clip: See :func:`exploration_bonus`.
        loss_type: See :func:`dpo_loss`, and so are the following.
        loss_weights: See :func:`dpo_loss`.
        label_smoothing: See :func:`dpo_loss`.
        f_divergence_type: See :func:`dpo_loss`.
        f_alpha_divergence_coef: See :func:`dpo_loss`.
        discopop_tau: See :func:`dpo_loss`.
        dpop_lambda: See :func:`dpo_loss`.
        length_margin: See :func:`dpo_loss`.
        chosen_lengths: See :func:`dpo_loss`.
        rejected_lengths: See :func:`dpo_loss`.
    """
    op = "selm_loss"
    options = (
        check.number(op, "beta", beta),
        *loss_options(
            op,
            loss_type=loss_type,
            loss_weights=loss_weights,
            label_smoothing=label_smoothing,
            f_divergence_type=f_divergence_type,
            f_alpha_divergence_coef=f_alpha_divergence_coef,
            discopop_tau=discopop_tau,
            dpop_lambda=dpop_lambda,
            length_margin=length_margin,
        ),
    )
    return SELMLoss(
        *_numpy.selm_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            policy_response_logps,
            ref_chosen_logps,
            ref_rejected_logps,
            ref_response_logps,
            check.number(op, "alpha", alpha),
            check.string(op, "exploration", exploration),
            check.optional_number(op, "logratio_clip", logratio_clip),
            options,
            chosen_lengths,
            rejected_lengths,
        )
    )


def cpo_loss(
    policy_chosen_logps: Floats,
    policy_rejected_logps: Floats,
    *,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_lengths: Lengths | None = None,
    rejected_lengths: Lengths | None = None,
) -> PreferenceLoss:
    """CPO's preference term (arXiv 2401.08417, eq. 3); see :func:`selm_core.cpo_loss`."""
    op = "cpo_loss"
    return PreferenceLoss(
        *_numpy.cpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            check.number(op, "beta", beta),
            check.string(op, "loss_type", loss_type),
            check.number(op, "label_smoothing", label_smoothing),
            chosen_lengths,
            rejected_lengths,
        )
    )


def simpo_loss(
    policy_chosen_logps: Floats,
    policy_rejected_logps: Floats,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 0.1,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """SimPO (arXiv 2405.14734, eq. 6) of summed log-probabilities; see :func:`selm_core.simpo_loss`."""
    op = "simpo_loss"
    return PreferenceLoss(
        *_numpy.simpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            chosen_lengths,
            rejected_lengths,
            check.number(op, "beta", beta),
            check.number(op, "simpo_gamma", simpo_gamma),
            check.number(op, "label_smoothing", label_smoothing),
        )
    )


def orpo_loss(
    policy_chosen_logps: Floats,
    policy_rejected_logps: Floats,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 0.1,
) -> PreferenceLoss:
    """ORPO's odds-ratio term (arXiv 2403.07691, eq. 7); see :func:`selm_core.orpo_loss`."""
    return PreferenceLoss(
        *_numpy.orpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            chosen_lengths,
            rejected_lengths,
            check.number("orpo_loss", "beta", beta),
        )
    )


def kto_loss(
    policy_logps: Floats,
    ref_logps: Floats,
    desirable: npt.NDArray[np.bool_],
    kl: float | None,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
) -> UnpairedPreferenceLoss:
    """KTO of single responses (arXiv 2402.01306, eq. 8); see :func:`selm_core.kto_loss`.

    Args:
        policy_logps: Log-probabilities of the responses under the policy, ``(batch,)``.
        ref_logps: The same under the reference policy.
        desirable: Whether each response is desirable, ``(batch,)``, bool.
        kl: The baseline in nats, rounded to the arrays' dtype; None for ``apo_zero_unpaired``.
        beta: Inverse temperature of the implicit reward, > 0.
        desirable_weight: Weight of desirable responses, >= 0.
        undesirable_weight: Weight of undesirable responses, >= 0.
        loss_type: ``"kto"`` or ``"apo_zero_unpaired"``.
    """
    op = "kto_loss"
    return UnpairedPreferenceLoss(
        *_numpy.kto_loss(
            policy_logps,
            ref_logps,
            desirable,
            check.optional_number(op, "kl", kl),
            check.number(op, "beta", beta),
            check.number(op, "desirable_weight", desirable_weight),
            check.number(op, "undesirable_weight", undesirable_weight),
            check.string(op, "loss_type", loss_type),
        )
    )
