"""Configuration of ``SELMTrainer``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available
from trl.trainer.dpo_config import DPOConfig

import selm_core
from selm_core._core import uses_lengths
from selm_core.trl.data import check_truncation
from selm_core.trl.unsupported import UNSUPPORTED_OPTIONS, refuse_option

ENDS = (0.0, 1.0)
"""Where a schedule is furthest from zero and nearest to it: in between it only rises or only falls."""

LIKELIHOOD_LOSSES = frozenset({"sft", "nll"})
"""Losses of the chosen response's likelihood alone: LD-DPO and WPO do not touch them."""


@dataclass
class SELMConfig(DPOConfig):
    """Configuration of ``SELMTrainer``: TRL's ``DPOConfig`` and the exploration term.

    The defaults of `alpha` and `beta` are those of the paper (Self-Exploring Language Models,
    https://arxiv.org/abs/2405.19332, Zephyr recipe). Options of ``DPOConfig`` that the trainer does
    not support raise when they are set; `selm_core.trl.UNSUPPORTED_OPTIONS` lists them.

    Args:
        alpha: strength of the exploration term; 0 throughout is plain DPO, needs no `response`
            column and costs no third forward. Its scale depends on `exploration`.
        beta: strength of the tie to the reference policy.
        exploration: the term that is added to the loss. ``"selm"`` adds
            ``alpha * beta * (logp(response) - ref_logp(response))``, ``"xpo"`` adds
            ``alpha * logp(response)`` (https://arxiv.org/abs/2405.21046), so that
            ``alpha_xpo = alpha_selm * beta``: SELM's 1e-3 would be a hundredfold overdose there at
            beta 0.01. ``"popo"`` adds ``alpha * (sigmoid(beta * rho) - 1/2) / beta`` of the
            log-ratio rho, which is bounded (https://arxiv.org/abs/2502.00666).
        logratio_clip: where the log-ratio of `response` leaves [-logratio_clip, logratio_clip], the
            term is constant; None for no limit.
        alpha_schedule: how `alpha` changes over the training: ``"constant"``, or ``"linear"`` or
            ``"cosine"`` towards `final_alpha`; see ``selm_core.alpha_at``.
        final_alpha: the strength at the end; None is 0.
        loss_type: any loss of ``selm_core.dpo_loss``, or several with `loss_weights`.
        dpop_lambda: weight of the penalty of ``"dpop"``; None is 50.
        length_margin: margin per token of ``"r_dpo"``, which needs it.
        label_smoothing: the probability that a preference is flipped, where the losses define it;
            refused elsewhere. With ``"sigmoid"`` it is conservative DPO; TRL ignores it there.

    Raises:
        TypeError: `alpha`, `beta` or another option of the loss of the wrong type.
        ValueError: an option outside its range, or bfloat16 where the machine has none.
        UnsupportedError: an option of ``DPOConfig`` that is not supported.
    """

    alpha: float = field(
        default=1e-3,
        metadata={
            "help": "Strength of the exploration term; 0 is plain DPO. With exploration='selm' it "
            "is multiplied by beta, with 'xpo' it is not: alpha_xpo = alpha_selm * beta. 'popo' has "
            "a scale of its own: 4 * alpha_selm * beta pushes as hard at the start."
        },
    )
    beta: float = field(
        default=0.01,
        metadata={"help": "Strength of the tie to the reference policy."},
    )
    exploration: str = field(
        default="selm",
        metadata={
            "help": "Term that is added to the loss: 'selm' is alpha * beta * rho with rho = "
            "logp(response) - ref_logp(response), 'xpo' is alpha * logp(response), 'popo' is "
            "alpha * (sigmoid(beta * rho) - 1/2) / beta.",
            "choices": ["selm", "xpo", "popo"],
        },
    )
    logratio_clip: float | None = field(
        default=None,
        metadata={"help": "Absolute log-ratio of the response beyond which the term is constant."},
    )
    alpha_schedule: str = field(
        default="constant",
        metadata={
            "help": "How alpha changes over the training, towards final_alpha.",
            "choices": ["constant", "linear", "cosine"],
        },
    )
    final_alpha: float | None = field(
        default=None, metadata={"help": "alpha at the end of its schedule; 0 if left out."}
    )
    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={
            "help": "Any loss that selm_core.dpo_loss documents: TRL's, 'dpop', 'r_dpo' or 'nll'. "
            "Several are summed, with loss_weights."
        },
    )
    dpop_lambda: float | None = field(
        default=None, metadata={"help": "Weight of the penalty of loss_type 'dpop'."}
    )
    length_margin: float | None = field(
        default=None, metadata={"help": "Margin per token of loss_type 'r_dpo'."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment] # as in transformers
        default=None,
        metadata={
            "help": "Deprecated alias of `activation_checkpointing`, which is on by default.",
            "nargs": "?",
            "const": True,
        },
    )

    def __post_init__(self) -> None:
        """Check every option; see the class for what is raised."""
        _require_bfloat16(self)
        _default_checkpointing(self)
        super().__post_init__()  # type: ignore[no-untyped-call]
        for option, (accepted, _) in UNSUPPORTED_OPTIONS.items():
            value = getattr(self, option)
            if value != accepted:
                refuse_option(option, value)
        check_truncation("SELMConfig", self.max_length, self.truncation_mode)
        _check_sequences(self)
        _check_exploration(self)
        _check_unused(self)
        _check_losses(self)

    @property
    def explores(self) -> bool:
        """Whether the exploration term counts at some point of the schedule."""
        return any(map(self.alpha_at, ENDS))

    def alpha_at(self, progress: float) -> float:
        """The strength of the exploration term after a part of the training, 0 to 1."""
        return selm_core.alpha_at(
            progress,
            alpha=self.alpha,
            schedule=self.alpha_schedule,
            final_alpha=self.final_alpha,
        )


def _require_bfloat16(config: SELMConfig) -> None:
    """TRL trains in bfloat16 unless told otherwise; say what to do where that cannot work."""
    defaulted = config.bf16 is None and not config.fp16
    if defaulted and not config.use_cpu and not is_torch_bf16_gpu_available():
        raise ValueError(
            "SELMConfig: 'bf16' defaults to True, and this machine has no GPU with bfloat16: pass "
            "bf16=False to train in float32, or use_cpu=True to train in bfloat16 on the CPU"
        )


def _default_checkpointing(config: SELMConfig) -> None:
    """TRL turns it on under a name that transformers has deprecated, with a warning in every run."""
    names = ("activation_checkpointing", "gradient_checkpointing")  # formerly only the second
    if all(getattr(config, name, None) is None for name in names):
        setattr(config, next(name for name in names if hasattr(config, name)), True)


def _check_sequences(config: SELMConfig) -> None:
    """A set has no order, and of a mapping the values would be dropped."""
    for option in ("loss_type", "loss_weights"):
        value = getattr(config, option)
        if value is not None and not isinstance(value, Sequence):
            raise TypeError(
                f"SELMConfig: expected '{option}' to be a sequence, got {type(value).__name__}"
            )


def _check_exploration(config: SELMConfig) -> None:
    """The strengths, and options of a term that is never there."""
    explores = config.explores  # judges the strengths' types, too
    for option in ("alpha", "final_alpha"):
        value = getattr(config, option)
        if value is not None and value < 0:
            raise ValueError(
                f"SELMConfig: expected '{option}' >= 0, got {value}: a negative value makes "
                "'response' more likely"
            )
    for option, default in (
        ("exploration", "selm"),
        ("logratio_clip", None),
        ("alpha_schedule", "constant"),
    ):
        value = getattr(config, option)
        if value != default and not explores:
            raise ValueError(
                f"SELMConfig: expected '{option}' to be left at {default!r}: with alpha 0 "
                f"throughout there is no exploration term, got {value!r}"
            )


def _check_losses(config: SELMConfig) -> None:
    """Let the losses themselves judge their options: they alone know which values they accept."""
    zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
    options = {
        **exploration_options(config),
        **preference_options(config, _losses(config), dict.fromkeys(("chosen", "rejected"), one)),
    }
    for progress in ENDS:
        alpha = config.alpha_at(progress)
        selm_core.selm_loss(zero, zero, zero, zero, zero, zero, alpha=alpha, **options)
    if config.ld_alpha is not None:
        token = zero.unsqueeze(0)
        selm_core.length_desensitized_logps(token, token == 0, one, ld_alpha=config.ld_alpha)
    if not weighed_losses(config):
        raise ValueError(
            f"SELMConfig: expected a loss beside {config.loss_type} with 'ld_alpha': LD-DPO does not "
            "change the likelihood of the chosen response"
        )
    likelihoods = sorted(LIKELIHOOD_LOSSES & set(config.loss_type))
    if config.use_weighting and likelihoods:
        raise ValueError(
            f"SELMConfig: expected 'use_weighting' to be False with {likelihoods}: WPO weighs pairs"
        )


def _check_unused(config: SELMConfig) -> None:
    """TRL's options that have a default and belong to one loss: another value must be used."""
    for option, default, used, user in (
        ("discopop_tau", 0.05, "discopop" in config.loss_type, "loss_type 'discopop'"),
        (
            "f_alpha_divergence_coef",
            0.5,
            config.f_divergence_type == "alpha_divergence",
            "f_divergence_type 'alpha_divergence'",
        ),
    ):
        value = getattr(config, option)
        if value != default and not used:
            raise ValueError(
                f"SELMConfig: expected '{option}' to be left at {default}: only {user} uses it, "
                f"got {value}"
            )


Losses = list[tuple[str, float]]


def _losses(config: SELMConfig) -> Losses:
    weights = config.loss_weights or [1.0] * len(config.loss_type)
    return list(zip(config.loss_type, weights, strict=True))


def weighed_losses(config: SELMConfig) -> Losses:
    """The losses of the log-probabilities that LD-DPO weighs, each with its weight."""
    if config.ld_alpha is None:
        return _losses(config)
    return [loss for loss in _losses(config) if loss[0] not in LIKELIHOOD_LOSSES]


def unweighed_losses(config: SELMConfig) -> Losses:
    """The losses that see the log-probabilities as they are, where others do not."""
    weighed = weighed_losses(config)
    return [loss for loss in _losses(config) if loss not in weighed]


def exploration_options(config: SELMConfig) -> dict[str, Any]:
    """Keywords of ``selm_core.selm_loss`` for the exploration term, but its strength."""
    return {"exploration": config.exploration, "logratio_clip": config.logratio_clip}


def preference_options(
    config: SELMConfig, losses: Losses, lengths: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Keywords of ``selm_core.dpo_loss`` for some losses of this configuration.

    Args:
        config: the trainer's configuration.
        losses: names and weights.
        lengths: scored tokens of `chosen` and `rejected`, `(batch,)`, int64; passed on where used.
    """
    names = [name for name, _ in losses]
    options: dict[str, Any] = {
        "beta": config.beta,
        "loss_type": names,
        "loss_weights": [weight for _, weight in losses],
        "label_smoothing": config.label_smoothing,
    }
    is_without_link = LIKELIHOOD_LOSSES.issuperset
    if not is_without_link(names) or is_without_link(config.loss_type):
        options["f_divergence_type"] = config.f_divergence_type
        if config.f_divergence_type == "alpha_divergence":
            options["f_alpha_divergence_coef"] = config.f_alpha_divergence_coef
    if "discopop" in names:
        options["discopop_tau"] = config.discopop_tau
    for option, loss in (("dpop_lambda", "dpop"), ("length_margin", "r_dpo")):
        if loss in names or loss not in config.loss_type:
            options[option] = getattr(config, option)
    for used, completion in zip(uses_lengths(names), ("chosen", "rejected"), strict=True):
        if used:
            options[f"{completion}_lengths"] = lengths[completion]
    return options
