"""The plan: the active composition turned, once, into what each site does. Forward only runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.core.blocks import build
from adapterhub.core.operations import BeforeNorm, Exchanged, Operation
from adapterhub.core.rows import Rows
from adapterhub.core.sites import HookedSite, SublayerSite
from adapterhub.spec.composition import Composition, Fuse, Parallel
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.plans import Plans

__all__ = ["Plan", "compile_plan", "fusions_in", "names_in"]


class Plan:
    """What each site does: `operations[site.index]` or None.

    Args:
        setup: what was compiled.
        operations: one entry a site of the pool.
        sites: the sites with an operation.
        copies: how often the batch is repeated before the model runs (Parallel), else 1.
        leaves_out: indices of layers skipped (AdapterDrop, Rücklé et al., 2021).
    """

    __slots__ = ("copies", "leaves_out", "operations", "setup", "sites")

    def __init__(
        self,
        setup: Composition | Rows | None,
        operations: list[Operation | None],
        sites: list[HookedSite],
        copies: int = 1,
        leaves_out: frozenset[int] = frozenset(),
    ) -> None:
        self.setup, self.operations, self.sites = setup, operations, sites
        self.copies, self.leaves_out = copies, leaves_out


def compile_plan(
    pool: Plans, setup: Composition | Rows | None, *, skip_layers: frozenset[int] = frozenset(), expand: bool = False
) -> Plan:
    """The plan of a setup on the model of `pool`. Names are taken as known."""
    operations: list[Operation | None] = [None] * len(pool.sites)
    used: list[HookedSite] = []
    if setup is not None:
        for site in pool.sites_of(names_in(setup)):
            if isinstance(site, HookedSite) and site.layer not in skip_layers:
                operation = _built(setup, site, expand=expand)
                if operation is not None:
                    operations[site.index] = operation
                    used.append(site)
    return Plan(setup, operations, used, _copies(setup), skip_layers)


def _built(setup: Composition | Rows, site: HookedSite, *, expand: bool) -> Operation | None:
    """The operation of a setup at a site, run as adapters 1.3 does where its adapters were loaded so (see `compatibility`).

    Raises:
        InvalidConfigError: some were, others not.
    """
    manners = {
        module.__dict__.get("as_there", "") for name in names_in(setup) if (module := site.find(name)) is not None
    }
    if len(manners) > 1:
        raise InvalidConfigError(
            f"{setup!r} puts adapters loaded with compat='adapters-1.3' together with others, which cannot run as one here.",
            hint="Load all of them with the same compat.",
        )
    manner = manners.pop() if manners else ""
    if manner == "before norm":
        assert isinstance(site, SublayerSite)
        operation = build(setup, site.before_norm(), expand=expand)
        return None if operation is None else BeforeNorm(operation)
    operation = build(setup, site, expand=expand)
    return Exchanged(operation) if operation is not None and manner == "exchanged" else operation


def names_in(setup: Composition | Rows | None) -> list[str]:
    """Every adapter of a setup, each once."""
    if setup is None:
        return []
    if isinstance(setup, Rows):
        return setup.adapters()
    return setup.names()


def fusions_in(setup: Composition | Rows | None) -> list[Fuse]:
    """Every fusion of a setup."""
    blocks = setup.blocks() if isinstance(setup, Rows) else [] if setup is None else [setup]
    return [block for outer in blocks for block in outer.walk() if isinstance(block, Fuse)]


def _copies(setup: Any) -> int:
    if not isinstance(setup, Composition):
        return 1
    return next((len(block.children) for block in setup.walk() if isinstance(block, Parallel)), 1)
