"""Inputs of linear_logps, and the same computation in float64 by torch's own operators."""

from dataclasses import dataclass, field
from pathlib import Path

import selm_core
import torch


@dataclass
class Case:
    hidden: torch.Tensor
    weight: torch.Tensor
    labels: torch.Tensor
    bias: torch.Tensor | None = None
    options: dict = field(default_factory=dict)

    def leaves(self):
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]

    def ours(self, **more):
        return selm_core.linear_logps(
            self.hidden, self.weight, self.labels, bias=self.bias, **self.options | more
        )

    def scored(self):
        return self.labels != self.options.get("ignore_index", -100)

    def exact_logits(self):
        """z of scored rows, in float64, on the same rounded inputs; differentiable."""
        hidden, weight = self.hidden.double(), self.weight.double()
        raw = hidden[self.scored()] @ weight.T
        if self.bias is not None:
            raw = raw + self.bias.double()
        raw = raw * self.options.get("logit_scale", 1.0)
        cap = self.options.get("softcap")
        capped = raw if cap is None else cap * torch.tanh(raw / cap)
        return capped / self.options.get("temperature", 1.0)

    def exact_logps(self):
        """Of scored rows."""
        target = self.labels[self.scored()].long().unsqueeze(1)
        return self.exact_logits().log_softmax(-1).gather(1, target).squeeze(1)

    def exact_entropy(self):
        """Of scored rows."""
        return torch.special.entr(self.exact_logits().softmax(-1)).sum(-1)

    def exact_gradients(self, upstream, entropy_upstream=None):
        """Gradients in float64, for upstream gradients of the labels' shape."""
        leaves = self.leaves()
        wide = [x.detach().double().requires_grad_() for x in leaves]
        copy = Case(*wide[:2], self.labels, *wide[2:], options=self.options)
        loss = (copy.exact_logps() * upstream.double()[self.scored()]).sum()
        if entropy_upstream is not None:
            loss = loss + (copy.exact_entropy() * entropy_upstream.double()[self.scored()]).sum()
        return torch.autograd.grad(loss, wide)


def multiplies_bfloat16():
    """Whether products of bfloat16 are made on this CPU; elsewhere they are made in float32."""
    flags = Path("/proc/cpuinfo")
    return (
        selm_core.info()["cpu_instruction_set"] == "avx512"
        and flags.exists()
        and "avx512_bf16" in flags.read_text()
    )


def make_case(
    dtype=torch.float32, device="cpu", shape=(3, 7), vocab=50, width=16, bias=True, **options
):
    """Random inputs; one label of every row is ignored."""
    labels = torch.randint(vocab, shape, device=device)
    labels[..., 2] = options.get("ignore_index", -100)
    return Case(
        torch.randn(*shape, width, device=device).to(dtype),
        torch.randn(vocab, width, device=device).to(dtype) * 0.7,
        labels,
        torch.randn(vocab, device=device).to(dtype) if bias else None,
        options,
    )
