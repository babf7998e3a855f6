"""The loss of a batch, as the configuration describes it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

import selm_core
from selm_core.trl.config import (
    SELMConfig,
    exploration_options,
    preference_options,
    unweighed_losses,
    weighed_losses,
)
from selm_core.trl.forward import RowScores

PAIR = ("chosen", "rejected")


@dataclass(frozen=True)
class Completions:
    """What a loss reads of the completions of a batch, `(batch,)` each, by the completion's name.

    Attributes:
        logps: log-probabilities of whole completions, those of a pair as LD-DPO weighs them.
        plain_logps: the same without that.
        lengths: number of scored tokens, int64.
    """

    logps: dict[str, torch.Tensor]
    plain_logps: dict[str, torch.Tensor]
    lengths: dict[str, torch.Tensor]


def completions_of(
    scores: RowScores, rows: Mapping[str, torch.Tensor], ld_alpha: float | None
) -> Completions:
    """Pick each completion's values from those of the distinct rows.

    LD-DPO weighs the tokens of chosen and rejected beyond the length that they share, and leaves
    the exploration response as it is.

    Args:
        scores: of the distinct rows.
        rows: the row of each completion, `(batch,)` by name.
        ld_alpha: weight of those tokens; None is 1.
    """
    plain = {name: scores.logps[row] for name, row in rows.items()}
    lengths = {name: scores.lengths[row] for name, row in rows.items()}
    logps = dict(plain)
    if ld_alpha is not None:
        shared = torch.minimum(*(lengths[name] for name in PAIR))
        for name in PAIR:
            logps[name] = selm_core.length_desensitized_logps(
                scores.token_logps[rows[name]], scores.mask[rows[name]], shared, ld_alpha=ld_alpha
            )
    return Completions(logps, plain, lengths)


def pair_weights(scores: RowScores, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """WPO's weight of each pair, `(batch,)`, without gradient."""
    chosen, rejected = (
        selm_core.wpo_weights(
            scores.token_logps[rows[name]],
            scores.token_outputs["log_sum_sq_probs"][rows[name]],
            scores.mask[rows[name]],
        )
        for name in PAIR
    )
    return chosen * rejected


def batch_loss(
    config: SELMConfig,
    policy: Completions,
    reference: Mapping[str, torch.Tensor],
    *,
    alpha: float,
    weights: torch.Tensor | None,
) -> selm_core.SELMLoss:
    """The preference loss and the exploration term of a batch, per pair.

    Args:
        config: the trainer's configuration.
        policy: the completions under the policy.
        reference: log-probabilities of the completions under the reference, `(batch,)` by name.
        alpha: strength of the exploration term now.
        weights: WPO's weight of each pair, which multiplies its preference loss; None is 1.
    """
    pair, ref_pair = _pair(policy.logps), _pair(reference)
    response = (policy.logps.get("response"), reference.get("response"))
    preference = preference_options(config, weighed_losses(config), policy.lengths)
    options = {"alpha": alpha, **exploration_options(config), **preference}
    loss = selm_core.selm_loss(*pair, response[0], *ref_pair, response[1], **options)
    if weights is not None:  # they are the preference loss's alone
        losses = weights * selm_core.dpo_loss(*pair, *ref_pair, **preference).losses
        term = _exploration_term(config, *response, alpha)
        loss = loss._replace(losses=losses + term, dpo_losses=losses.detach())
    if unweighed := unweighed_losses(config):
        options = preference_options(config, unweighed, policy.lengths)
        plain = selm_core.dpo_loss(*_pair(policy.plain_logps), *ref_pair, **options).losses
        loss = loss._replace(
            losses=loss.losses + plain, dpo_losses=loss.dpo_losses + plain.detach()
        )
    return loss


def _exploration_term(
    config: SELMConfig,
    policy_response: torch.Tensor | None,
    ref_response: torch.Tensor | None,
    alpha: float,
) -> torch.Tensor | float:
    if policy_response is None:
        return 0.0
    options = exploration_options(config)
    kind = options["exploration"]
    needs_reference = kind != "xpo" or options["logratio_clip"] is not None
    return selm_core.exploration_bonus(
        policy_response,
        ref_response if needs_reference else None,
        alpha=alpha,
        beta=None if kind == "xpo" else config.beta,
        kind=kind,
        logratio_clip=options["logratio_clip"],
    )


def _pair(values: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return values["chosen"], values["rejected"]
