"""Run by torchrun with two gloo processes: train an adapter under DDP or FSDP2 and print the losses as JSON.

python -m torch.distributed.run --nproc-per-node 2 -m packages.core.tests.distributed_training ddp fsdp
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from packages.core.tests.tiny import ids, loss_of, tiny, with_adapters


def model_to_train() -> Any:
    """A tiny BERT of which adapter `a` trains."""
    model = with_adapters(tiny(), a="houlsby[reduction_factor=4]", idle="compacter[reduction_factor=4]")
    model.train_adapter("a")
    return model


def losses(model: Any, rows: slice, steps: int = 4) -> list[float]:
    """The loss of each step on these rows of a batch of four, averaged over the processes."""
    batch = ids(4)["input_ids"][rows]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for _ in range(steps):
        loss = loss_of(model(input_ids=batch).last_hidden_state) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        found.append(float(mean))
    return found


def train(kind: str) -> list[float]:
    """The losses of this process's half of the batch."""
    model = model_to_train()
    if kind == "ddp":
        wrapped: Any = torch.nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.encoder.layer:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    rank = dist.get_rank()
    return losses(wrapped, slice(2 * rank, 2 * rank + 2))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    every = {kind: train(kind) for kind in sys.argv[1:]}
    if dist.get_rank() == 0:
        print("LOSSES", json.dumps(every), flush=True)
    dist.destroy_process_group()
