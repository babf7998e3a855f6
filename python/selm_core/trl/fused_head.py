"""TRL's own trainers with ``selm_core.linear_logps`` in the place of their fused head."""

import inspect
from types import TracebackType
from typing import Any, Self

import torch
import trl
from trl.trainer import utils

import selm_core
from selm_core.errors import MissingPackageError, UnsupportedError
from selm_core.trl._compat import TESTED_TRL

#: Arguments of TRL's function, as its trainers pass them.
ARGUMENTS = (
    *("ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size"),
    *("final_logit_softcapping", "logit_scale", "outputs"),
)


class LinearLogprobFunction:
    """Stands for ``trl.kernels.ChunkedLogProbFunction``: the same arguments and results."""

    @staticmethod
    def apply(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[torch.Tensor | None, ...]:
        """Score every row of `hidden`, `(rows, hidden)`; `chunk_size` is TRL's own affair.

        Raises:
            UnsupportedError: the head is partitioned by DeepSpeed ZeRO-3.
        """
        if hasattr(weight, "ds_id"):
            raise UnsupportedError(
                "selm_core.trl.use_linear_logps does not support a head that DeepSpeed ZeRO-3 partitions, "
                "because it is gathered for TRL's own function alone: use ZeRO-2, or train without the switch"
            )
        # As TRL does it: outside autocast the head takes the hidden states' type.
        if not torch.is_autocast_enabled(hidden.device.type):
            weight = weight.to(hidden.dtype)
            bias = None if bias is None else bias.to(hidden.dtype)
        extra = tuple(name for name in outputs if name != "log_probs")
        return tuple(
            selm_core.linear_logps(
                hidden,
                weight,
                targets,
                bias=bias,
                temperature=temperature,
                logit_scale=logit_scale,
                softcap=final_logit_softcapping,
                outputs=extra,
                entropy_grad="entropy" in extra,
            )
        )


class use_linear_logps:  # noqa: N801  # used like a function, as torch.set_grad_enabled
    """Let TRL's DPO, KTO, GRPO, RLOO and SFT trainers compute their fused head by ``linear_logps``.

    The trainers themselves are not changed: same results within rounding, entropy with its gradient, and on
    a CPU the positions without a label are dropped first, as TRL does it only where Triton runs.

    As a context manager, TRL's own function comes back at its end; as a statement, with :meth:`undo`. A
    model must be trained inside: the forward and the backward pass belong together.

    Example:
        >>> from trl import SFTTrainer
        >>> with use_linear_logps():
        ...     pass  # SFTTrainer(...).train()

    Raises:
        MissingPackageError: TRL is not the version whose functions are known.
    """

    def __init__(self) -> None:
        """Replace TRL's function at once."""
        self._replaced: dict[str, Any] = {}
        _require_known_hooks()
        for name, replacement in _REPLACEMENTS.items():
            self._replaced[name] = getattr(utils, name)
            setattr(utils, name, replacement)

    def undo(self) -> None:
        """Give TRL back what was there before; nothing the second time."""
        while self._replaced:
            setattr(utils, *self._replaced.popitem())

    def __enter__(self) -> Self:
        """The switch itself, so that it can be undone early."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo, also after an error."""
        self.undo()


def _drops_unlabelled(device: torch.device) -> bool:
    """Stands for ``_use_triton``, which TRL asks whether positions without a label are dropped."""
    return True


_REPLACEMENTS = {"_ChunkedLogProbFunction": LinearLogprobFunction, "_use_triton": _drops_unlabelled}


def _require_known_hooks() -> None:
    function = getattr(utils, "_ChunkedLogProbFunction", None)
    if function is LinearLogprobFunction:
        return  # inside another `with`
    known = (
        function is not None
        and hasattr(utils, "_use_triton")
        and tuple(inspect.signature(function.forward).parameters) == ARGUMENTS
    )
    if not known:
        raise MissingPackageError(
            f"selm_core.trl.use_linear_logps is written for TRL {TESTED_TRL}; the installed version "
            f"{trl.__version__} computes its fused head in another way: "
            f"pip install 'trl=={TESTED_TRL}.*'"
        )
