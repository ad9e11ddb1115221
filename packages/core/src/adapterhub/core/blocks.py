"""Compositions as operations: what a setup does at one site, by the kind of the site."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from torch import nn

from adapterhub.core.fusing import fusing
from adapterhub.core.mixed.bottlenecks import mixed_rows
from adapterhub.core.mixed.embeddings import mixed_embeddings
from adapterhub.core.mixed.layers import mixed_layers
from adapterhub.core.mixed.linears import mixed_linears
from adapterhub.core.mixed.prefixes import mixed_prefixes
from adapterhub.core.mixed.prompts import mixed_prompts
from adapterhub.core.operations import Chain, Chunks, Mean, Operation
from adapterhub.core.rows import Rows
from adapterhub.core.sites import EmbeddingSite, HookedSite, SublayerSite
from adapterhub.core.sublayers import AtSublayer
from adapterhub.spec.composition import Average, BatchSplit, Composition, Fuse, Parallel, Split, Stack
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["build", "leaf"]


def build(setup: Composition | Rows | str | None, site: HookedSite, *, expand: bool = False) -> Operation | None:
    """The operation of a setup at a site, or None where none of its adapters has a module.

    Args:
        expand: whether a batch that is a multiple of the rows planned for repeats each row.

    Raises:
        InvalidConfigError: adapters are fused that are no bottlenecks.
    """
    if isinstance(site, EmbeddingSite):  # one invertible adapter acts, that of the first adapter (of each row's)
        setup = _first(setup)
    if setup is None:
        return None
    if isinstance(setup, str):
        module = site.find(setup)
        return None if module is None else leaf(module, site)
    if isinstance(setup, Rows):
        runs = [(name, len(list(run))) for name, run in groupby(setup.names)]
        return _runs([name for name, _ in runs], [count for _, count in runs], site, expand=expand)
    if isinstance(setup, Fuse):
        return _fused(setup, site)
    if isinstance(setup, BatchSplit | Parallel) and all(isinstance(child, str) for child in setup.children):
        counts = setup.batch_sizes if isinstance(setup, BatchSplit) else None
        return _runs([str(child) for child in setup.children], counts, site, expand=expand)
    parts = [build(child, site, expand=expand) for child in setup.children]
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if isinstance(setup, Stack):
        return present[0] if len(present) == 1 else Chain(present)
    if isinstance(setup, Average):
        return Mean(parts, setup.shares())
    if isinstance(setup, Split):
        return Chunks(parts, setup.splits, 1)
    if isinstance(setup, BatchSplit):
        return Chunks(parts, setup.batch_sizes, 0, expand=expand)
    assert isinstance(setup, Parallel)
    return Chunks(parts, None, 0)


def leaf(module: nn.Module, site: HookedSite) -> Operation:
    """What one adapter module does at a site."""
    if isinstance(site, SublayerSite):
        return AtSublayer(module, site.norm, alone=site.alone)
    return site.leaf(module)


def _runs(
    names: Sequence[str | Composition | None], counts: Sequence[int] | None, site: HookedSite, *, expand: bool
) -> Operation | None:
    """Consecutive rows of the batch, each run through one adapter or composition; `counts=None` for equal parts."""
    if not any(isinstance(name, Composition) for name in names):
        modules: list[Any] = [None if name is None else site.find(str(name)) for name in names]
        if isinstance(site, SublayerSite):
            return mixed_rows(modules, counts, site.norm, expand=expand, alone=site.alone)
        if all(module is None for module in modules):
            return None
        for together in (mixed_linears, mixed_prefixes, mixed_layers, mixed_embeddings, mixed_prompts):
            operation = together(modules, counts, expand=expand)
            if operation is not None:
                return operation
    parts = [build(name, site, expand=expand) for name in names]
    return None if all(part is None for part in parts) else Chunks(parts, counts, 0, expand=expand)


def _fused(block: Fuse, site: HookedSite) -> Operation | None:
    """Attention over several adapters; only sublayers have it."""
    if not isinstance(site, SublayerSite):
        if not any(site.find(name) for name in block.names()):  # others than the fused ones act here
            return None
        raise InvalidConfigError(f"Fuse works on bottleneck adapters; {block!r} holds others.")
    layer = site.find(site.pool.fusion_of(block).name, "fusion")
    return None if layer is None else fusing(block, layer, site)


def _first(setup: Any) -> Any:
    """The setup with every composition of adapters in one row cut down to the first of them."""
    if isinstance(setup, Rows):
        return Rows([_first(name) for name in setup.names])
    if isinstance(setup, BatchSplit):
        return BatchSplit(*[_first(child) for child in setup.children], batch_sizes=setup.batch_sizes)
    if isinstance(setup, Parallel):
        return Parallel(*[_first(child) for child in setup.children])
    return _first(setup.children[0]) if isinstance(setup, Composition) else setup
