"""What `test_trl_sharded_head.py` runs in two processes: a head that is a DTensor; saves what it found."""

import os
import sys
from pathlib import Path

import selm_core
import torch
from selm_core.trl import use_linear_logps
from tiny_models import gradients, tiny_llama
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Shard, distribute_tensor
from trl.trainer import utils

WORLD = 2
IDS = torch.randint(4, 260, (WORLD, 2, 12), generator=torch.Generator().manual_seed(0))


def operands():
    """Head `(10, 8)`, and of each process hidden states `(6, 8)` and labels `(6,)`."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 8, generator=generator)
    hidden = torch.randn(WORLD, 6, 8, generator=generator)
    return weight, hidden, torch.randint(10, (WORLD, 6), generator=generator)


def fused_llama(tied):
    """A model with TRL's fused head."""
    model = tiny_llama(tie_word_embeddings=tied)
    utils.add_fused_lm_head(model)
    return model


def fused_loss(model, ids):
    return model(input_ids=ids, labels=ids, fused_lm_head=True).loss


def head_gradient(rank, mesh):
    """Of a sharded head, gathered as the operator's refusal says."""
    weight, hidden, labels = operands()
    sharded = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_()
    whole = sharded.full_tensor(grad_placements=[Partial("avg")])
    selm_core.linear_logps(hidden[rank], whole, labels[rank]).logps.sum().backward()
    return sharded.grad.full_tensor()


def model_gradients(rank, mesh, tied):
    """Of a model whose layers and head FSDP2 shards, each process with rows of its own."""
    model = fused_llama(tied)
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
    with use_linear_logps():
        fused_loss(model, IDS[rank]).backward()
    return {name: grad.full_tensor() for name, grad in gradients(model).items()}


def main(folder):
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    mesh = init_device_mesh("cpu", (WORLD,))
    found = {
        "head": head_gradient(rank, mesh),
        "model": model_gradients(rank, mesh, tied=False),
        "tied model": model_gradients(rank, mesh, tied=True),
    }
    torch.save(found, Path(folder, f"found-{rank}.pt"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
