"""The logged quantities of a batch, averaged over all processes with one exchange."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator

import selm_core
from selm_core.trl.forward import RowScores

OUTPUTS = ("entropy", "mean_logits", "is_top1")


class BatchMeans:
    """Sums and counts by name, and their ratios over all processes."""

    def __init__(self) -> None:
        """Start without any."""
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor] = {}

    def add(self, name: str, values: torch.Tensor, count: torch.Tensor | None = None) -> None:
        """Add the sum of `values` over `count`, the number of values if not given."""
        self._sums[name] = values.detach().sum()
        self._counts[name] = values.new_tensor(values.numel()) if count is None else count.sum()

    def gather(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean of each quantity over all processes; 0 where nothing was counted."""
        sums = torch.stack([value.double() for value in self._sums.values()])
        counts = torch.stack([value.double() for value in self._counts.values()])
        totals = accelerator.gather(torch.stack((sums, counts)).unsqueeze(0)).sum(0)
        pairs = zip(self._sums, *totals.tolist(), strict=True)
        return {name: total / count if count else 0.0 for name, total, count in pairs}


def batch_means(
    scores: RowScores,
    rows: Mapping[str, torch.Tensor],
    logps: Mapping[str, torch.Tensor],
    loss: selm_core.SELMLoss,
) -> BatchMeans:
    """What TRL's ``DPOTrainer`` logs, under its names, and the parts of the SELM loss.

    `entropy` and the token metrics are means over tokens, all others over examples.

    Args:
        scores: of the distinct rows, with the `OUTPUTS`.
        rows: the row of each completion, `(batch,)` by name.
        logps: log-probabilities of the completions as the loss saw them, `(batch,)` by name.
        loss: of the batch.
    """
    means = BatchMeans()
    sums = {name: scores.token_outputs[name].sum(dim=1) for name in OUTPUTS}
    chosen, rejected = rows["chosen"], rows["rejected"]
    pair = torch.cat((chosen, rejected))
    means.add("entropy", sums["entropy"][pair], scores.lengths[pair])
    means.add("logits/chosen", sums["mean_logits"][chosen], scores.lengths[chosen])
    means.add("logits/rejected", sums["mean_logits"][rejected], scores.lengths[rejected])
    means.add("mean_token_accuracy", sums["is_top1"][chosen], scores.lengths[chosen])
    means.add("rewards/chosen", loss.chosen_rewards)
    means.add("rewards/rejected", loss.rejected_rewards)
    means.add(
        "rewards/accuracies",
        selm_core.reward_accuracies(loss.chosen_rewards, loss.rejected_rewards).double(),
    )
    means.add(
        "rewards/margins", selm_core.reward_margins(loss.chosen_rewards, loss.rejected_rewards)
    )
    means.add("logps/chosen", logps["chosen"])
    means.add("logps/rejected", logps["rejected"])
    if loss.response_rewards is not None:
        means.add("loss/dpo", loss.dpo_losses)
        means.add("loss/selm", loss.exploration)
        means.add("logps/response", logps["response"])
        means.add("rewards/response", loss.response_rewards)
    return means
