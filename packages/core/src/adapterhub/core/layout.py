"""Where things are in one model: its layers, sublayers and embedding, as paths from the bare transformer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["EmbeddingPlace", "LayerPlace", "Layout", "SublayerPlace", "argument_of", "legacy_hosts"]


@dataclass(frozen=True, slots=True)
class SublayerPlace:
    """One sublayer of one layer, with absolute paths from the bare transformer.

    `key` is the first part of neutral tensor keys; `switch` the config field that puts a bottleneck here; `host` the path
    under which `adapters` 1.x keeps the weights, or None; `chained` the output of the sublayer before where that is part of
    this one's residual; `shared` an output module that runs more than once in a layer (meant is the first call after the
    residual was seen); `scale` what the model multiplies the module's output by before it adds it: h is the product.
    """

    key: str
    kind: str
    layer: LayerPlace
    output: str
    residual: str
    argument: int
    keyword: str
    norm: str | None
    switch: str
    joint: str | None
    host: str | None
    chained: str | None = None
    shared: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """One layer: configs speak of its `index`, which as a rule counts over all towers, keys of its `position` in its tower."""

    key: str
    tower: str
    index: int
    position: int
    path: str
    legacy_path: str
    width: int
    linears: dict[str, str] = field(default_factory=dict)
    legacy_linears: dict[str, str] = field(default_factory=dict)
    attention: dict[str, str] = field(default_factory=dict)
    row_arguments: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingPlace:
    """The module whose output (or argument number `argument`) is the embedded text; `width` is its size."""

    key: str
    path: str
    width: int
    argument: int | None = None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """All places of a model, in the order of the layers; `shaped` says where tensors lie otherwise than [B, T, d] (see `shapes`),
    by the path of the module that gives them."""

    family: str
    sublayers: tuple[SublayerPlace, ...]
    layers: tuple[LayerPlace, ...]
    embedding: EmbeddingPlace | None
    shaped: dict[str, str] = field(default_factory=dict)


def argument_of(place: SublayerPlace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument of a call that carries the residual, passed by position or by name."""
    position = place.argument
    if -len(args) <= position < len(args):
        return args[position]
    value = kwargs.get(place.keyword)
    if value is None:
        value = next((given for given in kwargs.values() if isinstance(given, Tensor)), None)
    return value


def legacy_hosts(layout: Layout) -> dict[str, str]:
    """Module paths of `adapters` 1.x checkpoints (without base model prefix) to neutral keys.

    `encoder.layer.3.output` → `encoder.3.ffn` for sublayers, `encoder.layer.3.attention.self.query` → `encoder.3.q` for
    linear maps, `encoder.layer.3` → `encoder.3` for layers.
    """
    hosts = {place.host: place.key for place in layout.sublayers if place.host is not None}
    for layer in layout.layers:
        hosts.setdefault(layer.legacy_path, layer.key)
        for role, path in layer.linears.items():
            hosts.setdefault(f"{layer.legacy_path}.{layer.legacy_linears.get(role, path)}", f"{layer.key}.{role}")
        for kind, path in layer.attention.items():
            query = layer.legacy_linears.get("cross_q" if kind == "cross_attention" else "q")
            hosts.setdefault(f"{layer.legacy_path}.{_parent(query) or path}", f"{layer.key}.{kind}")
    return hosts


def _parent(path: str | None) -> str:
    return "" if path is None else path.rpartition(".")[0]
