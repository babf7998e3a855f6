"""Log-probabilities of the rows of a batch, in one forward that never builds the logits."""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

import selm_core
from selm_core.trl.data import IGNORE_INDEX
from selm_core.trl.head import head_logps, output_head


class RowScores(NamedTuple):
    """The scored tokens of each row, and sums over them.

    Attributes:
        logps: log-probability of the completion, `(rows,)`, float32 (float64 for a float64 model).
        lengths: number of scored tokens, `(rows,)`, int64.
        token_logps: log-probability of each token, `(rows, time)`, 0 where none is scored.
        mask: where one is, `(rows, time)`.
        token_outputs: the quantities that were asked for, by name, `(rows, time)`.
    """

    logps: torch.Tensor
    lengths: torch.Tensor
    token_logps: torch.Tensor
    mask: torch.Tensor
    token_outputs: dict[str, torch.Tensor]


def score_rows(
    model: torch.nn.Module,
    causal_lm: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    outputs: tuple[str, ...] = (),
) -> RowScores:
    """Score every row of `batch` with one forward.

    Args:
        model: what the training loop calls, with its wrappers (data parallelism, PEFT, ...).
        causal_lm: the language model inside `model`.
        batch: `input_ids`, `attention_mask` and `shift_labels` of `DataCollatorForSELM`.
        outputs: further quantities to return, among the `outputs` of ``selm_core.linear_logps``.
    """
    labels = batch["shift_labels"]
    with _forward_replaced(causal_lm, _token_scores):
        tokens = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            shift_labels=labels,
            outputs=outputs,
            use_cache=False,
        )
    mask = labels != IGNORE_INDEX
    token_logps = tokens.logps.to(labels.device)
    return RowScores(
        logps=selm_core.masked_sum(token_logps, mask),
        lengths=mask.sum(dim=1),
        token_logps=token_logps,
        mask=mask,
        token_outputs={name: getattr(tokens, name).to(labels.device) for name in outputs},
    )


@contextmanager
def _forward_replaced(model: PreTrainedModel, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `model` run `forward` in the place of its own, inside the wrappers around it.

    Data parallelism, PEFT and autocast act in the `__call__` of their wrappers, so the backbone
    cannot be called around them. TRL binds a new `forward` to the instance for good; a deep copy of
    such a model generates with the weights of the original. Here it lasts for one call.
    """
    own = vars(model).get("forward")
    model.forward = types.MethodType(forward, model)
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


def _token_scores(
    self: PreTrainedModel,
    *,
    shift_labels: torch.Tensor,
    outputs: tuple[str, ...],
    labels: None = None,  # PEFT passes it on
    **backbone_inputs: Any,
) -> selm_core.LinearLogps:
    """The forward of a causal language model that ends in log-probabilities."""
    hidden = self.base_model(**backbone_inputs).last_hidden_state
    return head_logps(output_head(self), hidden, shift_labels, outputs)
