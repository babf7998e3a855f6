"""Preference losses on sequence log-probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from selm_core import _arguments as check
from selm_core._library import ops
from selm_core._loss_options import loss_options


class PreferenceLoss(NamedTuple):
    """What a preference loss returns, each of shape ``(batch,)`` and of the inputs' dtype."""

    losses: Tensor
    """Loss per pair, to be minimised; the only one that carries a gradient."""
    chosen_rewards: Tensor
    """Implicit rewards ``beta * (policy - ref)`` of the chosen responses, detached."""
    rejected_rewards: Tensor
    """Implicit rewards of the rejected responses, detached."""


class SELMLoss(NamedTuple):
    """What ``selm_loss`` returns, each of shape ``(batch,)`` and of the inputs' dtype."""

    losses: Tensor
    """``dpo_losses + exploration``, rounded once; the only one that carries a gradient."""
    dpo_losses: Tensor
    """The preference loss alone, detached."""
    exploration: Tensor
    """The exploration term alone, detached."""
    chosen_rewards: Tensor
    """Implicit rewards ``beta * (policy - ref)`` of the chosen responses, detached."""
    rejected_rewards: Tensor
    """Implicit rewards of the rejected responses, detached."""
    response_rewards: Tensor | None
    """Implicit rewards of the exploration responses, detached; None when there were none."""


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
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
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> PreferenceLoss:
    """Direct preference optimisation (DPO) and its pairwise relatives.

    Each pair is a prompt x with a chosen response w and a rejected response l. The loss is small where
    the policy prefers w to l more than the reference policy does. In the table ``rho(y) = log pi(y|x) -
    log pi_ref(y|x)`` is a response's log-ratio, ``r = beta * rho`` its implicit reward, ``delta = rho(w)
    - rho(l)``, ``|y|`` a response's number of tokens, ``s`` the sigmoid and ``e`` the label smoothing:

    ================ ================================================================ ==================
    loss_type        loss per pair                                                    source
    ================ ================================================================ ==================
    ``sigmoid``      ``L = -log s(beta delta)``; ``(1 - e) L(delta) + e L(-delta)``   arXiv 2305.18290
    ``hinge``        ``max(0, 1 - beta delta)``                                       arXiv 2305.10425
    ``ipo``          ``(rho(w) / |w| - rho(l) / |l| - 1 / (2 beta)) ** 2``            arXiv 2310.12036
    ``exo_pair``     ``KL(s(beta delta) || 1 - e)``, 0 < e < 0.5                      arXiv 2402.00856
    ``nca_pair``     ``-log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2``              arXiv 2402.05369
    ``robust``       ``((1 - e) L(delta) - e L(-delta)) / (1 - 2 e)``, e < 0.5        arXiv 2403.00409
    ``bco_pair``     ``-log s(r_w) - log s(-r_l)``                                    arXiv 2404.04656
    ``sppo_hard``    ``(rho(w) - 1 / (2 beta)) ** 2 + (rho(l) + 1 / (2 beta)) ** 2``  arXiv 2405.00675
    ``aot``          ``sigmoid`` of separately sorted differences of the batch        arXiv 2406.05882
    ``aot_unpaired`` ``sigmoid`` of separately sorted log-ratios of the batch         arXiv 2406.05882
    ``apo_zero``     ``1 - s(r_w) + s(r_l)``                                          arXiv 2408.06266
    ``apo_down``     ``s(r_w) + 1 - s(r_w - r_l)``                                    arXiv 2408.06266
    ``discopop``     ``(1 - m) L(delta) + m exp(-beta delta)``, m = ``s(beta delta    arXiv 2406.08414
                     / discopop_tau)``
    ``sft``          ``-log pi(w) / mean |w| of the batch``                           as TRL
    ``sigmoid_norm`` ``-log s(beta (rho(w) / |w| - rho(l) / |l|))``                   as TRL
    ``dpop``         ``L(delta - dpop_lambda max(0, -rho(w)))``                       arXiv 2402.13228
    ``r_dpo``        ``-log s(beta delta + length_margin (|w| - |l|))``               arXiv 2403.19159
    ``nll``          ``-log pi(w) / |w|``, RPO's second term                          arXiv 2404.19733
    ================ ================================================================ ==================

    A sequence of names gives the sum of these losses, weighted by ``loss_weights``. ``aot`` and
    ``aot_unpaired`` depend on the batch: loss k is that of the k-th rank, and ties keep their order.
    All arithmetic is float64 and rounded once, gradients included. Log-probabilities of whole responses
    come from :func:`sequence_logps` or, without the logits of all positions, :func:`linear_logps`.

    Args:
        policy_chosen_logps: Log-probabilities of the chosen responses under the policy, in nats, each
            summed over its tokens. Shape ``(batch,)``, float32 or float64.
        policy_rejected_logps: The same of the rejected responses.
        ref_chosen_logps: The same under the reference policy; must not require grad.
        ref_rejected_logps: The same of the rejected responses.
        beta: Strength of the tie to the reference policy, > 0: the implicit reward's inverse temperature.
            The literature uses 0.01 to 0.5.
        loss_type: One of the table above, or several.
        loss_weights: One finite weight for each of several losses; None is 1 each.
        label_smoothing: Probability that a label is flipped, in [0, 0.5] for ``sigmoid`` (cDPO), ``aot`` and
            ``aot_unpaired``, [0, 0.5) for ``robust``, (0, 0.5) for ``exo_pair``, which needs it.
        f_divergence_type: ``"reverse_kl"``, or (arXiv 2309.16240) ``"forward_kl"``, ``"js_divergence"`` or
            ``"alpha_divergence"``, which replace rho by ``1 - exp(-rho)``, ``log 2 + log s(rho)`` and
            ``(exp((a - 1) rho) - 1) / (a - 1)``; for ``sigmoid``, ``hinge``, ``ipo``, ``exo_pair``,
            ``robust``, ``discopop``, ``sigmoid_norm`` and ``r_dpo``.
        f_alpha_divergence_coef: The a of ``alpha_divergence``; None is 0.5.
        discopop_tau: Temperature of ``discopop``, > 0; None is 0.05.
        dpop_lambda: Weight of ``dpop``'s penalty, >= 0; None is 50.
        length_margin: Margin per token of ``r_dpo``, which needs it.
        chosen_lengths: Tokens ``|w|`` per chosen response, shape ``(batch,)``, int64, >= 1; for the losses
            that read it (``ipo``, ``sigmoid_norm``, ``r_dpo``, ``sft``, ``nll``), and for no other.
        rejected_lengths: Tokens ``|l|`` per rejected response; for ``ipo``, ``sigmoid_norm`` and ``r_dpo``.

    Returns:
        Losses and detached rewards per pair; nothing is reduced: call ``losses.mean().backward()``.

    Raises:
        TypeError: An argument has the wrong type or dtype (half precision included).
        ValueError: Shapes or devices differ, a number is out of its range, an option is given to a loss
            that does not use it, a reference requires grad, or (on the CPU) a log-probability is > 0.
        NotImplementedError: A second derivative is asked for.

    Example:
        >>> import torch, selm_core
        >>> chosen = torch.tensor([-10.0], requires_grad=True)  # one pair, under the policy
        >>> rejected = torch.tensor([-12.0], requires_grad=True)
        >>> ref_chosen, ref_rejected = torch.tensor([-11.0]), torch.tensor([-11.5])
        >>> out = selm_core.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1)
        >>> out.losses
        tensor([0.6210], grad_fn=<...>)
        >>> out.chosen_rewards, out.rejected_rewards
        (tensor([0.1000]), tensor([-0.0500]))
        >>> out.losses.mean().backward()
        >>> chosen.grad  # negative: descent makes the chosen response more likely
        tensor([-0.0463])

        RPO is a sum of two losses, the second of which reads the length:

        >>> options = {"loss_type": ["sigmoid", "nll"], "chosen_lengths": torch.tensor([8])}
        >>> selm_core.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, **options).losses
        tensor([1.8710], grad_fn=<...>)
    """
    op = "dpo_loss"
    check.require_tensors(
        op,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    check.optional_tensors(op, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    options = loss_options(
        op,
        loss_type=loss_type,
        loss_weights=loss_weights,
        label_smoothing=label_smoothing,
        f_divergence_type=f_divergence_type,
        f_alpha_divergence_coef=f_alpha_divergence_coef,
        discopop_tau=discopop_tau,
        dpop_lambda=dpop_lambda,
        length_margin=length_margin,
    )
    return PreferenceLoss(
        *ops.dpo_loss(
            policy_chosen_logps,
            policy_rejected_logps,
            ref_chosen_logps,
            ref_rejected_logps,
            beta=check.number(op, "beta", beta),
            **options._asdict(),
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
        )
    )


def selm_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    policy_response_logps: Tensor | None,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    ref_response_logps: Tensor | None,
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
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> SELMLoss:
    """Preference loss plus an optimistic exploration term (SELM, arXiv 2405.19332, eq. 4.2).

    ``losses = dpo_loss(...) + term(response)``, where ``response`` is drawn from the current reference
    policy. The term lowers its likelihood and so moves the policy towards responses not tried yet:

    =============== ====================================== ================
    exploration     term                                   source
    =============== ====================================== ================
    ``selm``        ``alpha * beta * rho``                 arXiv 2405.19332
    ``xpo``         ``alpha * policy_response_logp``       arXiv 2405.21046
    ``popo``        ``alpha * (s(beta rho) - 1/2) / beta`` arXiv 2502.00666
    =============== ====================================== ================

    where ``rho = policy_response_logp - ref_response_logp`` and ``s`` is the sigmoid.

    XPO's alpha is SELM's ``alpha * beta``: SELM's 1e-3 passed to ``xpo`` is a 100-fold overdose at
    beta 0.01. POPO's term is bounded, and its alpha a scale of its own: at rho = 0 it is SELM's with
    ``alpha_selm = alpha / (4 beta)``. The other two are unbounded below: watch the response's
    log-probability, or clip. With alpha other than 0 ``f_divergence_type`` must be ``"reverse_kl"``.

    Args:
        policy_chosen_logps: As in :func:`dpo_loss`, and so are the other ``chosen`` and ``rejected``.
        policy_rejected_logps: See :func:`dpo_loss`.
        policy_response_logps: Log-probabilities of the exploration responses under the policy, shape
            ``(batch,)``. With ``alpha=0`` both response arguments may be None.
        ref_chosen_logps: See :func:`dpo_loss`.
        ref_rejected_logps: See :func:`dpo_loss`.
        ref_response_logps: The exploration responses under the reference; must not require grad.
        alpha: Strength of the term; 0 gives :func:`dpo_loss` bit for bit, < 0 is pessimism. The paper
            uses 1e-3 (Zephyr) and 1e-4 (Llama-3) with beta 0.01.
        beta: Inverse temperature of the implicit reward, > 0.
        exploration: One of the table above.
        logratio_clip: Where the response's log-ratio leaves [-logratio_clip, logratio_clip], the term is
            constant and its gradient 0; > 0. None is no limit.
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

    Returns:
        Losses, their two parts and the three responses' rewards, per pair; nothing is reduced.

    Raises:
        TypeError: See :func:`dpo_loss`.
        ValueError: See :func:`dpo_loss`; or alpha is not finite, or the response is missing.
        NotImplementedError: A second derivative is asked for.

    Example:
        >>> import torch, selm_core
        >>> policy = [torch.tensor([logp], requires_grad=True) for logp in (-10.0, -12.0, -9.0)]
        >>> ref = [torch.tensor([logp]) for logp in (-11.0, -11.5, -9.5)]
        >>> out = selm_core.selm_loss(*policy, *ref, alpha=1e-3, beta=0.1)
        >>> out.losses, out.exploration
        (tensor([0.6210], grad_fn=<...>), tensor([5.0000e-05]))
        >>> out.losses.mean().backward()
        >>> policy[2].grad  # alpha * beta: descent makes the response less likely
        tensor([1.0000e-04])
    """
    op = "selm_loss"
    check.require_tensors(
        op,
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    check.optional_tensors(
        op,
        policy_response_logps=policy_response_logps,
        ref_response_logps=ref_response_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    options = loss_options(
        op,
        loss_type=loss_type,
        loss_weights=loss_weights,
        label_smoothing=label_smoothing,
        f_divergence_type=f_divergence_type,
        f_alpha_divergence_coef=f_alpha_divergence_coef,
        discopop_tau=discopop_tau,
        dpop_lambda=dpop_lambda,
        length_margin=length_margin,
    )
    losses, dpo, term, chosen_rewards, rejected_rewards, response_rewards = ops.selm_loss(
        policy_chosen_logps,
        policy_rejected_logps,
        policy_response_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        ref_response_logps,
        alpha=check.number(op, "alpha", alpha),
        beta=check.number(op, "beta", beta),
        exploration=check.string(op, "exploration", exploration),
        logratio_clip=check.optional_number(op, "logratio_clip", logratio_clip),
        **options._asdict(),
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return SELMLoss(
        losses,
        dpo,
        term,
        chosen_rewards,
        rejected_rewards,
        None if policy_response_logps is None else response_rewards,
    )
