"""The native format: `adapter_config.json` and `adapter.safetensors` under neutral keys, a head beside them, a model card.

    adapter_config.json   {"spec_version", "format": "adapterhub", "name", "config": {expanded}, "config_id",
                           "base_model": {"name", "revision", "family", "hidden_size"}, "type", "library", …}
    adapter.safetensors   encoder.3.ffn.down.weight, …
    head_config.json      {"spec_version", "format", "name", "config": {expanded head config}}
    head.safetensors      the head's own keys
    fusion_config.json    {"spec_version", "format", "name", "adapters": […], "config": {expanded fusion config}, "base_model"}
    fusion.safetensors    encoder.3.ffn.query.weight, …
    README.md             the card

The same adapter always gives the same bytes: nothing in it but `created_at`, which is written only when given, depends on
when or where it was saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from adapterhub.core.__about__ import __version__
from adapterhub.core.formats.checkpoint import AdapterCheckpoint, BaseModel, FusionCheckpoint, HeadCheckpoint
from adapterhub.core.formats.files import read_json, read_tensors, write_json, write_tensors
from adapterhub.spec.config import SPEC_VERSION, AdapterConfig, parse_config
from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.heads import parse_head

__all__ = [
    "ADAPTER_FILES",
    "FUSION_FILES",
    "HEAD_FILES",
    "is_native",
    "read_adapter",
    "read_fusion",
    "read_head",
    "write_adapter",
    "write_fusion",
    "write_head",
]

ADAPTER_FILES = ("adapter_config.json", "adapter.safetensors", "head_config.json", "head.safetensors", "README.md")
HEAD_FILES = ("head_config.json", "head.safetensors")
FUSION_FILES = ("fusion_config.json", "fusion.safetensors", "head_config.json", "head.safetensors")

FORMAT = "adapterhub"
#: Members of `adapter_config.json` beside those this module handles itself.
_EXTRA = ("task", "subtask", "using", "languages", "created_at")


def is_native(document: Mapping[str, Any]) -> bool:
    """Whether a config document is of this format."""
    return document.get("format") == FORMAT


def write_adapter(folder: Path, checkpoint: AdapterCheckpoint) -> None:
    """Writes config, weights and head of `checkpoint` into `folder` (see `files.write_folder` for all or nothing)."""
    extra = {key: checkpoint.record[key] for key in _EXTRA if checkpoint.record.get(key) is not None}
    write_json(
        folder / "adapter_config.json",
        {
            **_heading(checkpoint.name),
            "config": checkpoint.config.expand(),
            "config_id": checkpoint.config.config_id,
            "base_model": _base_model(checkpoint.base_model),
            "type": checkpoint.type,
            **extra,
            "library": {"name": "adapterhub-core", "version": __version__},
        },
    )
    write_tensors(folder / "adapter.safetensors", checkpoint.tensors)
    if checkpoint.head is not None:
        write_head(folder, checkpoint.head)


def write_head(folder: Path, head: HeadCheckpoint) -> None:
    """Writes a head."""
    write_json(folder / "head_config.json", {**_heading(head.name or ""), "config": head.config.expand()})
    write_tensors(folder / "head.safetensors", head.tensors)


def write_fusion(folder: Path, checkpoint: FusionCheckpoint) -> None:
    """Writes a fusion layer."""
    write_json(
        folder / "fusion_config.json",
        {
            **_heading(checkpoint.name),
            "adapters": list(checkpoint.adapters),
            "config": checkpoint.config,
            "base_model": _base_model(checkpoint.base_model),
            "library": {"name": "adapterhub-core", "version": __version__},
        },
    )
    write_tensors(folder / "fusion.safetensors", checkpoint.tensors)
    if checkpoint.head is not None:
        write_head(folder, checkpoint.head)


def read_adapter(folder: Path, with_head: bool = True) -> AdapterCheckpoint:
    """The adapter in `folder`.

    Raises:
        CheckpointError: a file is missing or malformed, or of a later version of the spec.
        InvalidConfigError: the config makes no sense.
    """
    document = _document(folder / "adapter_config.json")
    config, config_id = _config(json.dumps(_member(document, "config", folder)))
    if document.get("config_id") not in (None, config_id):
        raise CheckpointError(
            f"{folder / 'adapter_config.json'}: config_id does not belong to the config, whose id is {config_id}.",
            hint="The config was edited after it was saved; save the adapter again.",
        )
    return AdapterCheckpoint(
        name=str(document.get("name") or folder.name),
        config=config,
        tensors=read_tensors(_file(folder, "adapter.safetensors")),
        type=str(document.get("type") or "text_task"),
        base_model=_read_base(document),
        head=read_head(folder) if with_head else None,
        record={key: document[key] for key in _EXTRA if key in document},
    )


def read_head(folder: Path) -> HeadCheckpoint | None:
    """The head in `folder`, or None where there is none."""
    path = folder / "head_config.json"
    if not path.is_file():
        return None
    document = read_json(path)
    fields = document["config"] if isinstance(document.get("config"), Mapping) else document
    return HeadCheckpoint(
        parse_head(fields), read_tensors(_file(folder, "head.safetensors")), document.get("name") or None
    )


def read_fusion(folder: Path, with_head: bool = True) -> FusionCheckpoint:
    """The fusion layer in `folder`."""
    document = _document(folder / "fusion_config.json")
    adapters = document.get("adapters")
    if not isinstance(adapters, list) or not all(isinstance(name, str) for name in adapters):
        raise CheckpointError(f"{folder / 'fusion_config.json'} does not list the adapters it fuses.")
    return FusionCheckpoint(
        name=str(document.get("name") or ",".join(adapters)),
        adapters=tuple(adapters),
        config=dict(_member(document, "config", folder)),
        tensors=read_tensors(_file(folder, "fusion.safetensors")),
        base_model=_read_base(document),
        head=read_head(folder) if with_head else None,
    )


@lru_cache(64)
def _config(text: str) -> tuple[AdapterConfig, str]:
    """A config and its id from its JSON. A thousand adapters of one kind share the (immutable) config."""
    config = parse_config(json.loads(text))
    return config, config.config_id


def _heading(name: str) -> dict[str, Any]:
    return {"spec_version": SPEC_VERSION, "format": FORMAT, "name": name}


def _base_model(base: BaseModel) -> dict[str, Any]:
    return {"name": base.name, "revision": base.revision, "family": base.family, "hidden_size": base.hidden_size}


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path)
    version = str(document.get("spec_version", SPEC_VERSION))
    if version.split(".")[0] != SPEC_VERSION.split(".")[0]:
        raise CheckpointError(
            f"{path} follows version {version} of the spec; this release reads {SPEC_VERSION}.",
            hint="Upgrade adapterhub-core.",
        )
    return document


def _member(document: Mapping[str, Any], name: str, folder: Path) -> Mapping[str, Any]:
    value = document.get(name)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"The config in {folder} has no {name!r}.", hint="Save or download the adapter again.")
    return value


def _read_base(document: Mapping[str, Any]) -> BaseModel:
    value = document.get("base_model")
    known = value if isinstance(value, Mapping) else {}
    return BaseModel(known.get("name"), known.get("revision"), known.get("family"), None, known.get("hidden_size"))


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.", hint="Save or download the adapter again.")
    return path


def tensors_on(tensors: Mapping[str, Tensor], dtype: Any) -> dict[str, Tensor]:
    """The tensors, floating ones cast to `dtype` (None: as they are)."""
    if dtype is None:
        return dict(tensors)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}


__all__ += ["tensors_on"]
