"""The frozen-prefix cache: what lies below the first layer that trains is computed once for every example.

Nothing below that layer changes during training, so the hidden states that enter it can be kept. The first epoch runs as
always and fills the cache; later ones start at that layer. An example is recognised by its own inputs (tokens, not labels),
so shuffling, other batches and other padding do not matter. Dropout below that layer is off while the cache is in place: with
it on, the hidden states would differ from epoch to epoch. Losses are those of training with that dropout off and no cache.

Where all that trains in that layer is an adapter on the sum its last norm is given, the layer up to that norm is frozen as well: what
is kept is the sum, and later epochs start at the norm.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.pool import Pool, pool_of
from adapterhub.core.sites import SublayerSite
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["PrefixCache", "cached_prefix", "frozen_layers", "modules_below"]

#: Inputs that are no part of what goes through the layers.
_NOT_INPUTS = frozenset({"labels", "start_positions", "end_positions", "return_dict", "output_attentions"})


def frozen_layers(model: nn.Module) -> int:
    """How many of the first layers of the first tower have nothing in or below them that trains; at most all but one."""
    pool = pool_of(model)
    tower = pool.layout.layers[0].tower
    layers = [pool.base_model.get_submodule(layer.path) for layer in pool.layout.layers if layer.tower == tower]
    inside = {id(p) for layer in pool.layout.layers for p in pool.base_model.get_submodule(layer.path).parameters()}
    learning = {id(p) for p in pool.base_model.parameters() if p.requires_grad}
    outside = [
        name for name, p in pool.base_model.named_parameters() if id(p) in learning - inside and "pooler" not in name
    ]
    if outside:  # embeddings, prompts, invertible blocks, what all layers share
        return 0
    for number, layer in enumerate(layers):
        if any(id(p) in learning for p in layer.parameters()):
            return min(number, len(layers) - 1)
    return len(layers) - 1


def modules_below(model: nn.Module, depth: int) -> list[nn.Module]:
    """Every module of the bare transformer that is not in an upper layer of its first tower, nor in another tower: those
    whose dropout has to be off for the hidden states that enter layer `depth` to be the same in every epoch."""
    pool = pool_of(model)
    first = pool.layout.layers[0].tower
    upper = [layer.path for layer in pool.layout.layers if layer.tower == first][depth:]
    others = {layer.path.split(".")[0] for layer in pool.layout.layers if layer.tower != first}
    others -= {layer.path.split(".")[0] for layer in pool.layout.layers if layer.tower == first}
    fronts = (*upper, *others)
    return [
        module
        for name, module in pool.base_model.named_modules()
        if not any(name == front or name.startswith(f"{front}.") for front in fronts)
    ]


def _last_sum(pool: Pool, layer: nn.Module, number: int) -> SublayerSite | None:
    """The last sublayer of a layer, if nothing else in the layer trains or has an adapter, and its adapter takes the sum."""
    within = [site for site in pool.plan.sites if site.layer == number]
    sublayers = [site for site in pool.sites if isinstance(site, SublayerSite) and site.layer == number]
    if len(within) != 1 or within[0] is not sublayers[-1]:
        return None
    site = sublayers[-1]
    operation = pool.plan.operations[site.index]
    if operation is None or not site.by_sum(operation):
        return None
    own = {id(p) for name in site.attributes.values() for p in _parameters(site.host._modules.get(name))}
    return None if any(p.requires_grad and id(p) not in own for p in layer.parameters()) else site


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())


class PrefixCache:
    """Context manager around training: `with PrefixCache(model): trainer.train()`.

    Args:
        model: after `train_adapter`; what trains must not change while the cache is in place.
        max_bytes: what may be kept; examples beyond are computed every time.
        folder: keep hidden states in one memory-mapped file there (removed at the end) instead of in memory.

    Attributes:
        depth: number of layers skipped for a known example.
        hits, misses: batches that started at layer `depth`, and batches that ran in full.

    Raises:
        InvalidConfigError: something trains below the first layer, so there is nothing to keep.
    """

    def __init__(
        self, model: nn.Module, *, max_bytes: int = 4 * 2**30, folder: str | os.PathLike[str] | None = None
    ) -> None:
        pool = pool_of(model)
        self.base = pool.base_model
        self.depth = frozen_layers(model)
        if self.depth == 0:
            raise InvalidConfigError(
                "Something in or below the first layer trains, so no part of the model can be kept.",
                hint="Leave lower layers out of the adapter: leave_out=[0, 1, …].",
            )
        tower = pool.layout.layers[0].tower
        paths = [layer.path for layer in pool.layout.layers if layer.tower == tower]
        self.layers = [self.base.get_submodule(path) for path in paths[: self.depth + 1]]
        self.below = modules_below(model, self.depth)
        number = next(layer.index for layer in pool.layout.layers if layer.tower == tower) + self.depth
        #: where known examples start in layer `depth`: at the norm of this sublayer, or for None where the layer begins
        self.site = _last_sum(pool, self.layers[-1], number)
        if self.site is not None:
            self.below += [part for name, part in self.layers[-1].named_modules() if not name.startswith("adapterhub_")]
            self._operation = pool.plan.operations[self.site.index]
        self.store: _Memory | _File = _Memory(max_bytes) if folder is None else _File(Path(folder), max_bytes)
        self.hits = self.misses = 0
        self._state = threading.local()
        self._tuples: dict[int, int] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def bytes(self) -> int:
        """What is kept."""
        return self.store.used

    def __enter__(self) -> PrefixCache:
        self._handles = [
            self.base.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            self.base.register_forward_hook(self._after, always_call=True),
            self.layers[self.depth].register_forward_pre_hook(self._enter_layer, with_kwargs=True, prepend=True),
        ]
        for number, layer in enumerate(self.layers[: self.depth]):
            layer.forward = partial(self._skip, number, layer.forward)
        if self.site is not None and self.site.norm is not None:
            self._handles += [
                self.site.norm.register_forward_pre_hook(self._see_sum, prepend=True),
                self.site.norm.register_forward_hook(self._see_normed),
            ]
            self.layers[-1].forward = partial(self._from_sum, self.layers[-1].forward)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        for layer in self.layers:
            layer.__dict__.pop("forward", None)
        self.store.close()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for lower in self.below:
            lower.training = False
        self._state.rows = None
        self._state.sum = self._state.normed = None
        other = self.site is not None and self.site.operation() is not self._operation
        # what gradient checkpointing computes again in the backward pass would no longer find the rows
        first = self.layers[-1]
        other |= bool(first.training and getattr(first, "gradient_checkpointing", False))
        if kwargs.get("output_hidden_states") or kwargs.get("output_attentions") or other:
            self.misses += 1
            return
        named: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        keys, masks = _keys(named)
        if keys is None:
            self.misses += 1
            return
        found = [self.store.get(key) for key in keys]
        complete = all(value is not None for value in found)
        self.hits, self.misses = self.hits + complete, self.misses + (not complete)
        self._state.rows = (keys, masks, found if complete else None)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._state.rows = None

    def _skip(self, number: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        rows = getattr(self._state, "rows", None)
        if rows is None or rows[2] is None:
            output = forward(*args, **kwargs)
            self._tuples[number] = len(output) if isinstance(output, tuple) else 0
            return output
        hidden = args[0] if args else kwargs["hidden_states"]
        length = self._tuples.get(number, 0)
        return (hidden, *[None] * (length - 1)) if length else hidden

    def _enter_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rows = getattr(self._state, "rows", None)
        if rows is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if rows[2] is None:
            if self.site is None:
                self._keep(hidden)
            return None
        kept = self._found(hidden)
        return ((kept, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": kept})

    def _see_sum(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if getattr(self._state, "rows", None) is not None:
            self._state.sum = args[0] if args else None

    def _see_normed(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if getattr(self._state, "rows", None) is not None:
            self._state.normed = output

    def _from_sum(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The layer where the first adapter is: all of it, or for known examples its last norm alone."""
        rows = getattr(self._state, "rows", None)
        if rows is not None and rows[2] is not None and self.site is not None:
            assert self.site.norm is not None
            normed = self.site.norm(args[0] if args else kwargs["hidden_states"])
            length = self._tuples.get(self.depth, 0)
            return (normed, *[None] * (length - 1)) if length else normed
        output = forward(*args, **kwargs)
        if rows is not None and self.site is not None:
            first = output[0] if isinstance(output, tuple) else output
            self._tuples[self.depth] = len(output) if isinstance(output, tuple) else 0
            seen = self._state.sum
            if seen is not None and first is self._state.normed and seen.shape == first.shape:
                self._keep(seen)
            else:  # this layer does more after its last norm: start where it begins
                self.site = None
        return output

    def _keep(self, hidden: Tensor) -> None:
        keys, masks, _ = self._state.rows
        for number, key in enumerate(keys):
            value = hidden[number].detach()
            self.store.put(key, value if masks is None else value[masks[number]])

    def _found(self, hidden: Tensor) -> Tensor:
        _, masks, found = self._state.rows
        kept = torch.zeros_like(hidden)
        for number, value in enumerate(found):
            row = value.to(device=hidden.device, dtype=hidden.dtype)
            if masks is None:
                kept[number] = row
            else:
                kept[number, masks[number]] = row
        return kept


def cached_prefix(
    model: nn.Module, wanted: bool | str | os.PathLike[str]
) -> contextlib.AbstractContextManager[PrefixCache | None]:
    """The cache as an option: nothing for False, in memory for True, in a file for a folder."""
    if wanted is False:
        return contextlib.nullcontext()
    return PrefixCache(model, folder=None if wanted is True else wanted)


class _Memory:
    """Hidden states in memory, where the model is."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.used = max_bytes, 0
        self.kept: dict[bytes, Tensor] = {}

    def get(self, key: bytes) -> Tensor | None:
        return self.kept.get(key)

    def put(self, key: bytes, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if key not in self.kept and self.used + size <= self.max_bytes:
            self.kept[key] = value.clone()
            self.used += size

    def close(self) -> None:
        self.kept.clear()
        self.used = 0


class _File:
    """Hidden states in one memory-mapped file of at most `max_bytes`; the index is in memory."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"prefix-{os.getpid()}-{id(self):x}.bin"
        self.max_bytes, self.used = max_bytes, 0
        self.file = self.path.open("w+b")
        self.file.truncate(max_bytes)  # sparse: takes room only as it is written
        self.map = mmap.mmap(self.file.fileno(), max_bytes)
        self.kept: dict[bytes, tuple[int, int, torch.dtype, tuple[int, ...]]] = {}

    def get(self, key: bytes) -> Tensor | None:
        found = self.kept.get(key)
        if found is None:
            return None
        start, size, dtype, shape = found
        raw = torch.frombuffer(bytearray(self.map[start : start + size]), dtype=torch.uint8)
        return raw.view(dtype).view(shape)

    def put(self, key: bytes, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if key in self.kept or self.used + size > self.max_bytes:
            return
        self.map[self.used : self.used + size] = _bytes(value)
        self.kept[key] = (self.used, size, value.dtype, tuple(value.shape))
        self.used += size

    def close(self) -> None:
        self.kept.clear()
        self.used = 0
        self.map.close()
        self.file.close()
        self.path.unlink(missing_ok=True)


def _keys(named: Mapping[Any, Any]) -> tuple[list[bytes] | None, Tensor | None]:
    """One key for each row of the batch, and which tokens of each are no padding [B, T]; None where rows cannot be told."""
    tensors = {
        str(name): value
        for name, value in named.items()
        if isinstance(value, Tensor) and value.dim() >= 2 and name not in _NOT_INPUTS
    }
    if not tensors:
        return None, None
    mask = tensors.get("attention_mask")
    if mask is not None and mask.dim() != 2:
        return None, None
    rows = {value.shape[0] for value in tensors.values()}
    if len(rows) != 1:
        return None, None
    there = None if mask is None else mask.bool()
    lengths = None if there is None else there.shape[1]
    parts = {name: value.cpu() for name, value in tensors.items() if name != "attention_mask"}
    inside = None if there is None else there.cpu()
    keys = []
    for number in range(next(iter(rows))):
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(parts.items()):
            row = value[number]
            if inside is not None and row.shape[0] == lengths:
                row = row[inside[number]]
            digest.update(f"{name}{row.dtype}{tuple(row.shape)}".encode())
            digest.update(_bytes(row))
        if inside is not None:  # where the text begins: models count positions from the left
            digest.update(int(inside[number].int().argmax()).to_bytes(8))
        keys.append(digest.digest())
    return keys, there


def _bytes(value: Tensor) -> bytes:
    return bytes(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
