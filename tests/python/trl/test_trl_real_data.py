"""Real preferences and a real model: with alpha = 0 a step is that of TRL's DPOTrainer."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from selm_core.demo.model import demo_model
from selm_core.trl import SELMTrainer
from test_trl_parity import trl_config
from tiny_models import batch_of, gradients, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer

PREFERENCES = Path(__file__).parents[4] / "shared" / "data" / "preferences.test.jsonl.gz"

pytestmark = pytest.mark.skipif(
    not PREFERENCES.is_file(), reason="shared/data with real preferences is not beside the project"
)


def real_preferences(count):
    with gzip.open(PREFERENCES, "rt") as file:
        rows = [json.loads(line) for line in itertools.islice(file, count)]
    return Dataset.from_list(
        [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in rows]
    )


def perturbed(model):
    """A reference that is not the policy, so that no log-ratio is 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=1e-3 * float(parameter.std()))
    return model


def step(trainer_class, config, dataset):
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(demo_model()),
        ref_model=perturbed(AutoModelForCausalLM.from_pretrained(demo_model())),
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(demo_model()),
    )
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, [0, 1]))
    loss.backward()
    return loss.detach(), gradients(trainer.model)


@pytest.mark.slow
def test_a_step_is_that_of_trl(tmp_path):
    config = tiny_config(tmp_path, alpha=0.0, beta=0.1, max_length=96)
    dataset = real_preferences(2)
    loss, grads = step(SELMTrainer, config, dataset)
    trl_loss, trl_grads = step(DPOTrainer, trl_config(config), dataset)
    torch.testing.assert_close(loss, trl_loss, rtol=2e-6, atol=0)
    scale = max(float(grad.abs().max()) for grad in trl_grads.values())
    for name, grad in trl_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-5 * scale)
