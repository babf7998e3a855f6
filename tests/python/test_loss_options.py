"""Losses and their weights are sequences, for torch and NumPy alike."""

import numpy as np
import pytest
import selm_core
import selm_core.numpy
import torch

TORCH = selm_core.dpo_loss, [torch.tensor([-1.0])] * 4
NUMPY = selm_core.numpy.dpo_loss, [np.array([-1.0])] * 4
WITHOUT_ORDER = [
    ("loss_type", {"sigmoid": 2.0}, "to be a str or a sequence of str, got dict"),
    ("loss_type", {"sigmoid", "hinge"}, "to be a str or a sequence of str, got set"),
    ("loss_weights", {2.0}, "to be a sequence of numbers, got set"),
    ("loss_weights", {"sigmoid": 2.0}, "to be a sequence of numbers, got dict"),
    ("loss_weights", torch.tensor([2.0]), "to be a sequence of numbers, got Tensor"),
    ("loss_weights", np.array([2.0]), "to be a sequence of numbers, got ndarray"),
]


@pytest.mark.parametrize("library", [TORCH, NUMPY], ids=["torch", "numpy"])
@pytest.mark.parametrize(("option", "value", "message"), WITHOUT_ORDER, ids=str)
def test_what_is_no_sequence_is_refused(library, option, value, message):
    loss, logps = library
    with pytest.raises(TypeError, match=f"dpo_loss: expected '{option}' {message}"):
        loss(*logps, beta=0.1, **{option: value})


@pytest.mark.parametrize("library", [TORCH, NUMPY], ids=["torch", "numpy"])
def test_a_weight_belongs_to_the_loss_in_its_place(library):
    loss, logps = library
    one, other = (loss(*logps, beta=0.1, loss_type=name).losses for name in ("sigmoid", "hinge"))
    both = loss(*logps, beta=0.1, loss_type=("sigmoid", "hinge"), loss_weights=(2.0, 0.5)).losses
    assert both.item() == pytest.approx(2.0 * one.item() + 0.5 * other.item(), rel=1e-6)
