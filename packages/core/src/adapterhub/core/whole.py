"""Everything on a model at once: adapters, fusions and heads as sub-folders, with an index of what is where.

    adapters.json   {"adapters": {name: sub-folder}, "fusions": {…}, "heads": {…}, "active": {composition} | null}

`save_pretrained` writes this beside the model, in `adapters/`; checkpoints of a training run have the same form.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapterhub.core.checkpoints import load_adapter, load_adapter_fusion, save_adapter, save_adapter_fusion
from adapterhub.core.formats import native
from adapterhub.core.formats.files import read_json, read_tensors, write_json, write_tensors
from adapterhub.core.heads.attached import heads_of
from adapterhub.core.pool import pool_of
from adapterhub.core.setups import folder_of
from adapterhub.spec.composition import Composition, parse_composition
from adapterhub.spec.errors import CheckpointError

__all__ = ["FOLDER", "INDEX", "load_all_adapters", "save_beside", "save_parts"]

INDEX = "adapters.json"
#: The sub-folder `save_pretrained` writes to.
FOLDER = "adapters"
#: The model's own head, where that of an adapter was in its place.
OWN_HEAD = "own_head.safetensors"


def save_parts(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapters: Iterable[str],
    fusions: Iterable[str],
    heads: Iterable[str],
) -> Path:
    """Writes these parts of the model below `folder`, the index last.

    Args:
        adapters: names; the head of the same name goes with each.
        fusions: names of fusion layers.
        heads: names; those of `adapters` are left out.
    """
    pool, root, held = pool_of(model), Path(folder), heads_of(model)
    root.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, str]] = {
        "adapters": {name: folder_of(name) for name in adapters},
        "fusions": {name: folder_of(f"fusion {name}") for name in fusions},
    }
    index["heads"] = {name: folder_of(f"head {name}") for name in heads if name not in index["adapters"]}
    for name, sub in index["adapters"].items():
        save_adapter(model, root / sub, name)
    for name, sub in index["fusions"].items():
        save_adapter_fusion(model, root / sub, name, with_head=False)
    for name, sub in index["heads"].items():
        head = held.save(name)
        assert head is not None
        (root / sub).mkdir(exist_ok=True)
        native.write_head(root / sub, head)
    setup = pool.plan.setup
    write_json(root / INDEX, {**index, "active": setup.to_dict() if isinstance(setup, Composition) else None})
    return root


def save_beside(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes all there is on the model to the sub-folder `adapters`; what an earlier save left there goes."""
    pool, root = pool_of(model), Path(folder) / FOLDER
    if (root / INDEX).is_file():
        shutil.rmtree(root)
    if pool.adapters or pool.fusions:
        heads = heads_of(model)
        save_parts(model, root, pool.adapters, pool.fusions, heads.names())
        if not heads.flexible and heads.active is not None:  # the model's files have the head in place
            write_tensors(root / OWN_HEAD, {key: value.detach() for key, value in heads.parameters(None).items()})


def load_all_adapters(model: nn.Module, folder: str | os.PathLike[str], **options: Any) -> list[str]:
    """What `save_pretrained` or `save_all_adapters` wrote, put on the model.

    Args:
        folder: the model's folder, its sub-folder `adapters`, or one with a sub-folder for each adapter.
        options: further arguments of `load_adapter`.

    Returns:
        the names of the adapters. Fusions, heads and the active setup come back too, where there is an index.

    Raises:
        CheckpointError: there are none, or a part is missing.
    """
    root = Path(folder)
    if not (root / INDEX).is_file() and (root / FOLDER / INDEX).is_file():
        root = root / FOLDER
    if not (root / INDEX).is_file():
        folders = sorted(path.parent for path in root.glob("*/adapter_config.json"))
        if not folders:
            raise CheckpointError(
                f"There are no adapters below {root}.", hint="Give a folder save_pretrained or save_all_adapters wrote."
            )
        return [load_adapter(model, path, **options) for path in folders]
    index = read_json(root / INDEX)
    for part in ("adapters", "fusions", "heads"):
        for name, sub in index.get(part, {}).items():
            if sub != folder_of(name if part == "adapters" else f"{part.removesuffix('s')} {name}"):
                raise CheckpointError(f"{root / INDEX} points elsewhere for {name!r}: {sub!r}.")
    if (root / OWN_HEAD).is_file():
        _restore_own_head(model, root / OWN_HEAD)
    for name, sub in index["adapters"].items():
        load_adapter(model, root / sub, load_as=name, **options)
    for name, sub in index.get("fusions", {}).items():
        load_adapter_fusion(model, root / sub, load_as=name, with_head=False)
    if options.get("with_head", True):
        for name, sub in index.get("heads", {}).items():
            model.load_head(root / sub, load_as=name)  # type: ignore[operator]
    setup = parse_composition(index.get("active"))
    if setup is not None:
        model.set_active_adapters(setup)  # type: ignore[operator]
    return list(index["adapters"])


@torch.no_grad()
def _restore_own_head(model: nn.Module, file: Path) -> None:
    heads = heads_of(model)
    into, tensors = heads.parameters(None), read_tensors(file)
    if heads.flexible or {key: value.shape for key, value in into.items()} != {
        key: value.shape for key, value in tensors.items()
    }:
        raise CheckpointError(
            f"{file} does not fit the head of this model.", hint="Load it with the class that saved it."
        )
    for key, tensor in tensors.items():
        into[key].copy_(tensor)
