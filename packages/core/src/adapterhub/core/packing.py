"""Packing adapters of many small tensors that nobody uses, and unpacking them (see `packed`).

An adapter is packed when it is added, and unpacked when somebody looks for its modules. Unpacked ones that nobody holds any
longer are packed again, one at a time, whenever an adapter is added or a setup is compiled. "Nobody" is meant strictly: one
reference to a module, a parameter or its memory from anywhere (a plan, an optimiser, a graph, a view), one hook, gradient or
attribute that was not there when it was built, and the adapter stays as it is.
"""

from __future__ import annotations

import hashlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from adapterhub.core.methods import place
from adapterhub.core.methods.parameters import Given, Shapes
from adapterhub.core.packed import Form, Packed

if TYPE_CHECKING:
    from adapterhub.core.held import Adapter
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["move", "pack", "pack_as_it_comes", "tidy", "unpack"]

#: mean bytes of the tensors of an adapter from which on what torch adds to each is less than a tenth of it
LARGE = 10_000
#: how many adapters are looked at whenever one is added or a setup compiled
AT_ONCE = 1
#: of how many configs the form is kept
_FORMS = 64
#: whether this Python counts references as they come and go, and this torch tells of its own
_SEES_REFERENCES = (
    getattr(sys, "_is_gil_enabled", lambda: True)()
    and sys.implementation.name == "cpython"
    and hasattr(Tensor, "_use_count")
    and hasattr(torch._C, "_storage_Use_Count")
)


def _form(modules: dict[str, nn.Module]) -> Form | None:
    """Which tensors these modules have, if they are so small that packing them pays; None for others, and where the tensors
    are not of one kind and on one device or there are buffers."""
    leaves, learns, kinds, size = [], [], set(), 0
    for key, module in modules.items():
        for leaf, parameter in module.named_parameters():
            leaves.append((key, leaf, tuple(parameter.shape)))
            learns.append(parameter.requires_grad)
            kinds.add((type(parameter), parameter.dtype, parameter.device, parameter.layout))
            size += parameter.numel() * parameter.element_size()
        if any(part._buffers for part in module.modules()):
            return None
    if len(kinds) != 1 or size >= LARGE * len(leaves):
        return None
    kind, dtype, device, layout = kinds.pop()
    plain = kind is nn.Parameter and dtype.is_floating_point and layout is torch.strided and device.type != "meta"
    return Form(tuple(modules), tuple(leaves), tuple(learns)).known() if plain else None


def pack(pool: Pool, adapter: Adapter) -> None:
    """Pack a new adapter, whose modules nobody else holds, if that pays."""
    first = next((parameter for module in adapter.placed.values() for parameter in module.parameters()), None)
    if first is None or _known_form(pool, adapter, first.dtype) is False:
        return
    form = _form(adapter.placed)
    while len(pool.forms) >= _FORMS:
        pool.forms.pop(next(iter(pool.forms)))
    pool.forms[id(adapter.config), first.dtype] = adapter.config, form or False
    if form is not None:
        adapter.packed = Packed(pool, adapter, form, _flat(adapter.placed))
        adapter.placed = {}


def pack_as_it_comes(pool: Pool, adapter: Adapter, tensors: Mapping[str, Tensor]) -> bool:
    """Pack a new adapter with the tensors of a checkpoint, without modules on the way. False, and nothing is done, unless one of
    the same config was packed here before and the tensors are just those it had."""
    kinds = {value.dtype for value in tensors.values()}
    form = _known_form(pool, adapter, kinds.pop()) if len(kinds) == 1 else None
    if not form or len(tensors) != len(form.leaves):
        return False
    found = [tensors.get(f"{key}.{leaf}") for key, leaf, _ in form.leaves]
    places = {pool.by_key[key].home()[0] for key in form.sites}
    fits = all(
        value is not None and value.shape == shape for value, (_, _, shape) in zip(found, form.leaves, strict=True)
    )
    if not fits or len(places) != 1:
        return False
    with torch.inference_mode(False), torch.no_grad():
        flat = torch.cat([value.reshape(-1) for value in found if value is not None]).to(places.pop())
    adapter.packed = Packed(pool, adapter, form, flat)
    return True


def _known_form(pool: Pool, adapter: Adapter, dtype: torch.dtype) -> Form | Literal[False] | None:
    """The form of adapters of this config and type as they were added before; False if they are not packed."""
    config, form = pool.forms.get((id(adapter.config), dtype), (None, None))
    return form if config is adapter.config else None


def _flat(modules: dict[str, nn.Module]) -> Tensor:
    """All parameters after one another."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([p.detach().reshape(-1) for module in modules.values() for p in module.parameters()])


def unpack(note: Packed) -> None:
    """Build the modules of a packed adapter and put them where its notes are."""
    pool, adapter = note.pool, note.adapter
    if adapter.packed is not note:
        return
    with torch.inference_mode(False), torch.no_grad():
        adapter.placed = _built(note)
        adapter.watch = _references(adapter.placed), _watch(adapter.placed)
    for key, module in adapter.placed.items():
        site = pool.by_key[key]
        if site.note(adapter.name) is note:  # else the adapter was replaced or deleted meanwhile
            site.put(adapter.name, module)
    adapter.packed = None
    pool.unpacked.append(adapter.name)


def _built(note: Packed) -> dict[str, nn.Module]:
    assert note.flat is not None
    tensors = {key: value.clone() for key, value in note.tensors().items()}
    device, missing = note.flat.device, list[str]()

    def given(site: Site) -> Given:
        return Given(tensors, f"{site.key}.", device, None, Shapes(), set(), missing)

    modules = {site.key: module for site, module in place(note.adapter.config, note.pool, given)}
    assert not missing, missing
    learns = iter(note.form.learns)
    for module in modules.values():
        for parameter in module.parameters():
            parameter.requires_grad_(next(learns))
    return modules


def tidy(pool: Pool) -> None:
    """Pack some of the unpacked adapters, those unpacked first, if nobody holds them."""
    if torch.compiler.is_compiling() or not _SEES_REFERENCES:
        return
    for _ in range(min(AT_ONCE, len(pool.unpacked))):
        name = pool.unpacked.popleft()
        adapter = pool.adapters.get(name)
        if adapter is not None and adapter.watch is not None and not _packed_again(pool, adapter):
            pool.unpacked.append(name)


def _packed_again(pool: Pool, adapter: Adapter) -> bool:
    """Whether an unpacked adapter could be packed. The notes are put down first: who comes now waits for the pool's lock."""
    assert adapter.watch is not None
    if _references(adapter.placed) > adapter.watch[0] + len(adapter.placed):  # the containers hold each once
        return False
    form = _form(adapter.placed)
    if form is None or not _in_one_mode(pool, adapter):
        return False
    adapter.packed = note = Packed(pool, adapter, form)
    try:
        for key in adapter.placed:
            pool.by_key[key].put(adapter.name, note)
        if _watch(adapter.placed) == adapter.watch[1]:
            note.flat = _flat(adapter.placed)
            adapter.placed, adapter.watch = {}, None
    finally:
        for key, module in adapter.placed.items():
            pool.by_key[key].put(adapter.name, module)
        if note.flat is None:
            adapter.packed = None
    return note.flat is not None


def _in_one_mode(pool: Pool, adapter: Adapter) -> bool:
    """Whether all modules are in the mode (training or not) of the model around them."""
    return all(
        part.training == pool.by_key[key].host.training
        for key, module in adapter.placed.items()
        for part in module.modules()
    )


def _references(modules: dict[str, nn.Module]) -> int:
    """How many references there are to the modules themselves, without those of values they keep: a quick look at what plans
    hold. What modules share is held by values of all of them, and left out."""
    return sum(
        sys.getrefcount(module) - 2 * ("_kept" in module.__dict__) for key, module in modules.items() if key != "shared"
    )


def _watch(modules: dict[str, nn.Module]) -> str:
    """A digest that changes when somebody else holds one of these modules or what belongs to it, or has changed it; equal
    for copies. Values kept with the modules are dropped."""
    for module in modules.values():
        for part in module.modules():
            part.__dict__.pop("_kept", None)
    seen: list[Any] = [sys.getrefcount(modules)]
    for module in modules.values():
        for path, part in module.named_modules():
            state = part.__dict__
            seen += (path, sys.getrefcount(part), weakref.getweakrefcount(part), type(part).__qualname__)
            seen += (sys.getrefcount(state), sys.getrefcount(part._parameters), sys.getrefcount(part._modules))
            seen += ((name, _told(value)) for name, value in state.items() if name != "training")
            for leaf, parameter in part._parameters.items():
                seen += (leaf, *([] if parameter is None else _holders(parameter)))
    return hashlib.blake2b(repr(seen).encode(), digest_size=16).hexdigest()


def _told(value: Any) -> Any:
    """What an attribute of a module is, as something to compare: values by themselves, tables by their size, functions and
    modules by name, and what else there may be by its place in memory."""
    if value is None or isinstance(value, bool | int | float | str | frozenset):
        return sorted(value) if isinstance(value, frozenset) else value
    if isinstance(value, dict | set):
        return len(value)
    if isinstance(value, tuple):
        return [_told(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [_told(getattr(value, part.name)) for part in fields(value)]
    name = type(value).__qualname__ if isinstance(value, nn.Module) else getattr(value, "__qualname__", None)
    return name if name and "<" not in name else id(value)


def _holders(parameter: nn.Parameter) -> Iterator[Any]:
    """The shape of a parameter, who holds it, or its memory (in Python, in torch's graphs, as a view), and what is attached
    to it."""
    yield tuple(parameter.shape)
    yield sys.getrefcount(parameter)
    yield weakref.getweakrefcount(parameter)
    yield parameter._use_count()  # type: ignore[attr-defined]
    yield torch._C._storage_Use_Count(parameter.untyped_storage()._cdata)
    yield parameter.grad is None
    yield not parameter._backward_hooks
    yield not parameter._post_accumulate_grad_hooks
    yield len(parameter.__dict__)


def move(pool: Pool, change: Callable[[Tensor], Tensor]) -> None:
    """What `nn.Module._apply` does to parameters (another device, another type), done to packed adapters."""
    notes = [adapter.packed for adapter in pool.adapters.values() if adapter.packed is not None]
    with torch.no_grad():
        moved = [change(note.flat) for note in notes if note.flat is not None]
    for note, flat in zip(notes, moved, strict=True):
        note.flat = flat
