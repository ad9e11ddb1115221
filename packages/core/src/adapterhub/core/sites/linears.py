"""Sites at linear maps: their output beside their input (LoRA, IA3), or the input alone (IA3 inside the feed-forward network).

A role of the family file (`q`, `up`, …) is one map, or a stretch of the output of a fused one (`qkv`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.operations import Operation
from adapterhub.core.shapes import arrangement
from adapterhub.core.sites import HookedSite
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool

__all__ = ["AtLinear", "LinearInputSite", "LinearPlace", "LinearSite", "linear_sites", "linear_sizes"]

#: fused role → the roles in it, in the order of their stretches
_FUSED = {
    "qkv": ("q", "k", "v"),
    "qkv_by_head": ("q", "k", "v"),
    "kv": ("k", "v"),
    "cross_qkv": ("cross_q", "cross_k", "cross_v"),
    "cross_kv": ("cross_k", "cross_v"),
    "gate_up": ("gate", "up"),
}


@dataclass(frozen=True, slots=True)
class LinearPlace:
    """One linear map, or a stretch of one.

    Attributes:
        key: first part of neutral keys, `encoder.3.q`; `module.<path>` for maps no role names.
        role: the role, or the path of the map where it has none.
        path: of the module, from the bare transformer.
        layer: index of its layer in configs, or None outside of layers.
        part: which features of the output are meant, or None for all of them.
        inputs, outputs: sizes; `outputs` is that of the part.
    """

    key: str
    role: str
    path: str
    layer: int | None
    part: slice | list[int] | None
    inputs: int
    outputs: int

    @property
    def rows(self) -> slice | list[int]:
        """The features of the output that are meant, which are rows of the weight [out, in], as an index."""
        return slice(None) if self.part is None else self.part


class LinearSite(HookedSite):
    """The output of a linear map [..., out] beside its input [..., in]."""

    def __init__(
        self, pool: Pool, index: int, place: LinearPlace, modules: dict[str, nn.Module], host: nn.Module
    ) -> None:
        super().__init__(pool, index, place.key, host, place.role.replace(".", "_"))
        self.place = place
        self.layer = place.layer
        self.linear = modules[place.path]
        self.arranged = arrangement(pool.layout, place.path, modules)

    def leaf(self, module: nn.Module) -> Operation:
        return AtLinear(module)

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.linear.register_forward_hook(partial(_adapt_output, self))
        if self.arranged is not None:
            yield from self.arranged.hooks()


class LinearInputSite(LinearSite):
    """The input of a linear map [..., in]."""

    def __init__(
        self, pool: Pool, index: int, place: LinearPlace, modules: dict[str, nn.Module], host: nn.Module
    ) -> None:
        super().__init__(pool, index, place, modules, host)
        self.key = f"{place.key}_input"
        self.attributes = {role: f"{name}_input" for role, name in self.attributes.items()}

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.linear.register_forward_pre_hook(partial(_adapt_input, self))
        if self.arranged is not None:
            yield from self.arranged.hooks()


class AtLinear(Operation):
    """One adapter module at a linear map: (output, input) → output."""

    needs_residual = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        found: Tensor = self.module.forward(value, beside)
        return found


def _adapt_output(site: LinearSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    operation = site.operation()
    if operation is None:
        return None
    value = output if isinstance(output, Tensor) else output[0]
    part = site.place.part
    if part is None:
        changed = _run(site, operation, value, args[0])
    else:
        changed = _run(site, operation, value[..., part], args[0])
        if isinstance(part, slice):
            changed = torch.cat((value[..., : part.start], changed, value[..., part.stop :]), -1)
        else:
            changed = value.index_copy(-1, torch.tensor(part, device=value.device), changed)
    return changed if isinstance(output, Tensor) else (changed, *output[1:])


def _adapt_input(site: LinearInputSite, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    operation = site.operation()
    return None if operation is None else (_run(site, operation, args[0], args[0]), *args[1:])


def _run(site: LinearSite, operation: Operation, value: Tensor, beside: Tensor) -> Tensor:
    if site.arranged is None:
        return operation(value, beside)
    return site.arranged.back(operation(site.arranged.turned(value), site.arranged.turned(beside)), value)


def linear_sizes(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear map: `nn.Linear` and its quantised kin, or the transposed Conv1D of GPT-2."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inputs, int) and isinstance(outputs, int):
        return inputs, outputs
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2:
        return weight.shape[0], weight.shape[1]
    return None


def linear_sites(
    pool: Pool, roles: Sequence[str], targets: Sequence[str] | None, *, on_input: bool
) -> list[LinearSite]:
    """The sites of `Pool.linear_sites`, made on first use."""
    modules = pool.own_modules()
    places = list(_places(pool, modules))
    if targets is None:
        wanted = [place for place in places if place.role in roles]
    else:
        places += _others(modules, {place.path for place in places})
        wanted = [place for place in places if any(_fits(place, target) for target in targets)]
        for target in targets:
            if not any(_fits(place, target) for place in wanted):
                raise InvalidConfigError(
                    f"No linear map of this model fits the target {target!r}.",
                    hint=f"Roles here: {', '.join(sorted({place.role for place in places if place.layer is not None}))}; "
                    "or give the end of a module path.",
                )
    kind = LinearInputSite if on_input else LinearSite
    ending = "_input" if on_input else ""
    missing = [place for place in wanted if place.key + ending not in pool.by_key]

    def make(first: int) -> Iterator[LinearSite]:
        hosts = {layer.key: layer.path for layer in pool.layout.layers}
        for index, place in enumerate(missing, first):
            host = pool.base_model if place.layer is None else modules[hosts[place.key.rpartition(".")[0]]]
            yield kind(pool, index, place, modules, host)

    pool.grow(make)
    found = [pool.by_key[place.key + ending] for place in wanted]
    return [site for site in found if isinstance(site, LinearSite)]


def _fits(place: LinearPlace, target: str) -> bool:
    return target == place.role or f".{place.path}".endswith(f".{target}")


def _others(modules: dict[str, nn.Module], known: set[str]) -> Iterator[LinearPlace]:
    """Linear maps no role names."""
    for path, module in modules.items():
        sizes = linear_sizes(module)
        if sizes is not None and path not in known:
            yield LinearPlace(f"module.{path}", path, path, None, None, *sizes)


def linear_places(pool: Pool) -> list[LinearPlace]:
    """Every linear map the family names, fused ones taken apart, in the order of the layers."""
    return list(_places(pool, pool.own_modules()))


def _places(pool: Pool, modules: dict[str, nn.Module]) -> Iterator[LinearPlace]:
    """Every linear map the family names, fused ones taken apart, in the order of the layers."""
    config = pool.base_model.config
    for layer in pool.layout.layers:
        for role, name in layer.linears.items():
            path = f"{layer.path}.{name}"
            sizes = linear_sizes(modules[path])
            if sizes is None:
                continue
            stretches = _stretches(role, sizes[1], config)
            if stretches is None:
                yield LinearPlace(f"{layer.key}.{role}", role, path, layer.index, None, *sizes)
            for part, rows in stretches or ():
                count = len(range(sizes[1])[rows]) if isinstance(rows, slice) else len(rows)
                yield LinearPlace(f"{layer.key}.{part}", part, path, layer.index, rows, sizes[0], count)


def _stretches(role: str, outputs: int, config: Any) -> list[tuple[str, slice | list[int]]] | None:
    parts = _FUSED.get(role)
    if parts is None:
        return None
    if role == "qkv_by_head":
        return _by_head(outputs, config)
    if "q" in role and len(parts) == 3:
        heads = getattr(config, "num_attention_heads", 1)
        grouped = _grouped(config) or heads
        unit, rest = divmod(outputs, heads + 2 * grouped)
        sizes = [heads * unit, grouped * unit, grouped * unit]
    else:
        unit, rest = divmod(outputs, len(parts))
        sizes = [unit] * len(parts)
    if rest:
        raise InvalidConfigError(f"A fused map with {outputs} outputs cannot be cut into {', '.join(parts)}.")
    found: list[tuple[str, slice | list[int]]] = []
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        found.append((part, slice(start, start + size)))
        start += size
    return found


def _grouped(config: Any) -> int | None:
    """The number of heads of keys and values, where the config says it."""
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    found = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None)
    return found if isinstance(found, int) else None


def _by_head(outputs: int, config: Any) -> list[tuple[str, slice | list[int]]]:
    """Group by group, the queries of its heads, its key and its value (GPT-NeoX, BLOOM, Falcon)."""
    heads = int(config.num_attention_heads)
    groups = _grouped(config) or heads
    each = heads // groups
    unit, rest = divmod(outputs, groups * (each + 2))
    if rest:
        raise InvalidConfigError(f"A fused map with {outputs} outputs cannot be cut into q, k, v of {heads} heads.")
    rows = torch.arange(outputs).view(groups, each + 2, unit)
    parts = {"q": rows[:, :each], "k": rows[:, each], "v": rows[:, each + 1]}
    return [(name, part.flatten().tolist()) for name, part in parts.items()]
