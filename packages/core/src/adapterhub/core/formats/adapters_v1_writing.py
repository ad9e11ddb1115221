"""All methods but bottlenecks as adapters 1.3 keeps them: neutral keys to theirs. The reverse of `adapters_v1_methods`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.formats.adapters_v1_methods import FUSED, LORA, PREFIX, UNITS, members
from adapterhub.core.formats.adapters_v1_places import LegacyPlaces
from adapterhub.spec.config import AdapterConfig, PrefixTuningConfig, ReftConfig
from adapterhub.spec.errors import CheckpointError

__all__ = ["write_methods"]

_LORA_BACK = {ours: theirs for theirs, ours in LORA.items()}
_PREFIX_BACK = {ours: theirs for theirs, ours in PREFIX.items()}
_UNITS_BACK = {ours: theirs for theirs, ours in UNITS.items()}


def write_methods(
    tensors: Mapping[str, Tensor],
    name: str,
    config: AdapterConfig,
    places: LegacyPlaces,
    front: str,
) -> tuple[dict[str, Tensor], set[str]]:
    """Their state dict of the methods of this module.

    Args:
        tensors: neutral key → tensor.
        name: the adapter's name.
        config: its config; of a union, its members count.
        places: the model in their layout.
        front: base-model prefix with its dot, or empty.

    Returns:
        their key → tensor, and the neutral keys that were written.

    Raises:
        CheckpointError: a part of a fused map that their format cannot hold.
    """
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    host_of, towers = places.slots().get, places.towers
    attentions = {slot: path for path, slot in places.hosts.items()}  # the last path of a slot is that of the attention
    linear = {key.rpartition(".")[0] for key in tensors if key.endswith((".a", ".scale"))}
    kinds = {type(member) for member in members(config)}
    fused: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        slot, _, leaf = key.rpartition(".")
        if slot.endswith(".gate"):
            slot, leaf = slot.removesuffix(".gate"), f"gate.{leaf}"
        tower, _, rest = key.partition(".")
        if PrefixTuningConfig in kinds and slot.endswith("_prefix") and leaf.startswith("gate."):
            attention = attentions.get(slot.removesuffix("_prefix"))
            if attention is not None:
                state[f"{front}{attention}.prefix_tuning.prefix_gates.{name}.{leaf.removeprefix('gate.')}"] = tensor
                used.add(key)
        elif slot in linear and (leaf in _LORA_BACK or leaf == "scale"):
            layer, _, role = slot.rpartition(".")
            host = host_of(slot)
            whole = None if host is not None else _fused_role(layer, role, host_of)
            if host is not None:
                state[f"{front}{host}.loras.{name}.{_lora_leaf(leaf)}"] = _lora_shape(leaf, tensor)
                used.add(key)
            elif whole is not None:
                fused.setdefault(f"{layer}.{whole}", {}).setdefault(leaf, {})[role.removeprefix("cross_")] = tensor
                used.add(key)
        elif PrefixTuningConfig in kinds and tower == "shared":
            kind, _, inner = rest.partition(".")
            location = _locations(towers, places.model_type).get(kind)
            if location is not None and inner in _PREFIX_BACK:
                value = tensor.flatten() if inner == "values" else tensor
                path = f"prefix_tuning.prefix_tunings.{name}.{location}.{_PREFIX_BACK[inner]}"
                state[f"{front}{path}"] = value
                used.add(key)
        elif rest == "prompt.tokens":
            state[f"{front}prompt_tuning.prompt_tunings.{name}.prompt_embedding.weight"] = tensor
            used.add(key)
        elif ReftConfig in kinds and ".layer." in key:
            layer, _, inner = key.partition(".layer.")
            unit, _, part = inner.partition(".")
            host = host_of(layer)
            if host is not None and unit in _UNITS_BACK:
                head = f"{front}{host}.reft_layer.refts.{name}.units.{_UNITS_BACK[unit]}"
                state.update(_reft(head, part, tensor, _orthogonal(config)))
                used.add(key)
    for slot, leaves in fused.items():
        host = host_of(slot)
        assert host is not None
        order = FUSED[slot.rpartition(".")[2]]
        for leaf, parts in leaves.items():
            joined = torch.cat([_lora_shape(leaf, parts[role]) for role in order if role in parts])
            state[f"{front}{host}.loras.{name}.{_lora_leaf(leaf)}"] = joined
    return state, used


def _fused_role(layer: str, role: str, host_of: Callable[[str], str | None]) -> str | None:
    """The fused map of a layer that holds this role."""
    bare = role.removeprefix("cross_")
    crossing = role.startswith("cross_")
    for whole, parts in FUSED.items():
        if whole.startswith("cross_") == crossing and bare in parts and host_of(f"{layer}.{whole}") is not None:
            return whole
    return None


def _lora_leaf(leaf: str) -> str:
    return "lora_B" if leaf == "scale" else _LORA_BACK[leaf]


def _lora_shape(leaf: str, tensor: Tensor) -> Tensor:
    return tensor[:, None] if leaf in ("scale", "magnitude") else tensor


def _locations(towers: Sequence[str], model_type: str) -> dict[str, str]:
    """Kind of attention in a tower → their name of it."""
    if model_type == "distilbert":
        return {f"{towers[-1]}_attention": "self"}
    if model_type.startswith("clip"):
        return {f"{tower}_attention": f"clip_{tower}_model_self_prefix" for tower in towers}
    first, last = towers[0], towers[-1]
    found = {f"{last}_cross_attention": "cross_prefix", f"{first}_attention": "encoder_prefix"}
    return {**found, f"{last}_attention": "self_prefix"}


def _orthogonal(config: AdapterConfig) -> bool:
    return any(isinstance(member, ReftConfig) and member.orthogonality for member in members(config))


def _reft(head: str, part: str, tensor: Tensor, orthogonal: bool) -> dict[str, Tensor]:
    if part.startswith("source."):
        return {f"{head}.learned_source.{part.removeprefix('source.')}": tensor}
    if part != "projection":
        raise CheckpointError(
            f"{head}.{part} has no place in the checkpoints of `adapters`.", hint='Use format="native".'
        )
    if not orthogonal:
        return {f"{head}.projection.weight": tensor}
    from adapterhub.core.methods.reft import orthonormal_rows

    holder = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False)
    nn.utils.parametrizations.orthogonal(holder)
    holder.weight = orthonormal_rows(tensor.float())
    parametrisation: Any = holder.get_submodule("parametrizations.weight")
    found = {f"{head}.projection.parametrizations.weight.original": parametrisation.original.detach().clone()}
    base = getattr(parametrisation[0], "base", None)
    if base is not None:
        found[f"{head}.projection.parametrizations.weight.0.base"] = base.detach().clone()
    return found
