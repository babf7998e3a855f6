"""The output head of a causal language model, as ``selm_core.linear_logps`` takes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available

import selm_core
from selm_core.trl.data import IGNORE_INDEX
from selm_core.trl.unsupported import refuse


class OutputHead(NamedTuple):
    """``logits = softcap * tanh(logit_scale * (hidden @ weight.T + bias) / softcap)``.

    Attributes:
        weight: `(vocab, hidden)`.
        bias: `(vocab,)` or None.
        logit_scale: factor of the logits, before the soft cap.
        softcap: bound of the logits; None for none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    logit_scale: float
    softcap: float | None


def output_head(model: PreTrainedModel) -> OutputHead:
    """Read weight, bias, scale and soft cap of `model` and its configuration.

    Raises:
        UnsupportedError: a PEFT adapter sits on the head, or the model has no head.
    """
    head = model.get_output_embeddings()
    if head is None:
        refuse("an output head of this kind", type(model).__name__)
    if is_peft_available():
        from peft.tuners.tuners_utils import BaseTunerLayer

        if isinstance(head, BaseTunerLayer):
            refuse("a PEFT adapter on the output head", type(head).__name__)
    return OutputHead(
        weight=head.weight,
        bias=getattr(head, "bias", None),
        logit_scale=_logit_scale(model),
        softcap=_first_setting(
            model, "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"
        ),
    )


def _logit_scale(model: PreTrainedModel) -> float:
    scale = _first_setting(model, "logit_scale", "output_multiplier", "lm_head_multiplier")
    if scale is not None:
        return scale
    scaling = _first_setting(model, "logits_scaling")
    if scaling is None:
        return 1.0
    # The one configuration with this name that multiplies; all others divide.
    multiplies = model.config.get_text_config().model_type == "hyperclovax"
    return scaling if multiplies else 1.0 / scaling


def _first_setting(model: PreTrainedModel, *names: str) -> float | None:
    config = model.config.get_text_config()
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def head_logps(
    head: OutputHead, hidden: torch.Tensor, labels: torch.Tensor, outputs: tuple[str, ...] = ()
) -> selm_core.LinearLogps:
    """``selm_core.linear_logps`` of the head.

    Args:
        head: the output head.
        hidden: `(rows, time, hidden)`, the last hidden state.
        labels: `(rows, time)`, the token that each position predicts, -100 where none is scored.
        outputs: further quantities to return.
    """
    # A model that is split over devices can end on another one than its head.
    device = head.weight.device
    return selm_core.linear_logps(
        hidden.to(device),
        head.weight,
        labels.to(device),
        bias=head.bias,
        logit_scale=head.logit_scale,
        softcap=head.softcap,
        ignore_index=IGNORE_INDEX,
        outputs=outputs,
    )


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout and gradient checkpointing; the former mode comes back afterwards."""
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def check_output_head(model: PreTrainedModel) -> None:
    """Compare the head with the model's own logits on four tokens.

    Architectures transform their logits in ways that no configuration announces; training on other
    log-probabilities than the model's own would go unnoticed. The most and the least likely token
    are compared, where a missing scale, cap or layer shows most.

    Raises:
        UnsupportedError: they differ by more than rounding explains.
    """
    head = output_head(model)
    ids = (torch.arange(1, 5, device=model.device) % head.weight.size(0)).unsqueeze(0)
    with evaluation_mode(model):
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    found, expected = logits.size(-1), head.weight.size(0)
    if found != expected:
        refuse("an output head of this kind", f"{found} logits from {expected} rows")
    # bfloat16 logits are off by 2^-8 of their size; a forgotten factor changes them by far more.
    tolerance = 0.01 * float((logits.amax(-1) - logits.amin(-1)).max()) + 1e-4
    for labels in (logits.argmax(-1), logits.argmin(-1)):
        ours = head_logps(head, hidden, labels).logps
        own = logits.double().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        if not torch.allclose(ours.double(), own, rtol=0, atol=tolerance):
            refuse("an output head of this kind", type(model).__name__)
