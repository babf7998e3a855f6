"""Configuration of ``SELMTrainer``."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available
from trl.trainer.dpo_config import DPOConfig

import selm_core
from selm_core.trl.data import check_truncation
from selm_core.trl.unsupported import UNSUPPORTED_OPTIONS, refuse, refuse_option

LENGTH_NORMALISED_LOSSES = frozenset({"ipo"})


@dataclass
class SELMConfig(DPOConfig):
    """Configuration of ``SELMTrainer``: TRL's ``DPOConfig`` and the exploration term.

    The defaults of `alpha` and `beta` are those of the paper (Self-Exploring Language Models,
    https://arxiv.org/abs/2405.19332, Zephyr recipe). Options of ``DPOConfig`` that the trainer does
    not support raise when they are set; `selm_core.trl.UNSUPPORTED_OPTIONS` lists them.

    Args:
        alpha: strength of the exploration term; 0 is plain DPO, needs no `response` column and
            costs no third forward. Its scale depends on `exploration`.
        beta: strength of the tie to the reference policy.
        exploration: the term that is added to the loss. ``"selm"`` adds
            ``alpha * beta * (logp(response) - ref_logp(response))``, ``"xpo"`` adds
            ``alpha * logp(response)`` (https://arxiv.org/abs/2405.21046), so that
            ``alpha_xpo = alpha_selm * beta``: SELM's 1e-3 would be a hundredfold overdose there at
            beta 0.01.
        loss_type: ``"sigmoid"``, ``"hinge"`` or ``"ipo"``.
        label_smoothing: with ``"sigmoid"`` the probability that a preference is flipped (cDPO);
            TRL ignores it there. Refused with the other losses.

    Raises:
        TypeError: `alpha`, `beta` or another option of the loss of the wrong type.
        ValueError: an option outside its range, or bfloat16 where the machine has none.
        UnsupportedError: an option of ``DPOConfig`` that is not supported.
    """

    alpha: float = field(
        default=1e-3,
        metadata={
            "help": "Strength of the exploration term; 0 is plain DPO. With exploration='selm' it "
            "is multiplied by beta, with 'xpo' it is not: alpha_xpo = alpha_selm * beta."
        },
    )
    beta: float = field(
        default=0.01,
        metadata={"help": "Strength of the tie to the reference policy."},
    )
    exploration: str = field(
        default="selm",
        metadata={
            "help": "Term that is added to the loss: 'selm' is alpha * beta * (logp(response) - "
            "ref_logp(response)), 'xpo' is alpha * logp(response).",
            "choices": ["selm", "xpo"],
        },
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
        if len(self.loss_type) != 1:
            refuse("a list of losses", f"loss_type={self.loss_type}")
        for option, (accepted, _) in UNSUPPORTED_OPTIONS.items():
            value = getattr(self, option)
            if value != accepted:
                refuse_option(option, value)
        check_truncation("SELMConfig", self.max_length, self.truncation_mode)
        _try_loss(self)
        if self.alpha < 0:
            raise ValueError(
                f"SELMConfig: expected 'alpha' >= 0, got {self.alpha}: a negative value makes "
                "'response' more likely"
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


def _try_loss(config: SELMConfig) -> None:
    """Let the loss itself judge the options: it alone knows which values it accepts."""
    zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
    selm_core.selm_loss(zero, zero, zero, zero, zero, zero, **loss_options(config, one, one))


def loss_options(
    config: SELMConfig, chosen_lengths: torch.Tensor, rejected_lengths: torch.Tensor
) -> dict[str, Any]:
    """Keywords of ``selm_core.selm_loss`` for this configuration.

    Args:
        config: the trainer's configuration.
        chosen_lengths: `(batch,)`, int64, scored tokens; used by length-normalised losses.
        rejected_lengths: `(batch,)`.
    """
    (loss_type,) = config.loss_type
    options: dict[str, Any] = {
        "alpha": config.alpha,
        "beta": config.beta,
        "exploration": config.exploration,
        "loss_type": loss_type,
        "label_smoothing": config.label_smoothing,
    }
    if loss_type in LENGTH_NORMALISED_LOSSES:
        options["chosen_lengths"] = chosen_lengths
        options["rejected_lengths"] = rejected_lengths
    return options
