"""The libraries that are compared: each computes a loss of a batch of one pair by its own code."""

from __future__ import annotations

import importlib.metadata
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import selm_core
import torch
import torch.nn.functional as F  # noqa: N812
from accuracy_pairs import LOGPS, WITHOUT_REFERENCE, LossOptions, Pair
from selm_core._core import uses_lengths
from torch import Tensor

Batch = dict[str, Tensor]
LossFunction = Callable[[LossOptions, Batch, Pair], Tensor]


@dataclass(frozen=True)
class Library:
    """`losses`: by loss type, what computes it; empty where the library is not installed."""

    name: str
    version: str | None
    losses: Mapping[str, LossFunction]


def value_and_gradient(
    library: Library, options: LossOptions, pair: Pair, dtype: torch.dtype
) -> dict[str, float]:
    """The loss of the pair and its derivative with respect to the chosen response."""
    batch = pair.tensors(dtype)
    leaf = batch["policy_chosen"].requires_grad_()
    loss = library.losses[options.loss_type](options, batch, pair).squeeze()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return {"value": loss.item(), "gradient": gradient.item()}


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------
# selm_core


def our_loss(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    return selm_core.dpo_loss(
        *(batch[name] for name in LOGPS),
        beta=options.beta,
        loss_type=options.loss_type,
        label_smoothing=options.label_smoothing,
        discopop_tau=options.discopop_tau,
        dpop_lambda=options.dpop_lambda,
        length_margin=options.length_margin,
        **read_lengths(options.loss_type, pair),
    ).losses


def read_lengths(loss_type: str, pair: Pair) -> Batch:
    """The lengths that this loss reads: it refuses others."""
    used = zip(("chosen", "rejected"), uses_lengths([loss_type]), strict=True)
    return {
        f"{name}_lengths": torch.tensor([getattr(pair, f"{name}_length")])
        for name, is_used in used
        if is_used
    }


def our_policy_loss(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    lengths = (torch.tensor([n]) for n in (pair.chosen_length, pair.rejected_length))
    arguments = (batch["policy_chosen"], batch["policy_rejected"], *lengths)
    if options.loss_type == "orpo":
        return selm_core.orpo_loss(*arguments, beta=options.beta).losses
    gamma = options.simpo_gamma
    return selm_core.simpo_loss(*arguments, beta=options.beta, simpo_gamma=gamma).losses


def ours(names: list[str]) -> Library:
    policy = dict.fromkeys(("simpo", "orpo"), our_policy_loss)
    losses = dict.fromkeys(names, our_loss) | policy
    return Library("selm_core", selm_core.__version__, losses)


# ---------------------------------------------------------------------------------------------
# torch eager: the papers' formulas of the log-ratios c (chosen) and r (rejected)


def eager_loss(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    chosen = batch["policy_chosen"] - batch["ref_chosen"]
    rejected = batch["policy_rejected"] - batch["ref_rejected"]
    return EAGER[options.loss_type](options, chosen, rejected, pair)


def eager_policy_loss(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    return EAGER[options.loss_type](options, batch["policy_chosen"], batch["policy_rejected"], pair)


def _margin(o: LossOptions, c: Tensor, r: Tensor) -> Tensor:
    return o.beta * (c - r)


def _averaged(c: Tensor, r: Tensor, pair: Pair) -> Tensor:
    return c / pair.chosen_length - r / pair.rejected_length


def _smoothed(m: Tensor, e: float) -> Tensor:
    return -(1 - e) * F.logsigmoid(m) - e * F.logsigmoid(-m)


def _exo_pair(o: LossOptions, c: Tensor, r: Tensor, pair: Pair) -> Tensor:
    m, e = _margin(o, c, r), o.label_smoothing
    kept = torch.sigmoid(m) * (F.logsigmoid(m) - math.log(1 - e))
    return kept + torch.sigmoid(-m) * (F.logsigmoid(-m) - math.log(e))


def _robust(o: LossOptions, c: Tensor, r: Tensor, pair: Pair) -> Tensor:
    m, e = _margin(o, c, r), o.label_smoothing
    return (-(1 - e) * F.logsigmoid(m) + e * F.logsigmoid(-m)) / (1 - 2 * e)


def _discopop(o: LossOptions, c: Tensor, r: Tensor, pair: Pair) -> Tensor:
    m = _margin(o, c, r)
    modulation = torch.sigmoid(m / o.discopop_tau)
    return -(1 - modulation) * F.logsigmoid(m) + modulation * torch.exp(-m)


def _log_odds(logp: Tensor, length: int) -> Tensor:
    average = logp / length
    return average - torch.log1p(-torch.exp(average))


EAGER: dict[str, Callable[[LossOptions, Tensor, Tensor, Pair], Tensor]] = {
    "sigmoid": lambda o, c, r, pair: -F.logsigmoid(_margin(o, c, r)),
    "hinge": lambda o, c, r, pair: torch.relu(1 - _margin(o, c, r)),
    "ipo": lambda o, c, r, pair: (_averaged(c, r, pair) - 1 / (2 * o.beta)) ** 2,
    "exo_pair": _exo_pair,
    "nca_pair": lambda o, c, r, pair: (
        -F.logsigmoid(o.beta * c) - F.logsigmoid(-o.beta * c) / 2 - F.logsigmoid(-o.beta * r) / 2
    ),
    "robust": _robust,
    "bco_pair": lambda o, c, r, pair: -F.logsigmoid(o.beta * c) - F.logsigmoid(-o.beta * r),
    "sppo_hard": lambda o, c, r, pair: (c - 1 / (2 * o.beta)) ** 2 + (r + 1 / (2 * o.beta)) ** 2,
    "aot": lambda o, c, r, pair: _smoothed(_margin(o, c, r), o.label_smoothing),
    "aot_unpaired": lambda o, c, r, pair: _smoothed(_margin(o, c, r), o.label_smoothing),
    "apo_zero": lambda o, c, r, pair: 1 - torch.sigmoid(o.beta * c) + torch.sigmoid(o.beta * r),
    "apo_down": lambda o, c, r, pair: (
        torch.sigmoid(o.beta * c) + 1 - torch.sigmoid(_margin(o, c, r))
    ),
    "discopop": _discopop,
    "sft": lambda o, c, r, pair: -c / pair.chosen_length,
    "sigmoid_norm": lambda o, c, r, pair: -F.logsigmoid(o.beta * _averaged(c, r, pair)),
    "dpop": lambda o, c, r, pair: -F.logsigmoid(o.beta * (c - r - o.dpop_lambda * torch.relu(-c))),
    "r_dpo": lambda o, c, r, pair: (
        -F.logsigmoid(
            _margin(o, c, r) + o.length_margin * (pair.chosen_length - pair.rejected_length)
        )
    ),
    "nll": lambda o, c, r, pair: -c / pair.chosen_length,
    "simpo": lambda o, c, r, pair: -F.logsigmoid(o.beta * _averaged(c, r, pair) - o.simpo_gamma),
    "orpo": lambda o, c, r, pair: (
        -o.beta
        * F.logsigmoid(_log_odds(c, pair.chosen_length) - _log_odds(r, pair.rejected_length))
    ),
}


def eager() -> Library:
    policy = dict.fromkeys(WITHOUT_REFERENCE, eager_policy_loss)
    losses = dict.fromkeys(EAGER, eager_loss) | policy
    return Library("torch eager", torch.__version__, losses)


# ---------------------------------------------------------------------------------------------
# TRL: the methods of its own trainers, on a stub instead of a trainer


class StubModel:
    """Returns given log-probabilities; each response's is all on its first token."""

    def __init__(self, chosen: Tensor, rejected: Tensor, time: int) -> None:
        logps = torch.cat([chosen, rejected])
        self.log_probs = F.pad(logps.unsqueeze(1), (0, time - 1))
        self.nothing = torch.zeros(2, time)

    def __call__(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(
            log_probs=self.log_probs,
            entropy=self.nothing,
            mean_logits=self.nothing,
            is_top1=self.nothing.bool(),
        )


def trl_loss(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    from trl import DPOTrainer

    lengths = torch.tensor([[pair.chosen_length], [pair.rejected_length]])
    time = int(lengths.max())
    positions = torch.arange(time + 1)
    mask = ((positions > 0) & (positions <= lengths)).long()
    inputs = {name: mask for name in ("input_ids", "attention_mask", "completion_mask")}
    inputs |= {f"ref_{name}_logps": batch[f"ref_{name}"] for name in ("chosen", "rejected")}
    model = StubModel(batch["policy_chosen"], batch["policy_rejected"], time)
    loss: Tensor = DPOTrainer._compute_loss(stub_trainer(options), model, inputs, False)
    return loss


def stub_trainer(options: LossOptions) -> SimpleNamespace:
    def same(x: Tensor) -> Tensor:
        return x

    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=same, gather_for_metrics=same
        ),
        args=SimpleNamespace(discopop_tau=options.discopop_tau),
        beta=options.beta,
        label_smoothing=options.label_smoothing,
        loss_types=[options.loss_type],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        precompute_ref_logps=True,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )


def trl_simpo(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    trainer = stub_trainer(options)
    trainer.loss_type, trainer.alpha, trainer.simpo_gamma = "simpo", 0.0, options.simpo_gamma
    losses: Tensor = CPOTrainer.cpo_loss(trainer, *averages(batch, pair))[0]
    return losses


def trl_orpo(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    """TRL's trainer subtracts it."""
    from trl.experimental.orpo import ORPOTrainer

    losses: Tensor = ORPOTrainer.odds_ratio_loss(stub_trainer(options), *averages(batch, pair))[0]
    return -losses


def averages(batch: Batch, pair: Pair) -> tuple[Tensor, Tensor]:
    """Log-probabilities per token, as TRL and Liger hand them to these losses."""
    chosen, rejected = batch["policy_chosen"], batch["policy_rejected"]
    return chosen / pair.chosen_length, rejected / pair.rejected_length


TRL_DPO = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
    *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)


def trl() -> Library:
    version = installed("trl")
    losses = dict.fromkeys(TRL_DPO, trl_loss) | {"simpo": trl_simpo, "orpo": trl_orpo}
    return Library("TRL", version, losses if version else {})


# ---------------------------------------------------------------------------------------------
# Liger: what its chunked losses apply to the log-probabilities of a chunk


def liger_loss(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction as Function

    more = {} if options.discopop_tau is None else {"discopop_tau": options.discopop_tau}
    loss: Tensor = Function.preference_loss_fn(
        batch["policy_chosen"],
        batch["policy_rejected"],
        ONE_PAIR,
        batch["ref_chosen"],
        batch["ref_rejected"],
        beta=options.beta,
        loss_type=options.loss_type,
        label_smoothing=options.label_smoothing,
        **more,
    )[0]
    return loss


def liger_simpo(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction as Function

    loss: Tensor = Function.preference_loss_fn(
        *averages(batch, pair), ONE_PAIR, beta=options.beta, gamma=options.simpo_gamma
    )[0]
    return loss


def liger_orpo(options: LossOptions, batch: Batch, pair: Pair) -> Tensor:
    from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction as Function

    loss: Tensor = Function.preference_loss_fn(*averages(batch, pair), ONE_PAIR, beta=options.beta)[
        0
    ]
    return loss


ONE_PAIR = torch.zeros(2, 1)  # only its number of rows is read

LIGER_DPO = (
    *("sigmoid", "hinge", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
    *("apo_zero", "apo_down", "discopop"),
)


def liger() -> Library:
    version = installed("liger-kernel")
    losses = dict.fromkeys(LIGER_DPO, liger_loss) | {"simpo": liger_simpo, "orpo": liger_orpo}
    return Library("Liger", version, losses if version else {})
