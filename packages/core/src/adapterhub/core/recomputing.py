"""Gradient checkpointing: what is computed again in the backward pass runs the adapters of the forward pass.

Backward may come after an `AdapterSetup` was left, or in another thread (autograd's own on GPUs). So each checkpointed call takes
the override in force along.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.core.overrides import Override, current_override, swap_override

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool

__all__ = ["carrying"]


def carrying(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """`checkpoint(function, *args)` that takes the override in force along."""
    if isinstance(checkpoint, partial) and checkpoint.func is _checkpointed:
        return checkpoint
    return partial(_checkpointed, checkpoint)


def _checkpointed(checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
    override = current_override()
    if override is None:
        return checkpoint(function, *args)
    return checkpoint(partial(_under, override, override.pools(), function), *args)


def _under(override: Override, pools: list[Pool], function: Callable[..., Any], *args: Any) -> Any:
    over = not override.pools()
    for pool in pools:
        override.plan_for(pool)
    previous = swap_override(override)
    try:
        return function(*args)
    finally:
        swap_override(previous)
        if over:
            override.release(linger=True)
