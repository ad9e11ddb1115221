"""What a training run changes, kept and put back: adapters, fusions, heads and whatever else was trained.

A checkpoint is a folder with one sub-folder an adapter and a fusion (`whole`), the heads, `trained.safetensors` for
parameters that belong to none of these (embeddings, say), and `active.json` with the setup. `restore_trained` copies the
numbers into the parameters there are, so that an optimiser that holds them goes on with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from adapterhub.core.formats import native
from adapterhub.core.formats.files import read_json, read_tensors, write_tensors
from adapterhub.core.heads.attached import heads_of
from adapterhub.core.pool import Pool, pool_of
from adapterhub.core.whole import INDEX, save_parts
from adapterhub.spec.errors import CheckpointError

__all__ = ["restore_trained", "save_trained", "trained_names"]


def trained_names(model: nn.Module) -> tuple[list[str], list[str], list[str]]:
    """The adapters, fusions and heads that are being trained, or are active."""
    pool = pool_of(model)
    heads = heads_of(model)
    setup = pool.plan.setup
    active = set(setup.names()) if setup is not None and hasattr(setup, "names") and callable(setup.names) else set()
    adapters = [name for name, held in pool.adapters.items() if name in active or held.learns()]
    fusions = [name for name, held in pool.fusions.items() if held.learns()]
    found = [name for name in heads.names() if name == heads.active or _learns(heads.parameters(name).values())]
    return adapters, fusions, found


def save_trained(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Writes everything that is being trained, and the active adapters, below `folder`."""
    root = save_parts(model, folder, *trained_names(model))
    rest = {name: parameter.detach() for name, parameter in _others(pool_of(model)) if parameter.requires_grad}
    if rest:
        write_tensors(root / "trained.safetensors", rest)
    return root


@torch.no_grad()
def restore_trained(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Copies what `save_trained` wrote into the parameters of a model that has the same adapters and heads.

    Raises:
        CheckpointError: the folder is none, or has adapters or tensors the model lacks.
    """
    pool, root = pool_of(model), Path(folder)
    if not (root / INDEX).is_file():
        raise CheckpointError(f"{root} is no training checkpoint of adapters: {INDEX} is missing.")
    index = read_json(root / INDEX)
    heads = heads_of(model)
    for name, sub in index["adapters"].items():
        saved = native.read_adapter(root / sub)
        _copy(saved.tensors, pool.get(name).tensors(), f"adapter {name!r}")
        if saved.head is not None:
            _copy_head(pool, name, saved.head.tensors)
    for name, sub in index["fusions"].items():
        if name not in pool.fusions:
            raise CheckpointError(
                f"{root} has a fusion {name!r}, which this model lacks.", hint="Add it before resuming."
            )
        _copy(native.read_fusion(root / sub, with_head=False).tensors, pool.fusions[name].tensors(), f"fusion {name!r}")
    for name, sub in index["heads"].items():
        head = native.read_head(root / sub)
        if head is None or name not in heads:
            raise CheckpointError(
                f"{root} has a head {name!r}, which this model lacks.", hint="Add it before resuming."
            )
        _copy_head(pool, name, head.tensors)
    if (root / "trained.safetensors").is_file():
        _copy(read_tensors(root / "trained.safetensors"), dict(_others(pool)), "the model", partly=True)


def _copy_head(pool: Pool, name: str, tensors: Mapping[str, Tensor]) -> None:
    heads = heads_of(pool.model)
    if name not in heads:
        raise CheckpointError(
            f"The checkpoint has a head {name!r}, which this model lacks.", hint="Call train_adapter first."
        )
    prefix = getattr(heads, "base_path", "")
    into = {}
    for key, parameter in heads.parameters(name).items():
        inner = prefix and key.startswith(f"{prefix}.")
        into[f"base.{key.removeprefix(f'{prefix}.')}" if inner else key] = parameter
    _copy(tensors, into, f"head {name!r}")


def _copy(tensors: Mapping[str, Tensor], into: Mapping[str, nn.Parameter], what: str, partly: bool = False) -> None:
    different = sorted(set(tensors) - set(into)) if partly else sorted(set(tensors) ^ set(into))
    if different:
        raise CheckpointError(f"The checkpoint does not fit {what}: {', '.join(different[:4])}.")
    for key, tensor in tensors.items():
        if into[key].shape != tensor.shape:
            raise CheckpointError(f"The checkpoint does not fit {what}: {key} is {tuple(tensor.shape)} there.")
        into[key].copy_(tensor)


def _others(pool: Pool) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the model that belong to no adapter, fusion or head, by their own names."""
    heads = heads_of(pool.model)
    known = {id(p) for name in heads.names() for p in heads.parameters(name).values()}
    return ((name, p) for name, p in pool.own_parameters(pool.model) if id(p) not in known)


def _learns(parameters: object) -> bool:
    return any(p.requires_grad for p in parameters)  # type: ignore[attr-defined]
