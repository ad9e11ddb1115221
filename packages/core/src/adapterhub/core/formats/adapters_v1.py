"""Checkpoints of adapter-transformers 1.x-3.x and adapters 0.x-1.3: their folders, keys and quirks, read and written.

A key of theirs is `<path of the host module>.<container>.<adapter name>.<leaf>`, with the base model's prefix in front when
it was saved from a class with a head. `split_key` takes it apart; the tables of this module and `legacy_hosts` of the
model's family turn the parts into a neutral key. Nothing is searched by substring, so an adapter may be called anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adapterhub.spec.errors import CheckpointError

__all__ = [
    "ADAPTER_WEIGHTS",
    "FUSION_WEIGHTS",
    "HEAD_WEIGHTS",
    "LegacyKey",
    "from_legacy",
    "names_in",
    "slot_of",
    "split_key",
    "to_legacy",
    "weights_file",
]

#: File names, preferred first.
ADAPTER_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")

#: Container of adapters in a key → what kind of tensors it holds. The first four are those of 1.x.
_CONTAINERS = {
    "attention_text_task_adapters": "bottleneck",
    "attention_text_lang_adapters": "bottleneck",
    "layer_text_task_adapters": "bottleneck",
    "layer_text_lang_adapters": "bottleneck",
    "adapters": "bottleneck",
    "adapter_fusion_layer": "fusion",
    "invertible_lang_adapters": "invertible",
    "invertible_adapters": "invertible",
    "shared_parameters": "shared",
    "loras": "lora",
    "refts": "reft",
    "prefix_tunings": "prefix",
    "prefix_gates": "prefix_gate",
    "prompt_tunings": "prompt",
}

#: Leaf of a bottleneck, after the layers inside `adapter_down` are told apart by shape.
_BOTTLENECK = {
    "adapter_up": "up",
    "adapter_norm_before": "norm_before",
    "adapter_norm_after": "norm_after",
    "gate": "gate",
    "scaling": "scaling",
}
_PHM = {
    "W_left": "left",
    "W_right": "right",
    "W": "weight",
    "b": "bias",
    "phm_rule": "rule",
    "phm_rule_left": "rule_left",
    "phm_rule_right": "rule_right",
}
_BOTTLENECK_BACK = {value: key for key, value in _BOTTLENECK.items()}
_PHM_BACK = {value: key for key, value in _PHM.items()}
_SHARED = {
    "phm_rule": "rule",
    "phm_rule_left": "rule_left",
    "phm_rule_right": "rule_right",
    "W_down": "down.weight",
    "W_down_left": "down.left",
    "W_down_right": "down.right",
    "W_up": "up.weight",
    "W_up_left": "up.left",
    "W_up_right": "up.right",
}
_SHARED_BACK = {value: key for key, value in _SHARED.items()}
_INVERTIBLE = {"F.0": "f.down", "F.2": "f.up", "G.0": "g.down", "G.2": "g.up"}
_INVERTIBLE_BACK = {value: key for key, value in _INVERTIBLE.items()}


@dataclass(frozen=True, slots=True)
class LegacyKey:
    """One key taken apart.

    Args:
        host: path of the module that holds the container, base-model prefix included.
        kind: what the container holds: bottleneck, fusion, invertible, shared, lora, reft, prefix, prefix_gate, prompt.
        name: the adapter's (or fusion's) name in the file.
        leaf: the path inside the adapter.
    """

    host: str
    kind: str
    name: str
    leaf: str


def weights_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of `names` there is in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def split_key(key: str) -> LegacyKey | None:
    """`key` taken apart at its first container, or None where it belongs to no adapter."""
    parts = key.split(".")
    for position, part in enumerate(parts[:-1]):
        kind = _CONTAINERS.get(part)
        if kind is not None:
            return LegacyKey(".".join(parts[:position]), kind, parts[position + 1], ".".join(parts[position + 2 :]))
    return None


def names_in(keys: Mapping[str, Tensor]) -> set[str]:
    """The adapter names that occur in a state dict."""
    return {found.name for key in keys if (found := split_key(key)) is not None}


def from_legacy(
    state: Mapping[str, Tensor], hosts: Mapping[str, str], embedding: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Neutral key → tensor of the bottleneck, invertible, shared and fusion tensors in `state`.

    Args:
        state: a state dict of theirs.
        hosts: module path in their model → neutral slot (`encoder.3.ffn`), from `legacy_hosts` of the pool.
        embedding: neutral slot of the embedding (`encoder.embedding`).

    Returns:
        the tensors, and the keys that belong nowhere.

    Raises:
        CheckpointError: two keys for one slot, with different tensors.
    """
    tensors: dict[str, Tensor] = {}
    unexpected: list[str] = []
    split = {key: split_key(key) for key in state}
    normed = {
        (key.host, key.name) for key in split.values() if key is not None and key.leaf.startswith("adapter_down.1.")
    }
    for key, tensor in state.items():
        found = split[key]
        neutral = None
        if found is not None:
            neutral = _neutral(found, (found.host, found.name) in normed, hosts, embedding)
        if neutral is None:
            unexpected.append(key)
            continue
        if neutral == "":  # stored a second time, or read by nothing
            continue
        if neutral in tensors and not (
            tensors[neutral].shape == tensor.shape and bool((tensors[neutral] == tensor).all())
        ):
            raise CheckpointError(f"Two different tensors are meant for {neutral!r}; the second is {key!r}.")
        tensors[neutral] = tensor
    return tensors, unexpected


def to_legacy(
    tensors: Mapping[str, Tensor], name: str, slots: Mapping[str, str], prefix: str = ""
) -> dict[str, Tensor]:
    """The state dict `adapters` 1.3 would have saved for `tensors`.

    Args:
        tensors: neutral key → tensor.
        name: the adapter's or fusion's name.
        slots: neutral slot → module path in their model; the embedding slot maps to the module that holds
            `invertible_adapters`.
        prefix: prefix of the base model where the model has a head, else empty.

    Raises:
        CheckpointError: a tensor that has no place in their format.
    """
    front = f"{prefix}." if prefix else ""
    with_norm = {key.rpartition(".norm_before.")[0] for key in tensors}
    matrices = {
        key.rpartition(".down.")[0] for key, t in tensors.items() if key.endswith(".down.weight") and t.dim() == 2
    }
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith("shared."):
            leaf = key.removeprefix("shared.")
            if leaf not in _SHARED_BACK:
                raise CheckpointError(
                    f"{key!r} has no place in the checkpoints of `adapters`.", hint='Use format="native".'
                )
            state[f"{front}shared_parameters.{name}.{_SHARED_BACK[leaf]}"] = tensor
            continue
        slot = next((slot for slot in _slots_of(key) if slot in slots), None)
        if slot is None:
            raise CheckpointError(
                f"{key!r} has no place in the checkpoints of `adapters`.", hint='Use format="native".'
            )
        leaf = key.removeprefix(f"{slot}.")
        host = front + slots[slot] if slots[slot] else front.rstrip(".")
        dot = f"{host}." if host else ""
        first = leaf.split(".")[0]
        if first in ("query", "key", "value"):
            state[f"{dot}adapter_fusion_layer.{name}.{leaf}"] = tensor
        elif slot.endswith(".embedding"):
            module, _, parameter = leaf.rpartition(".")
            if module not in _INVERTIBLE_BACK:
                raise CheckpointError(
                    f"{key!r} has no place in the checkpoints of `adapters`.", hint='Use format="native".'
                )
            state[f"{dot}invertible_adapters.{name}.{_INVERTIBLE_BACK[module]}.{parameter}"] = tensor
        else:
            for path in _bottleneck_leaves(leaf, slot in with_norm, slot not in matrices):
                state[f"{dot}adapters.{name}.{path}"] = tensor
    return state


def _neutral(key: LegacyKey, normed: bool, hosts: Mapping[str, str], embedding: str) -> str | None:
    if key.kind == "shared":
        return f"shared.{_SHARED[key.leaf]}" if key.leaf in _SHARED else None
    if key.kind == "invertible":
        module, _, parameter = key.leaf.rpartition(".")
        return f"{embedding}.{_INVERTIBLE[module]}.{parameter}" if module in _INVERTIBLE else None
    slot = slot_of(key.host, hosts)
    if slot is None:
        return None
    if key.kind == "fusion":  # without any projection they keep a map that nothing reads
        return "" if key.leaf.startswith("dense.") else f"{slot}.{key.leaf}"
    if key.kind == "bottleneck":
        leaf = _bottleneck(key.leaf, normed)
        return leaf if not leaf else f"{slot}.{leaf}"
    return None


def slot_of(host: str, hosts: Mapping[str, str]) -> str | None:
    """The slot of a host path, with or without the prefix of the base model (`bert.`, `model.`) in front."""
    for _ in range(3):
        if host in hosts:
            return hosts[host]
        _, dot, host = host.partition(".")
        if not dot:
            return None
    return None


def _bottleneck(leaf: str, normed: bool) -> str | None:
    """The neutral leaf; empty for the copy of the norm in `adapter_down.0`; None for what is no bottleneck."""
    head, _, rest = leaf.partition(".")
    if head == "adapter_down":
        index, _, parameter = rest.partition(".")
        if not index.isdigit() or not parameter:
            return None
        if normed and index == "0":
            return ""
        return f"down.{_PHM.get(parameter, parameter)}"
    if head not in _BOTTLENECK:
        return None
    if not rest:
        return _BOTTLENECK[head]
    return f"{_BOTTLENECK[head]}.{_PHM.get(rest, rest)}"


def _bottleneck_leaves(leaf: str, normed: bool, hypercomplex: bool) -> list[str]:
    """Their path of a neutral leaf; two for the norm before, which they also keep inside `adapter_down`."""
    head, _, parameter = leaf.partition(".")
    if head in ("down", "up"):
        theirs = _PHM_BACK.get(parameter, parameter) if hypercomplex else parameter
        return [f"adapter_down.{int(normed)}.{theirs}" if head == "down" else f"adapter_up.{theirs}"]
    if head not in _BOTTLENECK_BACK:
        raise CheckpointError(f"{leaf!r} has no place in the checkpoints of `adapters`.", hint='Use format="native".')
    path = f"{_BOTTLENECK_BACK[head]}.{parameter}" if parameter else _BOTTLENECK_BACK[head]
    return [path, f"adapter_down.0.{parameter}"] if head == "norm_before" else [path]


def _slots_of(key: str) -> list[str]:
    """`key` without its last one, two and three parts: the candidates for its slot."""
    parts = key.split(".")
    return [".".join(parts[:-count]) for count in (1, 2, 3) if count < len(parts)]


#: `<name>.<index>.<parameter>` of a head with layers in a Sequential.
HEAD_KEY = re.compile(r"heads\.(?P<name>[^.]+)\.(?P<leaf>.+)")
