"""Whole folders of adapter-transformers and adapters: adapter, head, fusion; read for a model, and written from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adapterhub.core.formats.adapters_v1 import (
    ADAPTER_WEIGHTS,
    FUSION_WEIGHTS,
    from_legacy,
    names_in,
    slot_of,
    to_legacy,
    weights_file,
)
from adapterhub.core.formats.adapters_v1_heads import legacy_head_document, legacy_head_tensors, read_legacy_head
from adapterhub.core.formats.adapters_v1_methods import read_methods
from adapterhub.core.formats.adapters_v1_places import LegacyPlaces
from adapterhub.core.formats.adapters_v1_writing import write_methods
from adapterhub.core.formats.checkpoint import AdapterCheckpoint, BaseModel, FusionCheckpoint, HeadCheckpoint
from adapterhub.core.formats.files import read_json, read_tensors, write_json, write_tensors
from adapterhub.spec.adapters_config import from_adapters, to_adapters
from adapterhub.spec.config import (
    AdapterConfig,
    BottleneckConfig,
    IA3Config,
    LoRAConfig,
    PrefixTuningConfig,
    UnionConfig,
    parse_config,
)
from adapterhub.spec.errors import CheckpointError

__all__ = ["read_adapter", "read_fusion", "write_adapter", "write_fusion"]

ADAPTER_FILES = ("adapter_config.json", "adapter.safetensors", "head_config.json", "model_head.safetensors")
FUSION_FILES = (
    "adapter_fusion_config.json",
    "model_adapter_fusion.safetensors",
    "head_config.json",
    "model_head.safetensors",
)


def read_adapter(folder: Path, places: LegacyPlaces, with_head: bool = True) -> AdapterCheckpoint:
    """The adapter in `folder`, with neutral keys.

    Raises:
        CheckpointError: weights missing, malformed, or of several adapters.
        InvalidConfigError: a config this release has no method for.
    """
    document = read_json(folder / "adapter_config.json")
    fields = document["config"]
    version = document.get("version")
    config = from_adapters(fields, version=version)
    weights = weights_file(folder, ADAPTER_WEIGHTS)
    if weights is None:
        raise CheckpointError(f"{folder} has none of {', '.join(ADAPTER_WEIGHTS)}.")
    state = read_tensors(weights)
    names = names_in(state)
    if len(names) > 1:
        raise CheckpointError(f"{weights} holds several adapters: {', '.join(sorted(names))}.")
    others, used = read_methods(
        state, lambda host: slot_of(host, places.hosts), config, places.towers, places.embedding
    )
    rest = {key: tensor for key, tensor in state.items() if key not in used}
    tensors, unexpected = from_legacy(rest, places.hosts, places.embedding)
    tensors.update(others)
    config, notes = _without_absent_invertible(config, tensors, str(document.get("type") or ""), version)
    if places.model_type not in _WITH_OUTPUT_PROJECTION:
        config, left_out = _without_output_projection(config, tensors)
        notes += left_out
    config, moved = _where_the_tensors_are(config, tensors)
    notes += moved
    return AdapterCheckpoint(
        name=str(document.get("name") or (next(iter(names)) if names else folder.name)),
        config=config,
        tensors=tensors,
        type=str(document.get("type") or "text_task"),
        format="adapters",
        base_model=_base_model(document),
        head=read_legacy_head(folder) if with_head else None,
        unexpected=unexpected,
        notes=notes,
    )


def read_fusion(folder: Path, places: LegacyPlaces, with_head: bool = True) -> FusionCheckpoint:
    """The fusion layer in `folder`, with neutral keys."""
    document = read_json(folder / "adapter_fusion_config.json")
    weights = weights_file(folder, FUSION_WEIGHTS)
    if weights is None:
        raise CheckpointError(f"{folder} has none of {', '.join(FUSION_WEIGHTS)}.")
    name = str(document.get("name") or "")
    adapters = document.get("adapter_names") or name.split(",")
    if not isinstance(document.get("config"), Mapping) or not all(isinstance(item, str) and item for item in adapters):
        raise CheckpointError(f"{folder / 'adapter_fusion_config.json'} names no config or no adapters.")
    tensors, unexpected = from_legacy(read_tensors(weights), places.hosts, places.embedding)
    return FusionCheckpoint(
        name=name or ",".join(adapters),
        adapters=tuple(adapters),
        config=dict(document["config"]),
        tensors=tensors,
        format="adapters",
        base_model=_base_model(document),
        head=read_legacy_head(folder) if with_head else None,
        unexpected=unexpected,
    )


def write_adapter(folder: Path, checkpoint: AdapterCheckpoint, places: LegacyPlaces) -> None:
    """Writes the adapter (and its head) as adapters 1.3 does, safetensors only.

    Raises:
        InvalidConfigError, CheckpointError: something in it their format cannot express.
    """
    config = to_adapters(checkpoint.config)
    if places.model_type in _SWAPPED:
        config = _swapped(config)
    front = f"{places.prefix}." if places.prefix else ""
    state, used = write_methods(checkpoint.tensors, checkpoint.name, checkpoint.config, places, front)
    rest = {key: tensor for key, tensor in checkpoint.tensors.items() if key not in used}
    state |= to_legacy(rest, checkpoint.name, places.slots(), places.prefix)
    write_json(
        folder / "adapter_config.json",
        {"config": config, "name": checkpoint.name, "type": checkpoint.type, **places.context()},
    )
    write_tensors(folder / "adapter.safetensors", state)
    _write_head(folder, checkpoint.head, checkpoint.name, places)


def write_fusion(folder: Path, checkpoint: FusionCheckpoint, places: LegacyPlaces) -> None:
    """Writes the fusion layer (and its head) as adapters 1.3 does."""
    write_json(
        folder / "adapter_fusion_config.json",
        {
            "adapter_names": list(checkpoint.adapters),
            "config": checkpoint.config,
            "name": checkpoint.name,
            **places.context(),
        },
    )
    state = to_legacy(checkpoint.tensors, checkpoint.name, places.slots(), places.prefix)
    write_tensors(folder / "model_adapter_fusion.safetensors", state)
    _write_head(folder, checkpoint.head, checkpoint.name, places)


#: Model types on which `intermediate_lora` of adapters 1.x means the down projection, and `output_lora` the up projection.
_SWAPPED = frozenset({"llama", "mistral"})


#: Model types on which adapters 1.x can adapt the output projection of attention; on others it passes `o` over in silence.
_WITH_OUTPUT_PROJECTION = frozenset({"gemma2", "gemma3_text", "modernbert", "phi", "qwen2", "qwen3"})


def _without_output_projection(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> tuple[AdapterConfig, list[str]]:
    """The config without the `o` that adapters 1.x passed over: where the other matrices have tensors and it has none."""
    if isinstance(config, UnionConfig):
        done = [_without_output_projection(member, tensors) for member in config.configs]
        members = [member.expand() for member, _ in done]
        return parse_config({"method": "union", "configs": members}), [note for _, notes in done for note in notes]
    if not isinstance(config, LoRAConfig | IA3Config) or "o" not in config.attn_matrices:
        return config, []
    roles = {key.split(".")[-2] for key in tensors if key.endswith((".a", ".scale"))}
    if "o" in roles or not roles & {"q", "k", "v"}:
        return config, []
    note = "adapters 1.x does not adapt the output projection of this model, though the config names it; left out"
    return config.replace(attn_matrices=tuple(role for role in config.attn_matrices if role != "o")), [note]


def _where_the_tensors_are(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> tuple[AdapterConfig, list[str]]:
    """The config with the feed-forward placement of LoRA and IA3 that the tensors show: see `_SWAPPED`."""
    if isinstance(config, UnionConfig):
        moved = [_where_the_tensors_are(member, tensors) for member in config.configs]
        members = [member.expand() for member, _ in moved]
        return parse_config({"method": "union", "configs": members}), [note for _, notes in moved for note in notes]
    roles = {key.split(".")[-2] for key in tensors if key.endswith((".a", ".scale"))}
    up, down = "up" in roles, "down" in roles
    note = "on this model adapters 1.x swaps the two projections of the feed-forward network; the tensors decide"
    prefixed = any(key.startswith("shared.encoder_attention.") for key in tensors)
    if isinstance(config, PrefixTuningConfig) and prefixed and not config.encoder_prefix:
        said = "in models made of two, adapters 1.x always prefixes the encoder"
        return config.replace(encoder_prefix=True), [said]
    if isinstance(config, LoRAConfig):
        placed = (config.intermediate_lora, config.output_lora)
        if placed != (up, down) and set(placed) == {up, down}:
            return config.replace(intermediate_lora=up, output_lora=down), [note]
    if isinstance(config, IA3Config) and down:  # IA3 proper has no vector on that output
        return config.replace(ffn=None, targets=sorted(roles)), [] if up else [note]
    if isinstance(config, IA3Config) and roles and (config.ffn == "up_output") != up:
        return config.replace(ffn="up_output" if up else None), [note]
    return config, []


def _swapped(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("architecture") == "union":
        return {**fields, "configs": [_swapped(member) for member in fields["configs"]]}
    if fields.get("architecture") != "lora":
        return fields
    return {**fields, "intermediate_lora": fields["output_lora"], "output_lora": fields["intermediate_lora"]}


def _write_head(folder: Path, head: HeadCheckpoint | None, name: str, places: LegacyPlaces) -> None:
    if head is None:
        return
    head = HeadCheckpoint(head.config, head.tensors, head.name or name)
    write_json(folder / "head_config.json", legacy_head_document(head, places.context()))
    write_tensors(folder / "model_head.safetensors", legacy_head_tensors(head, head.name or name, places.prefix))


def _base_model(document: Mapping[str, Any]) -> BaseModel:
    size = document.get("hidden_size")
    model_type = document.get("model_type")
    return BaseModel(
        name=document.get("model_name") or None,
        model_type=str(model_type) if model_type else None,
        hidden_size=size if isinstance(size, int) else None,
    )


def _without_absent_invertible(
    config: AdapterConfig, tensors: Mapping[str, Tensor], kind: str, version: str | None
) -> tuple[AdapterConfig, list[str]]:
    """1.x wrote the invertible block into the config of task adapters too, which never had its weights."""
    if (
        version is None
        and kind != "text_lang"
        and isinstance(config, BottleneckConfig)
        and config.inv_adapter is not None
        and not any(".embedding." in key for key in tensors)
    ):
        note = "the config of this old task adapter names an invertible block, which it never had; left out"
        return config.replace(inv_adapter=None, inv_adapter_reduction_factor=None), [note]
    return config, []
