"""`with AdapterSetup(…)`: another setup than the active one, for this thread alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adapterhub.core.overrides import Override, swap_override
from adapterhub.core.pool import live_pools
from adapterhub.core.rows import Rows
from adapterhub.spec.composition import Composition, parse_composition
from adapterhub.spec.errors import AdapterNotFoundError

__all__ = ["AdapterSetup"]


class AdapterSetup:
    """`with AdapterSetup(Stack("en", "sst-2")): …` runs this setup in this thread only, on every model that has its adapters.

    Args:
        setup: a name, a composition, a list (a Stack), or None for the bare model.
        adapter_names: in place of a setup, one adapter or composition for each row of the batch, None for the bare model.
        skip_layers: indices of layers whose adapters do not run (AdapterDrop, Rücklé et al., 2021).

    Raises:
        AdapterNotFoundError: on entering, when no model has all the adapters named.
    """

    def __init__(
        self,
        setup: Any = None,
        *,
        adapter_names: Sequence[str | Composition | None] | None = None,
        skip_layers: Iterable[int] = (),
    ) -> None:
        self.setup: Composition | Rows | None = (
            parse_composition(setup) if adapter_names is None else Rows(adapter_names)
        )
        self.skip_layers = frozenset(skip_layers)
        self._entered: list[tuple[Override, Override | None]] = []

    def __enter__(self) -> AdapterSetup:
        override = Override(self.setup, strict=False, skip_layers=self.skip_layers)
        fitting = [pool for pool in live_pools() if self.setup is None or pool.knows(self.setup)]
        if not fitting and self.setup is not None:
            raise AdapterNotFoundError(
                f"No model has all adapters of {self.setup!r}.", hint="Add or load them before entering the setup."
            )
        for pool in fitting:
            override.plan_for(pool)
        self._entered.append((override, swap_override(override)))
        return self

    def __exit__(self, *error: object) -> None:
        override, previous = self._entered.pop()
        swap_override(previous)
        override.release()
