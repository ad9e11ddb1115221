"""The heads of one model: made when first asked for, kept with the model, asked by everything that saves, loads or trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from torch import nn

from adapterhub.core.heads.flexible import FlexibleHeads
from adapterhub.core.heads.segments import head_names, joint_name, segments_of, splits_rows
from adapterhub.core.heads.static import StaticHeads
from adapterhub.core.pool import Pool, pool_of
from adapterhub.core.subclass import stock_class
from adapterhub.spec.composition import BatchSplit, Composition, Parallel, Stack
from adapterhub.spec.heads import HeadConfig

if TYPE_CHECKING:
    from adapterhub.core.formats.checkpoint import HeadCheckpoint

__all__ = ["Heads", "activate_head", "answering", "head_parameters", "heads_of", "release_heads", "train_heads"]

_ATTRIBUTE = "_adapterhub_heads"


class Heads(Protocol):
    """What static and flexible heads have in common. False where the model can have no head."""

    model_class: str
    flexible: bool
    active: str | None

    def __bool__(self) -> bool: ...
    def __contains__(self, name: object) -> bool: ...
    def add(self, name: str) -> None: ...
    def delete(self, name: str) -> None: ...
    def activate(self, name: str | None) -> None: ...
    def trainable(self, name: str | None, flag: bool = True) -> None: ...
    def save(self, name: str) -> HeadCheckpoint | None: ...
    def load(self, name: str, head: HeadCheckpoint, strict: bool = True) -> list[str]: ...
    def names(self) -> list[str]: ...
    def parameters(self, name: str | None) -> dict[str, nn.Parameter]: ...
    def config_of(self, name: str) -> HeadConfig: ...
    def detach(self) -> None: ...


def heads_of(model: nn.Module) -> Heads:
    """The heads of a model that went through `init`."""
    pool = pool_of(model)
    model = pool.model
    found: Heads | None = model.__dict__.get(_ATTRIBUTE)
    if found is None and isinstance(getattr(model, "heads", None), nn.ModuleDict):
        found = model.__dict__[_ATTRIBUTE] = FlexibleHeads(model)
    if found is None:
        heads = StaticHeads(model, stock_class(model).__name__, pool.base_model)
        heads.segments = partial(segments_of, pool, heads)
        found = heads
        model.__dict__[_ATTRIBUTE] = found
    return found


def activate_head(pool: Pool) -> None:
    """Puts the head that goes with the active setup in place: that of the last adapter of a Stack, of the fusion, … or the
    model's own. Nothing happens where no head was ever made."""
    heads: Heads | None = pool.model.__dict__.get(_ATTRIBUTE)
    if heads is None:
        return
    setup = pool.plan.setup
    found = head_names(setup, heads.names(), 1) if isinstance(setup, Composition) and not splits_rows(setup) else None
    name = found[0][0] if found else None
    if name is not None or not heads.flexible:
        heads.activate(name)


def train_heads(pool: Pool, setup: Composition, names: Iterable[str] | None = None) -> None:
    """Gives the adapters that answer for `setup` a head of their own where they have none, and lets those heads train.

    Args:
        names: train these heads instead.
    """
    heads = heads_of(pool.model)
    if not heads:
        return
    wanted = list(answering(setup) if names is None else names)
    for name in wanted:
        if name not in heads:
            heads.add(name)
    activate_head(pool)
    for name in wanted:
        if name in heads:
            heads.trainable(name)


def head_parameters(pool: Pool) -> Iterator[nn.Parameter]:
    """Every parameter of every head of the model, its own included."""
    heads = heads_of(pool.model)
    for name in (None, *heads.names()):
        yield from heads.parameters(name).values()


def answering(setup: Composition | str) -> list[str]:
    """The names under which the heads of a setup are kept: the last of a Stack, each child of Parallel and BatchSplit."""
    if isinstance(setup, Stack):
        return answering(setup.children[-1])
    if isinstance(setup, (Parallel, BatchSplit)):
        return [name for child in setup.children for name in answering(child)]
    name = joint_name(setup)
    return [] if name is None else [name]


def release_heads(model: nn.Module) -> None:
    """The model's own head in place again, nothing of ours left."""
    found: Heads | None = model.__dict__.pop(_ATTRIBUTE, None)
    if found is not None:
        found.detach()
