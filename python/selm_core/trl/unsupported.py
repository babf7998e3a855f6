"""Everything that ``SELMTrainer`` refuses and TRL's ``DPOTrainer`` accepts, in one place."""

from typing import NoReturn

from selm_core.errors import UnsupportedError

#: Options of ``DPOConfig`` with the only value that is accepted, and what they stand for. What the losses
#: accept is decided by :func:`selm_core.selm_loss` itself.
UNSUPPORTED_OPTIONS: dict[str, tuple[object, str]] = {
    "padding_free": (False, "padding-free batches"),
    "label_smoothing_factor": (0.0, "smoothed token labels (label_smoothing is of preferences)"),
}

#: What only shows when the trainer is built: the subject of the message, and the way out.
UNSUPPORTED_SETUPS: dict[str, str] = {
    "vision data": "remove the 'image' or 'images' column",
    "the auxiliary loss of a Mixture-of-Experts model": (
        "pass router_aux_loss_coef=0.0 to train without it"
    ),
    "prompt-learning PEFT": "use LoRA or another adapter that leaves the input as it is",
    "a PEFT adapter on the output head": (
        "remove the head from target_modules (to train the head itself, name it in modules_to_save)"
    ),
    "a second frozen copy of a PEFT adapter": (
        "the model has an adapter named 'ref' from an earlier trainer: merge the adapter "
        "(model.merge_and_unload()) or model.delete_adapter('ref') before training again"
    ),
    "an output head of this kind": (
        "the model's logits are not softcap * tanh(logit_scale * (hidden @ weight.T + bias) / "
        "softcap) of its last hidden state; known are the configurations' names "
        "final_logit_softcapping, logits_soft_cap, output_logit_soft_cap, logit_scale, "
        "output_multiplier, lm_head_multiplier and logits_scaling"
    ),
    "compute_metrics and predict()": (
        "the logits are never built; read the logged metrics, or score with selm_core.linear_logps"
    ),
    "sharded parameters (FSDP, DeepSpeed ZeRO-3)": (
        "use data parallelism, DeepSpeed ZeRO-1 or ZeRO-2, or LoRA"
    ),
    "tensor, context or sequence parallelism": "use data parallelism",
}


def refuse(setup: str, detail: str = "") -> NoReturn:
    """Raise the error for `setup`, a key of `UNSUPPORTED_SETUPS`.

    Args:
        setup: what is not supported.
        detail: what was found, put in parentheses.

    Raises:
        UnsupportedError: always.
    """
    found = f" ({detail})" if detail else ""
    _refuse(f"{setup}{found}", UNSUPPORTED_SETUPS[setup])


def refuse_option(option: str, value: object) -> NoReturn:
    """Raise the error for `value` of `option`, a key of `UNSUPPORTED_OPTIONS`.

    Raises:
        UnsupportedError: always.
    """
    accepted, meaning = UNSUPPORTED_OPTIONS[option]
    _refuse(meaning, f"expected '{option}' to be {accepted!r}, got {value!r}")


def _refuse(what: str, advice: str) -> NoReturn:
    raise UnsupportedError(f"SELMTrainer does not support {what}: {advice}")
