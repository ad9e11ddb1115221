"""Parallel (Rücklé et al., 2021, AdapterDrop): the batch is repeated, once for each child, at the first place an adapter acts.

Up to that place all children compute the same, so it runs once. Where a family says which arguments of its layers have one entry
a row, the batch is repeated there; elsewhere, and where something needs the inputs afterwards, it is repeated before the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.packed import only_unpacked
from adapterhub.core.sites import SublayerSite
from adapterhub.spec.errors import AdapterHubError

if TYPE_CHECKING:
    from adapterhub.core.plan import Plan
    from adapterhub.core.pool import Pool

__all__ = ["repeated_inputs", "repeating"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Again = Callable[[Any], Any]


def repeated_inputs(copies: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """The inputs with the batch `copies` times, one after the other."""
    rows = _rows(args, kwargs)
    again = partial(_again, copies=copies, rows=rows)
    return tuple(again(value) for value in args), {name: again(value) for name, value in kwargs.items()}


@contextmanager
def repeating(pool: Pool, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Arguments]:
    """The inputs to call the model with, and around that call the hooks that repeat the batch inside of it."""
    first = _first_place(pool, plan)
    if first is None:
        yield repeated_inputs(plan.copies, args, kwargs)
        return
    rows = _rows(args, kwargs)
    again = partial(_again, copies=plan.copies, rows=rows)
    inside = inspect.signature(pool.base_model.forward).parameters
    outer = {name: value if name in inside else again(value) for name, value in kwargs.items()}  # labels and the like
    handles = list(_hooks(pool, first, partial(_again, copies=plan.copies, rows=rows, thread=get_ident())))
    try:
        yield args, outer
    finally:
        for handle in handles:
            handle.remove()


def _rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    rows = next((v.shape[0] for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 0), None)
    if rows is None:
        raise AdapterHubError("A Parallel setup needs at least one tensor among the inputs.")
    return int(rows)


def _again(value: Any, *, copies: int, rows: int, thread: int | None = None) -> Any:
    """`value` with its rows `copies` times; left as it is in another thread than `thread`."""
    if thread is not None and thread != get_ident():
        return value
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
        return value.repeat(copies, *[1] * (value.dim() - 1))
    if isinstance(value, tuple | list) and value and all(isinstance(item, Tensor) for item in value):
        return type(value)(_again(item, copies=copies, rows=rows, thread=thread) for item in value)
    return value


def _first_place(pool: Pool, plan: Plan) -> SublayerSite | None:
    """The first sublayer with an adapter, if the batch may be repeated there."""
    sites = [site for site in plan.sites if isinstance(site, SublayerSite)]
    model = pool.model
    if (
        torch.compiler.is_compiling()
        or len(sites) != len(plan.sites)
        or not sites
        or isinstance(getattr(model, "heads", None), nn.ModuleDict)
        or _recomputes(model)
        or getattr(pool.base_model.config, "is_decoder", False)
        or len({layer.tower for layer in pool.layout.layers}) > 1
    ):
        return None
    first = min(sites, key=lambda site: site.index)
    place = first.place
    # the sum must be formed inside the module that is given the residual, which is where it can be repeated
    inner = place.norm is not None and place.norm.startswith(f"{place.residual}.")
    return first if place.layer.row_arguments is not None and inner else None


def _recomputes(model: nn.Module) -> bool:
    """Whether a part of the model is under gradient checkpointing."""
    with only_unpacked():
        return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _hooks(pool: Pool, first: SublayerSite, again: Again) -> Iterator[RemovableHandle]:
    yield first.residual.register_forward_pre_hook(
        partial(_repeat_residual, first, again), with_kwargs=True, prepend=True
    )
    yield first.output.register_forward_hook(partial(_repeat_output, again), prepend=True)
    for layer in pool.layout.layers:
        if layer.index > first.place.layer.index:
            module = pool.base_model.get_submodule(layer.path)
            names = list(inspect.signature(module.forward).parameters)
            wanted = frozenset(layer.row_arguments or ())
            yield module.register_forward_pre_hook(
                partial(_repeat_arguments, names, wanted, again), with_kwargs=True, prepend=True
            )


def _repeat_residual(
    site: SublayerSite, again: Again, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments:
    position = site.place.argument
    if -len(args) <= position < len(args):
        position %= len(args)
        return (*args[:position], again(args[position]), *args[position + 1 :]), kwargs
    name = site.place.keyword
    return args, {**kwargs, name: again(kwargs[name])}


def _repeat_output(again: Again, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return again(output) if isinstance(output, Tensor) else (again(output[0]), *output[1:])


def _repeat_arguments(
    names: list[str],
    wanted: frozenset[str],
    again: Again,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Arguments:
    given = tuple(again(value) if name in wanted else value for name, value in zip(names, args, strict=False))
    return given, {name: again(value) if name in wanted else value for name, value in kwargs.items()}
