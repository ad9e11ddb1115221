"""What this thread, or this asynchronous task, runs instead of a model's own active adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adapterhub.core.plan import Plan
    from adapterhub.core.pool import Pool
    from adapterhub.core.rows import Rows
    from adapterhub.spec.composition import Composition

__all__ = ["Override", "attention_listener", "current_override", "fusion_attention", "swap_override"]


class Override:
    """A setup in place of the active one, compiled once for each model that meets it.

    Args:
        setup: a composition, one adapter for each row, or None for the bare model.
        expand: whether a batch that is a multiple of the rows planned for repeats each row (beams, several sequences).
        strict: whether a model without these adapters is an error; else it runs its own active ones.
        skip_layers: indices of layers whose adapters do not run.
    """

    def __init__(
        self,
        setup: Composition | Rows | None,
        *,
        expand: bool = False,
        strict: bool = True,
        skip_layers: frozenset[int] = frozenset(),
    ) -> None:
        self.setup, self.expand, self.strict, self.skip_layers = setup, expand, strict, skip_layers
        self._plans: dict[int, tuple[Pool, Plan]] = {}

    def plan_for(self, pool: Pool) -> Plan:
        """The compiled plan for this model; hooks its sites on first use."""
        found = self._plans.get(id(pool))
        if found is not None:
            return found[1]
        if self.setup is not None and not self.strict and not pool.knows(self.setup):
            plan = pool.plan
        else:
            plan = pool.compile(self.setup, skip_layers=self.skip_layers, expand=self.expand)
        pool.hold(plan)
        self._plans[id(pool)] = (pool, plan)
        return plan

    def pools(self) -> list[Pool]:
        """The pools of the models that met this override."""
        return [pool for pool, _ in self._plans.values()]

    def release(self, *, linger: bool = False) -> None:
        """Unhook what only this override used; with `linger` not before another one comes."""
        for pool, plan in self._plans.values():
            if linger:
                pool.linger(plan)
            pool.release(plan)
        self._plans.clear()


_current: ContextVar[Override | None] = ContextVar("adapterhub_override", default=None)
#: under torch.compile, where context variables are opaque: one traced forward at a time
_traced: list[Override | None] = [None]


def current_override() -> Override | None:
    """The override in force here, or None."""
    return _traced[0] if torch.compiler.is_compiling() else _current.get()


def swap_override(override: Override | None) -> Override | None:
    """Put `override` in force and return the one it replaces."""
    if torch.compiler.is_compiling():
        previous = _traced[0]
        _traced[0] = override
        return previous
    previous = _current.get()
    _current.set(override)
    _traced[0] = override
    return previous


_attention: ContextVar[dict[str, list[Tensor]] | None] = ContextVar("adapterhub_fusion_attention", default=None)


def attention_listener() -> dict[str, list[Tensor]] | None:
    """Where fusions leave their attention here and now, or None."""
    return None if torch.compiler.is_compiling() else _attention.get()


@contextmanager
def fusion_attention() -> Iterator[dict[str, list[Tensor]]]:
    """`with fusion_attention() as maps: model(…)` collects what fusions attend to: by site key, one [B, T, N] a call."""
    maps: dict[str, list[Tensor]] = {}
    token = _attention.set(maps)
    try:
        yield maps
    finally:
        _attention.reset(token)
