"""The promise of docs/numerics.md, for tensors."""

import math

import torch
from golden_rows import is_promised


def column(rows, name, dtype, device="cpu"):
    return torch.tensor([row[name] for row in rows], dtype=dtype, device=device)


def representable(rows, columns, dtype):
    """The rows whose inputs are all numbers of this type."""
    return [row for row in rows if _is_exact([row[name] for name in columns], dtype)]


def _is_exact(values, dtype):
    exact = torch.tensor([value or 0.0 for value in values], dtype=torch.float64)
    return torch.equal(exact.to(dtype).double(), exact)


def assert_promises(rows, results):
    """`results`: by table column."""
    for name, got in results.items():
        exact, scale = (
            column(rows, key, torch.float64, got.device) for key in (name, f"{name}_scale")
        )
        broken = [
            i for i in broken_promises(got.detach(), exact, scale) if is_promised(name, rows[i])
        ]
        assert not broken, [(name, got[i].item(), rows[i]) for i in broken[:3]]


def broken_promises(got, exact, scale):
    """Rows where `got` misses the exact value by more than is promised.

    `scale` is |exact| times its condition number. float64: 8 u scale. float32: 2 ulp, and what the
    float64 arithmetic inside may lose. Both: 2^-1064, for factors that underflow. Infinities and NaN
    must be met exactly.
    """
    limit = exact.to(got.dtype)
    close = (got.double() - exact).abs() <= _bound(exact, scale, got.dtype)
    same = (limit.isnan() & got.isnan()) | (limit.isinf() & (got == limit))
    return torch.where(limit.isfinite(), close, same).logical_not().nonzero().flatten().tolist()


def _bound(exact, scale, dtype):
    unit = torch.finfo(torch.float64).eps / 2
    bound = 8 * unit * torch.maximum(exact.abs(), scale) + 2.0**-1064
    return bound if dtype == torch.float64 else bound + 2 * ulp(exact, dtype)


def ulp(x, dtype):
    """Distance from |x| to the next number of the type."""
    near = x.abs().to(dtype)
    return (torch.nextafter(near, torch.full_like(near, math.inf)) - near).double()
