"""The same values in memory laid out differently."""

import torch


def transposed(x):
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def every_other(x):
    """Strided in the last dimension, with NaN (or a huge number) between the values."""
    bad = float("nan") if x.is_floating_point() else 2**30
    return torch.stack([x, torch.full_like(x, bad)], dim=-1).flatten(-2)[..., ::2]


def padded_rows(x):
    """A window of a larger tensor: rows are contiguous, the whole is not."""
    return torch.nn.functional.pad(x, (3, 5))[..., 3 : 3 + x.shape[-1]]


def misaligned(x):
    """Contiguous, beginning one element after the start of the storage."""
    storage = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    return storage[1:].view(x.shape).copy_(x)


def negated_lazily(x):
    """With the negative bit: the memory holds the opposite values."""
    return torch._neg_view(-x)


LAYOUTS = {f.__name__: f for f in (transposed, every_other, padded_rows, misaligned)}
FLOATING_LAYOUTS = LAYOUTS | {"negated_lazily": negated_lazily}
