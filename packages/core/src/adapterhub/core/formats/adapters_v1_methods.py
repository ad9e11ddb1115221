"""All methods but bottlenecks in checkpoints of adapters 0.x-1.3: their tensors to neutral keys.

Fused attention maps (GPT-2's `c_attn`) keep the matrices of q, k and v that are adapted one below the other; ReFT keeps its
projection as the parameters of torch's orthogonal parametrisation, of which only the resulting matrix matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.formats.adapters_v1 import LegacyKey, split_key
from adapterhub.spec.config import AdapterConfig, IA3Config, LoRAConfig, PrefixTuningConfig, ReftConfig, UnionConfig
from adapterhub.spec.errors import CheckpointError

__all__ = ["FUSED", "LORA", "PREFIX", "UNITS", "members", "read_methods"]

FUSED = {"qkv": ("q", "k", "v"), "kv": ("k", "v"), "cross_kv": ("k", "v")}
LORA = {"lora_A": "a", "lora_B": "b", "m.weight": "magnitude", "gate.weight": "gate.weight", "gate.bias": "gate.bias"}
PREFIX = {
    "wte.weight": "tokens",
    "control_trans": "values",
    "control_trans.0.weight": "down.weight",
    "control_trans.0.bias": "down.bias",
    "control_trans.2.weight": "up.weight",
    "control_trans.2.bias": "up.bias",
}
UNITS = {"0": "prefix", "1": "suffix"}


def read_methods(
    state: Mapping[str, Tensor],
    slot_of: Callable[[str], str | None],
    config: AdapterConfig,
    towers: Sequence[str],
    embedding: str,
) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors of the methods of this module.

    Args:
        state: a state dict of theirs.
        slot_of: module path in their model → neutral slot, or None.
        config: what the adapter is; of a union, its members count.
        towers: names of the model's towers, the encoder first.
        embedding: neutral slot of the embedding.

    Returns:
        neutral key → tensor, and the keys of `state` that were read.
    """
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    reft: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        found = split_key(key)
        if found is None:
            continue
        if found.kind == "lora":
            slot = slot_of(found.host)
            if slot is not None and found.leaf in LORA:
                used.add(key)
                tensors.update(_lora(slot, found, tensor, config))
        elif found.kind == "prefix":
            used.add(key)  # each layer has a copy of the networks besides; they are read once
            if "pool" not in found.host.split("."):
                tensors.update(_prefix(found, tensor, config, towers))
        elif found.kind == "prefix_gate":
            slot = slot_of(found.host.removesuffix(".prefix_tuning"))
            if slot is not None:
                used.add(key)
                tensors[f"{slot}_prefix.gate.{found.leaf}"] = tensor
        elif found.kind == "prompt":
            used.add(key)
            tensors[f"{embedding.rpartition('.')[0]}.prompt.tokens"] = tensor
        elif found.kind == "reft":
            slot = slot_of(found.host.removesuffix(".reft_layer"))
            if slot is not None:
                used.add(key)
                reft.setdefault(slot, {})[found.leaf] = tensor
    for slot, leaves in reft.items():
        tensors.update(_reft(f"{slot}.layer", leaves, config))
    return tensors, used


def _lora(slot: str, key: LegacyKey, tensor: Tensor, config: AdapterConfig) -> Iterator[tuple[str, Tensor]]:
    member = _member(config)
    layer, _, role = slot.rpartition(".")
    scaled = isinstance(member, IA3Config)
    leaf = "scale" if scaled and key.leaf == "lora_B" else LORA[key.leaf]
    if leaf in ("scale", "magnitude"):
        tensor = tensor.reshape(-1)
    if role not in FUSED:
        yield f"{slot}.{leaf}", tensor
        return
    front = "cross_" if role.startswith("cross_") else ""
    parts = [part for part in FUSED[role] if part in member.attn_matrices]
    if tensor.shape[0] % len(parts):
        raise CheckpointError(
            f"{slot}.{leaf} has {tensor.shape[0]} rows, which cannot be shared out among {', '.join(parts)}."
        )
    for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
        yield f"{layer}.{front}{part}.{leaf}", piece.contiguous()


def _member(config: AdapterConfig) -> LoRAConfig | IA3Config:
    for member in members(config):
        if isinstance(member, (LoRAConfig, IA3Config)):
            return member
    raise CheckpointError("The checkpoint has LoRA tensors, but its config has no LoRA.")


def _prefix(
    key: LegacyKey, tensor: Tensor, config: AdapterConfig, towers: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    location, _, leaf = key.leaf.partition(".")
    # a model made of two has the networks of each half in that half
    half = next((part for part in key.host.split(".") if part in towers and len(towers) > 1), None)
    slot = _prefix_slot(location, towers if half is None or location == "cross_prefix" else [half])
    if slot is None or leaf not in PREFIX:
        raise CheckpointError(f"{key.leaf!r} is no tensor of a prefix.")
    if leaf == "control_trans":
        length = next(member.prefix_length for member in members(config) if isinstance(member, PrefixTuningConfig))
        tensor = tensor.reshape(length, -1)
    yield f"shared.{slot}.{PREFIX[leaf]}", tensor


def _prefix_slot(location: str, towers: Sequence[str]) -> str | None:
    """The attention a prefix belongs to: `self_prefix` and DistilBERT's `self` are that of the last tower; a model of two
    towers names them (`clip_text_model_self_prefix`)."""
    first, last = towers[0], towers[-1]
    known = {
        "encoder_prefix": f"{first}_attention",
        "self_prefix": f"{last}_attention",
        "self": f"{last}_attention",
        "cross_prefix": f"{last}_cross_attention",
    }
    named = next((f"{tower}_attention" for tower in towers if f"_{tower}_" in f"_{location}_"), None)
    return known.get(location, named)


def members(config: AdapterConfig) -> Sequence[AdapterConfig]:
    """The members of a union; a config that is none stands for itself."""
    return config.configs if isinstance(config, UnionConfig) else (config,)


def _reft(slot: str, leaves: Mapping[str, Tensor], config: AdapterConfig) -> Iterator[tuple[str, Tensor]]:
    units = {leaf.split(".")[1] for leaf in leaves if leaf.startswith("units.")}
    member = next((member for member in members(config) if isinstance(member, ReftConfig)), None)
    if member is not None and member.suffix_positions == 0:
        units.discard("1")  # they write a unit for the last positions even where none is changed
    for unit in sorted(units):
        front = f"units.{unit}."
        own = {leaf.removeprefix(front): tensor for leaf, tensor in leaves.items() if leaf.startswith(front)}
        name = UNITS.get(unit, unit)
        for theirs, ours in (("learned_source.weight", "source.weight"), ("learned_source.bias", "source.bias")):
            if theirs in own:
                yield f"{slot}.{name}.{ours}", own[theirs]
        yield f"{slot}.{name}.projection", _projection(own)


def _projection(leaves: Mapping[str, Tensor]) -> Tensor:
    """The projection [r, d], computed from the parameters of its parametrisation where it has one."""
    if "projection.weight" in leaves:
        return leaves["projection.weight"]
    original = leaves["projection.parametrizations.weight.original"]
    holder = nn.Linear(original.shape[1], original.shape[0], bias=False)
    nn.utils.parametrizations.orthogonal(holder)
    parametrisation: Any = holder.get_submodule("parametrizations.weight")
    with torch.no_grad():
        parametrisation.original.copy_(original)
        base = leaves.get("projection.parametrizations.weight.0.base")
        if base is not None:
            parametrisation[0].base.copy_(base)
        return holder.weight.detach().clone()
