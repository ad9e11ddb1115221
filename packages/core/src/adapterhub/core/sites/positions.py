"""The site of positions: those of the text, moved up by prefixes that take the first ones (`PrefixTuningConfig.positions`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.caches import seen_before
from adapterhub.core.operations import AtEmbedding, Operation
from adapterhub.core.sites import HookedSite
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool

__all__ = ["PositionSite", "position_site"]


class PositionSite(HookedSite):
    """The positions [B, T] of the text that a model is called with."""

    def __init__(self, pool: Pool, index: int, key: str) -> None:
        super().__init__(pool, index, key, pool.base_model, "positions")

    def leaf(self, module: nn.Module) -> Operation:
        return AtEmbedding(module)

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.host.register_forward_pre_hook(partial(_move_up, self), with_kwargs=True)


def _move_up(
    site: PositionSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    operation = site.operation()
    if operation is None:
        return None
    inputs = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    given = next((value for value in inputs if value is not None), None)
    if given is None:
        return None
    positions = kwargs.get("position_ids")
    if positions is None:
        seen = seen_before(kwargs)
        positions = torch.arange(seen, seen + given.shape[1], device=given.device)[None]
    moved: Tensor = operation(positions.expand(given.shape[0], -1), None)
    return args, {**kwargs, "position_ids": moved}


def position_site(pool: Pool) -> PositionSite | None:
    """The site of `Pool.position_site`, made on first use; None where only relative positions count (T5).

    Raises:
        InvalidConfigError: a model whose positions cannot be given.
    """
    if getattr(pool.base_model.config, "relative_attention_num_buckets", None) is not None:
        return None
    if "position_ids" not in inspect.signature(pool.base_model.forward).parameters:
        raise InvalidConfigError(
            f"A prefix with positions=True cannot be had: {type(pool.base_model).__name__} takes no position_ids."
        )
    key = f"{pool.layout.layers[-1].tower}.positions"
    if key not in pool.by_key:
        pool.grow(lambda first: [PositionSite(pool, first, key)])
    found = pool.by_key[key]
    assert isinstance(found, PositionSite)
    return found
