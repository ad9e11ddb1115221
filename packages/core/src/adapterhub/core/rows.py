"""One adapter for each row of a batch: what `adapter_names=[…]` asks for."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Rows"]

_BARE = frozenset({None, "__base__"})


class Rows:
    """One adapter for each row of the batch; None (or "__base__") for the bare model."""

    __slots__ = ("names",)

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names = tuple(None if name in _BARE else name for name in names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Rows({list(self.names)!r})"
