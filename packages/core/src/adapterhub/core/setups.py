"""Several adapters at once: all of a model, or a composition with everything it needs, as sub-folders of one folder.

    adapter_setup.json   {"spec_version", "format", "adapter_setup": {composition}, "head_setup": name | null,
                          "adapters": {name: sub-folder}, "fusions": {name: sub-folder}}

The setups of adapters 1.3, which have no such maps and name each sub-folder after its adapter, are read as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import nn

from adapterhub.core.checkpoints import load_adapter, load_adapter_fusion, save_adapter, save_adapter_fusion
from adapterhub.core.formats import detect_fusion
from adapterhub.core.formats.adapters_v1_places import VERSION
from adapterhub.core.formats.files import read_json, write_folder, write_json
from adapterhub.core.heads.attached import heads_of
from adapterhub.core.plan import fusions_in
from adapterhub.core.pool import pool_of
from adapterhub.spec.composition import Composition, parse_composition
from adapterhub.spec.errors import CheckpointError, InvalidConfigError

__all__ = [
    "folder_of",
    "load_adapter_setup",
    "save_adapter_setup",
    "save_all_adapter_fusions",
    "save_all_adapters",
]


def folder_of(name: str) -> str:
    """A name as the name of a folder: what a file system may not like is percent-encoded."""
    return quote(name, safe=" +,@=~()[]{}!#$&';") if name.strip(". ") else quote(name, safe="").replace(".", "%2E")


def save_all_adapters(model: nn.Module, folder: str | os.PathLike[str], **options: Any) -> None:
    """Every adapter of the model, each in a sub-folder of its name. `options` as for `save_adapter`."""
    for name in pool_of(model).adapters:
        save_adapter(model, Path(folder) / folder_of(name), name, **options)


def save_all_adapter_fusions(model: nn.Module, folder: str | os.PathLike[str], **options: Any) -> None:
    """Every fusion of the model, each in a sub-folder of its name. `options` as for `save_adapter_fusion`."""
    for name in pool_of(model).fusions:
        save_adapter_fusion(model, Path(folder) / folder_of(name), name, **options)


def save_adapter_setup(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapter_setup: Any,
    *,
    head_setup: str | None = None,
    with_head: bool = True,
    format: str = "native",
    **options: Any,
) -> Path:
    """A composition with its adapters, fusions and heads.

    Args:
        adapter_setup: a name, a composition or a list.
        head_setup: the head that goes with the whole setup, where it is not one of an adapter in it.
        with_head: whether the heads of the adapters are saved with them.
        format: `native` or `adapters`.
        options: further arguments of `save_adapter`.

    Raises:
        AdapterNotFoundError: an adapter or fusion of the setup is not on the model.
    """
    pool = pool_of(model)
    setup = parse_composition(adapter_setup)
    if setup is None:
        raise InvalidConfigError("There is no setup to save.", hint="Name adapters or a composition.")
    if format not in ("native", "adapters"):
        raise InvalidConfigError(f"A setup cannot be saved in the {format!r} format.", hint="Use native or adapters.")
    pool.compile(setup)  # every part of it is there
    fusions = [pool.fusion_of(block).name for block in fusions_in(setup)]
    names = list(
        dict.fromkeys([*setup.names(), *(name for fusion in fusions for name in pool.fusions[fusion].adapters)])
    )
    adapters = {name: folder_of(name) for name in names}
    fused = {name: folder_of(name if name not in adapters else f"fusion {name}") for name in dict.fromkeys(fusions)}
    document: dict[str, Any] = {"spec_version": "1.0", "format": "adapterhub", "adapter_setup": setup.to_dict()}
    if format == "adapters":
        document = {"adapter_setup": _legacy(setup), "version": VERSION}
    document |= {"head_setup": head_setup, "adapters": adapters, "fusions": fused}
    owned = {"adapter_setup.json", *adapters.values(), *fused.values(), "head_config.json", "head.safetensors"}
    with write_folder(folder, owned=owned, last="adapter_setup.json") as target:
        for name, sub in adapters.items():
            save_adapter(model, target / sub, name, with_head=with_head, format=format, **options)
        for name, sub in fused.items():
            save_adapter_fusion(
                model, target / sub, name, with_head=with_head and name in heads_of(model), format=format
            )
        if head_setup is not None and head_setup not in adapters and head_setup not in fused:
            _save_head(model, target, head_setup)
        write_json(target / "adapter_setup.json", document)
    return Path(folder)


def load_adapter_setup(
    model: nn.Module, folder: str | os.PathLike[str], *, set_active: bool = False, **options: Any
) -> Composition:
    """What `save_adapter_setup` wrote, put on the model; returns the composition.

    Args:
        set_active: whether it becomes the active setup.
        options: further arguments of `load_adapter`.

    Raises:
        CheckpointError: the folder is no setup, or a part of it is missing.
    """
    root = Path(folder)
    document = read_json(root / "adapter_setup.json")
    setup = parse_composition(_plain(document.get("adapter_setup")))
    if setup is None:
        raise CheckpointError(f"{root / 'adapter_setup.json'} holds no setup.")
    adapters = _folders(document.get("adapters"), root, setup.names())
    fusions = document.get("fusions")
    if not isinstance(fusions, Mapping):
        fusions = {path.name: path.name for path in sorted(root.iterdir()) if path.is_dir() and _is_fusion(path)}
    for name, sub in adapters.items():
        load_adapter(model, root / sub, load_as=name, **options)
    with_head = bool(options.get("with_head", True))
    for name, sub in fusions.items():
        load_adapter_fusion(model, root / str(sub), load_as=str(name), with_head=with_head)
    head = document.get("head_setup")
    if with_head and (root / "head_config.json").is_file():
        model.load_head(root, load_as=head)  # type: ignore[operator]
    if set_active:
        model.set_active_adapters(setup)  # type: ignore[operator]
        if isinstance(head, str) and head in heads_of(model):
            heads_of(model).activate(head)
    return setup


def _save_head(model: nn.Module, folder: Path, name: str) -> None:
    from adapterhub.core.formats import native

    head = heads_of(model).save(name)
    if head is None:
        raise InvalidConfigError(f"There is no head {name!r} to save with the setup.")
    native.write_head(folder, head)


def _folders(given: Any, root: Path, names: list[str]) -> dict[str, str]:
    found = dict(given) if isinstance(given, Mapping) else {name: name for name in names}
    absent = [name for name in names if name not in found or not (root / str(found[name])).is_dir()]
    if absent:
        raise CheckpointError(f"The setup in {root} lacks the folder of {', '.join(map(repr, absent))}.")
    outside = [sub for sub in found.values() if Path(str(sub)).is_absolute() or ".." in Path(str(sub)).parts]
    if outside:
        raise CheckpointError(f"The setup in {root} points outside of its folder: {outside[0]!r}.")
    return {str(name): str(sub) for name, sub in found.items()}


def _is_fusion(path: Path) -> bool:
    try:
        detect_fusion(path)
    except CheckpointError:
        return False
    return True


def _plain(node: Any) -> Any:
    """Their `{"type": "single", "children": [name]}` is a name."""
    if not isinstance(node, Mapping):
        return node
    children = [_plain(child) for child in node.get("children") or ()]
    if node.get("type") == "single":
        return children[0] if children else None
    return {**node, "children": children}


def _legacy(node: Any) -> dict[str, Any]:
    """A composition as adapters 1.3 writes it."""
    if isinstance(node, str):
        return {"type": "single", "children": [node]}
    document = node.to_dict()
    options = {key: value for key, value in document.items() if key not in ("type", "children")}
    found = {"type": document["type"], "children": [_legacy(child) for child in node.children]}
    return {**found, "kwargs": options} if options else found
