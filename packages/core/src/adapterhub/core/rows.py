"""One setup for each row of a batch: what `adapter_names=[…]` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapterhub.spec.composition import Composition, Parallel, Stack, parse_composition
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["Rows"]

_BARE = frozenset({None, "__base__"})


class Rows:
    """One adapter, or one composition, for each row of the batch; None (or "__base__") for the bare model.

    Raises:
        InvalidConfigError: no list, or an entry that is neither a name nor a composition that keeps to its row.
    """

    __slots__ = ("names",)

    def __init__(self, names: Sequence[Any]) -> None:
        if isinstance(names, str | Composition) or not isinstance(names, Sequence):
            raise InvalidConfigError(
                f"adapter_names is {names!r}.", hint="Give a list with one name, composition or None for each row."
            )
        self.names: tuple[str | Composition | None, ...] = tuple(map(_entry, names))

    def adapters(self) -> list[str]:
        """Every adapter of any row, each once."""
        found: dict[str, None] = {}
        for name in self.names:
            found.update(dict.fromkeys(name.names() if isinstance(name, Composition) else [name] if name else []))
        return list(found)

    def blocks(self) -> list[Composition]:
        """The compositions, each once."""
        return [name for name in dict.fromkeys(self.names) if isinstance(name, Composition)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Rows({list(self.names)!r})"


def _entry(given: Any) -> str | Composition | None:
    if given is None or isinstance(given, str):
        return None if given in _BARE else given
    block = parse_composition(given)
    if block is not None and any(isinstance(inner, Parallel) for inner in block.walk()):
        raise InvalidConfigError("Parallel repeats the batch, so it cannot be the setup of one row.")
    if isinstance(block, Stack) and len(block) == 1 and isinstance(block[0], str):
        return block[0]
    return block
