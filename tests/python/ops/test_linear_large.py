"""More logits than 32 bits count."""

import os

import pytest
import selm_core
import torch

ROWS, WIDTH, VOCABULARY = 70_000, 8, 32_001
LOGITS = ROWS * VOCABULARY
CHECKED = [0, 1, ROWS // 2, 2**31 // VOCABULARY, 2**31 // VOCABULARY + 1, ROWS - 1]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_linear_logps_of_more_than_two_to_the_31_logits(kept):
    assert LOGITS > 2**31
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 16 * 2**30:
        pytest.skip("needs 16 GiB of memory")
    hidden = torch.randn(ROWS, WIDTH).bfloat16().requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).bfloat16().requires_grad_()
    labels = torch.randint(VOCABULARY, (ROWS,))
    workspace = 6 * 2**30 if kept else 2**28
    logps = selm_core.linear_logps(hidden, weight, labels, workspace_bytes=workspace).logps
    upstream = torch.zeros(ROWS)
    upstream[CHECKED] = torch.linspace(0.5, 1.0, len(CHECKED))
    got = torch.autograd.grad(logps, [hidden, weight], upstream)

    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = (wide[0][CHECKED] @ wide[1].T).log_softmax(-1)
    exact = exact.gather(1, labels[CHECKED].unsqueeze(1)).squeeze(1)
    assert (logps[CHECKED] - exact).abs().max() < 1e-5
    want = torch.autograd.grad(exact, wide, upstream[CHECKED].double())
    for x, y in zip(got, want, strict=True):
        assert (x - y).norm() < 0.008 * y.norm()
