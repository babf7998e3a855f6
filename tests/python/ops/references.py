"""Token log-probabilities in float64 on the same rounded logits, and what is promised of ours."""

import torch

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
VOCABULARIES = [1, 31, 33, 32001, 50257, 151936, 262145]

FLOAT32_UNIT = 2.0**-24
TOKEN_LOGP_ERROR = 2e-5
TYPICAL_TOKEN_LOGP_ERROR = 2e-6
GRADIENT_ERROR = 2e-5
ROUNDING = {
    torch.float32: 0.0,
    torch.float64: 0.0,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
SMALLEST_PROBABILITY = 2.0**-126  # smaller ones may count as 0
SMALLEST_HALF = 2.0**-24


def result_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def exact_logps(logits, index, temperature=1.0):
    """log softmax(logits / temperature)[index] in float64."""
    scaled = logits.detach().double() / temperature
    return scaled.log_softmax(-1).gather(-1, index.long().unsqueeze(-1)).squeeze(-1)


def exact_gradient(logits, index, upstream, temperature=1.0):
    """Its gradient; the target's column is a sum of the others, which loses no digits."""
    probs = (logits.detach().double() / temperature).softmax(-1)
    target = index.long().unsqueeze(-1)
    others = probs.scatter(-1, target, 0.0)
    grad = (-others).scatter(-1, target, others.sum(-1, keepdim=True))
    return grad * upstream.detach().double().unsqueeze(-1) / temperature


def logp_bound(exact, dtype):
    """The promised absolute error of a token's log-probability."""
    size = exact.abs().clamp(min=1)
    return 1e-13 * size if dtype == torch.float64 else TOKEN_LOGP_ERROR + 4 * FLOAT32_UNIT * size


def gradient_bound(exact, dtype, upstream, temperature=1.0):
    """The promised error of d logits: relative, and one rounding of a half-precision type."""
    if dtype == torch.float64:
        return 1e-12 * exact.abs() + 1e-300
    relative = GRADIENT_ERROR + ROUNDING[dtype] * (1 + GRADIENT_ERROR)
    flushed = SMALLEST_PROBABILITY * (1 + upstream.detach().double().abs() / temperature)
    smallest = SMALLEST_HALF if dtype == torch.float16 else 0.0
    return relative * exact.abs() + flushed.unsqueeze(-1) + smallest


def assert_within(got, exact, bound):
    error = (got.double() - exact).abs()
    worst = (error - bound).max() if error.numel() else torch.tensor(0.0)
    assert worst <= 0, f"off by up to {error.max():.3g}; {worst:.3g} more than promised"


def assert_same_bits(a, b):
    """Equal in every bit, so that a NaN equals itself and 0 differs from -0."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert torch.equal(_bits(a), _bits(b))


def _bits(x):
    return x.detach().resolve_neg().contiguous().flatten().view(torch.uint8)
