"""The plans of a model: compiled when a setup is named, kept while its adapters stay, and one of them in force."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.core.plan import Plan, compile_plan, fusions_in, names_in
from adapterhub.core.rows import Rows
from adapterhub.core.sites import HookedSite, Site
from adapterhub.spec.composition import Composition, Fuse

if TYPE_CHECKING:
    from adapterhub.core.held import Adapter, Fusion

__all__ = ["Plans", "lock"]

#: how many plans are kept: an adapter that none of them speaks of can be packed
_PLANS = 64
#: of how many kinds of batch (which adapter in which row) the stacked weights are kept
_BATCHES = 8
#: held while adapters, plans or hooks of any model change
lock = threading.RLock()


class Plans:
    """The part of `Pool` that knows what runs.

    Attributes:
        plan: that of the setup that runs by default.
        lingering: one that ran in a single call, whose hooks are still there.
        hooked: which hooks are in place.
    """

    model: nn.Module
    base_model: nn.Module
    sites: list[Site]
    by_key: dict[str, Site]
    adapters: dict[str, Adapter]

    def get(self, name: str) -> Adapter:
        """The adapter of this name."""
        raise NotImplementedError

    def fusion_of(self, block: Fuse) -> Fusion:
        """The fusion a block means."""
        raise NotImplementedError

    def tidy(self) -> None:
        """Put away what nobody uses any longer."""
        raise NotImplementedError

    def _begin(self) -> None:
        self._plans: dict[Any, Plan] = {}
        self.plan = Plan(None, [None] * len(self.sites), [])
        self.lingering: Plan | None = None
        self.hooked = ""

    def activate(self, setup: Composition | None, skip_layers: Iterable[int] = ()) -> None:
        """Make this the setup that runs by default."""
        plan = self.compile(setup, skip_layers=frozenset(skip_layers))
        with lock:
            previous = self.plan
            self.hold(plan)
            self.plan = plan
            self.release(previous)
            if self.lingering is not None:
                self.release(self.lingering)
                self.lingering = None

    def compile(
        self, setup: Composition | Rows | None, *, skip_layers: frozenset[int] = frozenset(), expand: bool = False
    ) -> Plan:
        """The plan of a setup. The last ones are kept until their adapters are replaced or deleted; of those of batches with
        several adapters, which hold stacked weights, only the last few.

        Raises:
            AdapterNotFoundError: an adapter or fusion of the setup is not on the model.
        """
        key = (setup, skip_layers, expand)
        found = self._plans.get(key)
        if found is None:
            for name in names_in(setup):
                self.get(name)
            for block in fusions_in(setup):
                self.fusion_of(block)
            found = compile_plan(self, setup, skip_layers=skip_layers, expand=expand)
            self.tidy()
            with lock:
                while len(self._plans) >= _PLANS:
                    self._plans.pop(next(iter(self._plans)))
                self._plans[key] = found
        if isinstance(setup, Rows):
            self._forget_batches(key, found)
        return found

    def _forget_batches(self, key: Any, plan: Plan) -> None:
        """Of plans of batches keep this one and the last few others."""
        with lock:
            self._plans.pop(key, None)
            self._plans[key] = plan  # the last one used stands last
            batches = [other for other in list(self._plans) if isinstance(other[0], Rows)]
            for other in batches[:-_BATCHES]:
                self._plans.pop(other, None)

    def knows(self, setup: Composition | Rows) -> bool:
        """Whether every adapter of the setup is on this model."""
        return all(name in self.adapters for name in names_in(setup))

    def sites_of(self, names: Iterable[str]) -> list[Site]:
        """The sites where at least one of these adapters has a module, in order."""
        keys = {key: None for name in names for key in self.adapters[name].sites()}
        return sorted((self.by_key[key] for key in keys), key=lambda site: site.index)

    def hold(self, plan: Plan) -> None:
        """Count one more user of the plan; sites used for the first time get their hooks."""
        with lock:
            changed = False
            for site in plan.sites:
                operation = plan.operations[site.index]
                assert operation is not None
                changed |= site.install(operation)
            if changed:
                self._hooks_changed()

    def release(self, plan: Plan) -> None:
        """Count one user less; sites without users lose their hooks."""
        with lock:
            changed = False
            for site in plan.sites:
                operation = plan.operations[site.index]
                assert operation is not None
                changed |= site.uninstall(operation)
            if changed:
                self._hooks_changed()

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        """No hook of the active setup meanwhile."""
        plan, lingering = self.plan, self.lingering
        if lingering is not None:
            self.lingering = None
            self.release(lingering)
        self.release(plan)
        try:
            yield
        finally:
            self.hold(plan)

    def _hooks_changed(self) -> None:
        """Let compiled code notice. torch.compile traces hooks but does not guard on them, so the model's call reads
        `hooked`, which it does guard on; modules compiled in place (`module.compile()`) are traced anew."""
        hooked = [site for site in self.sites if isinstance(site, HookedSite) and site.handles]
        self.hooked = " ".join(site.state() for site in hooked)
        for module in (self.model, self.base_model, *(site.host for site in hooked)):
            if getattr(module, "_compiled_call_impl", None) is not None:
                torch._dynamo.reset()
                break

    def linger(self, plan: Plan) -> None:
        """Keep the hooks of a plan that just ran until another one lingers or the active setup changes: a server that
        names adapters in every call need not hook and unhook for each."""
        if self.lingering is plan:
            return
        with lock:
            previous, self.lingering = self.lingering, plan
            self.hold(plan)
            if previous is not None:
                self.release(previous)

    def _changed(self, names: set[str], *, gone: bool = False) -> None:
        """Forget plans that speak of these adapters; compile the active one anew if it does."""
        stale = [key for key in self._plans if key[0] is not None and names & set(names_in(key[0]))]
        for key in stale:
            del self._plans[key]
        if not gone and names & set(names_in(self.plan.setup)):
            fresh = compile_plan(self, self.plan.setup, skip_layers=self.plan.leaves_out)
            previous, self.plan = self.plan, fresh
            self.hold(fresh)
            self.release(previous)
