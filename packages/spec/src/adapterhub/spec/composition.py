"""Composition blocks: how several adapters work together. Blocks are immutable values; names and blocks are children.

    Stack(a, b)            b sees what a gives (Pfeiffer et al., 2020, MAD-X)
    Fuse(a, b)             attention over the children's outputs (Pfeiffer et al., 2021, AdapterFusion)
    Split(a, b, splits=)   the sequence is cut, each part has its child
    BatchSplit(a, b, batch_sizes=)   the batch is cut, each part has its child
    Parallel(a, b)         the batch is repeated, once for each child (Rücklé et al., 2021, AdapterDrop)
    Average(a, b, weights=)   the weighted mean of the children's outputs

What may hold what is in `_CHILDREN`; a block that makes no sense is refused when it is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from adapterhub.spec.errors import InvalidConfigError

__all__ = [
    "Average",
    "BatchSplit",
    "Composition",
    "Fuse",
    "Parallel",
    "Setup",
    "Split",
    "Stack",
    "parse_composition",
]


class Composition:
    """Base of the composition blocks.

    Args:
        children: names of adapters, or blocks; a plain list inside a block stands for a `Stack`.

    Raises:
        InvalidConfigError: no children, a child that is neither, or a nesting that makes no sense.
    """

    __slots__ = ("children",)

    children: tuple[str | Composition, ...]
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *children: Any) -> None:
        if not children:
            raise InvalidConfigError(f"{type(self).__name__} needs at least one adapter.")
        object.__setattr__(self, "children", tuple(self._child(child) for child in children))

    def _child(self, child: Any) -> str | Composition:
        if isinstance(child, (list, tuple)):
            child = Stack(*child)
        if isinstance(child, str):
            if not child:
                raise InvalidConfigError(f"{type(self).__name__} has a child with an empty name.")
            return child
        if not isinstance(child, Composition):
            raise InvalidConfigError(
                f"{type(self).__name__} takes names of adapters and blocks, not {type(child).__name__}."
            )
        allowed = _CHILDREN[type(self).__name__]
        if type(child).__name__ not in allowed:
            raise InvalidConfigError(
                f"{type(self).__name__} cannot hold {type(child).__name__}: {_reason(self, child)}",
                hint=f"{type(self).__name__} takes names and {', '.join(sorted(allowed))}.",
            )
        if not isinstance(self, Stack) and any(isinstance(block, Parallel) for block in child.walk()):
            raise InvalidConfigError(f"{type(self).__name__} cannot hold Parallel: {_reason(self, Parallel('x'))}")
        return child

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make a new one")

    def __reduce__(self) -> tuple[Any, ...]:
        return from_dict, (self.to_dict(),)

    def __iter__(self) -> Iterator[str | Composition]:
        return iter(self.children)

    def __len__(self) -> int:
        return len(self.children)

    def __getitem__(self, position: int) -> str | Composition:
        return self.children[position]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.children, *(repr(getattr(self, option)) for option in self.options)))

    def __repr__(self) -> str:
        arguments = [repr(child) for child in self.children]
        arguments += [f"{name}={getattr(self, name)!r}" for name in self.options if getattr(self, name) is not None]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def walk(self) -> Iterator[Composition]:
        """This block and every block in it, outermost first."""
        yield self
        for child in self.children:
            if isinstance(child, Composition):
                yield from child.walk()

    def names(self) -> list[str]:
        """Every adapter named in the block, each once, in order of appearance."""
        found: dict[str, None] = {}
        for child in self.children:
            found.update(dict.fromkeys([child] if isinstance(child, str) else child.names()))
        return list(found)

    def to_dict(self) -> dict[str, Any]:
        """The block in JSON types: `{"type", "children", …options}`."""
        children = [child if isinstance(child, str) else child.to_dict() for child in self.children]
        options = {name: getattr(self, name) for name in self.options if getattr(self, name) is not None}
        return {
            "type": type(self).__name__,
            "children": children,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in options.items()},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Composition:
        """The block a `to_dict` document describes."""
        return from_dict(document)


class Stack(Composition):
    """Children one after the other: each sees the output of the one before. A Stack in a Stack is flattened."""

    __slots__ = ()

    def __init__(self, *children: Any) -> None:
        super().__init__(*children)
        flat: list[str | Composition] = []
        for child in self.children:
            flat.extend(child.children if isinstance(child, Stack) else (child,))
        object.__setattr__(self, "children", tuple(flat))
        if sum(isinstance(child, Parallel) for child in flat) > 1:
            raise InvalidConfigError("A Stack holds at most one Parallel: the batch is repeated only once.")


class Fuse(Composition):
    """Attention over the outputs of the children.

    Args:
        children: names, or Stacks of names.
        name: the name of the fusion layer to use, where several were added over the same children.
    """

    __slots__ = ("name",)
    options = ("name",)
    name: str | None

    def __init__(self, *children: Any, name: str | None = None) -> None:
        super().__init__(*children)
        for child in self.children:
            if isinstance(child, Stack) and any(isinstance(inner, Composition) for inner in child.children):
                raise InvalidConfigError("Fuse attends over single adapters or Stacks of adapter names.")
        if name == "":
            raise InvalidConfigError(
                "Fuse has an empty name.", hint="Leave it out: the layer is named by its adapters."
            )
        object.__setattr__(self, "name", name)

    def fused_names(self) -> list[str]:
        """The adapters attended over: each child's name, or the last name of its Stack."""
        return [child if isinstance(child, str) else str(child.children[-1]) for child in self.children]


class Split(Composition):
    """The sequence cut into consecutive parts, one for each child.

    Args:
        splits: the length of each part, or one length for all; they must add up to the sequence length.
    """

    __slots__ = ("splits",)
    options = ("splits",)
    splits: tuple[int, ...]

    def __init__(self, *children: Any, splits: int | Sequence[int]) -> None:
        super().__init__(*children)
        object.__setattr__(self, "splits", _sizes("splits", splits, len(self.children)))


class BatchSplit(Composition):
    """The batch cut into consecutive parts, one for each child.

    Args:
        batch_sizes: the rows of each part, or one number for all; they must add up to the batch size.
    """

    __slots__ = ("batch_sizes",)
    options = ("batch_sizes",)
    batch_sizes: tuple[int, ...]

    def __init__(self, *children: Any, batch_sizes: int | Sequence[int]) -> None:
        super().__init__(*children)
        object.__setattr__(self, "batch_sizes", _sizes("batch_sizes", batch_sizes, len(self.children)))


class Parallel(Composition):
    """Every child on its own copy of the batch: outputs come back once for each child, in their order."""

    __slots__ = ()


class Average(Composition):
    """The weighted mean of the children's outputs.

    Args:
        weights: one number a child, divided by their sum once; equal weights by default.
        normalize_weights: False takes the weights as they are.
    """

    __slots__ = ("normalize_weights", "weights")
    options = ("weights", "normalize_weights")
    weights: tuple[float, ...]
    normalize_weights: bool | None

    def __init__(
        self, *children: Any, weights: Sequence[float] | None = None, normalize_weights: bool | None = None
    ) -> None:
        super().__init__(*children)
        count = len(self.children)
        given = [1.0] * count if weights is None else [float(weight) for weight in weights]
        if len(given) != count:
            raise InvalidConfigError(f"Average has {count} children but {len(given)} weights.")
        if not all(math.isfinite(weight) for weight in given):
            raise InvalidConfigError("The weights of Average must be finite numbers.")
        if normalize_weights is not False and math.isclose(sum(given), 0, abs_tol=1e-12):
            raise InvalidConfigError("The weights of Average add up to zero, so they cannot be normalised.")
        object.__setattr__(self, "weights", tuple(given))
        object.__setattr__(self, "normalize_weights", None if normalize_weights is not False else False)

    def shares(self) -> tuple[float, ...]:
        """The factor of each child: the weights divided by their sum, or the weights as they are."""
        total = 1.0 if self.normalize_weights is False else sum(self.weights)
        return tuple(weight / total for weight in self.weights)


Setup: TypeAlias = str | Composition | None

_CHILDREN: dict[str, frozenset[str]] = {
    "Stack": frozenset({"Stack", "Fuse", "Split", "BatchSplit", "Parallel", "Average"}),
    "Fuse": frozenset({"Stack"}),
    "Split": frozenset({"Stack", "Fuse", "Split", "BatchSplit", "Average"}),
    "BatchSplit": frozenset({"Stack", "Fuse", "Split", "BatchSplit", "Average"}),
    "Parallel": frozenset({"Stack", "Fuse", "Split", "BatchSplit", "Average"}),
    "Average": frozenset({"Stack", "Fuse", "Split", "BatchSplit"}),
}
_BLOCKS: dict[str, type[Composition]] = {
    block.__name__: block for block in (Stack, Fuse, Split, BatchSplit, Parallel, Average)
}


def parse_composition(setup: Any) -> Composition | None:
    """What a user may write for a setup as a block: a name, a block, a list (a Stack), a dict, or None.

    Raises:
        InvalidConfigError: anything else, or a nesting that makes no sense.
    """
    if setup is None:
        return None
    if isinstance(setup, Composition):
        return setup
    if isinstance(setup, str):
        return Stack(setup)
    if isinstance(setup, Mapping):
        return from_dict(setup)
    if isinstance(setup, Sequence):
        return Stack(*setup) if setup else None
    raise InvalidConfigError(
        f"{type(setup).__name__} is no adapter setup.", hint="Give a name, a composition block, or None."
    )


def from_dict(document: Mapping[str, Any]) -> Composition:
    """The block of a `{"type", "children", …}` document; options may also stand under `kwargs`."""
    if not isinstance(document, Mapping):
        raise InvalidConfigError(f"{document!r} is neither the name of an adapter nor a composition block.")
    kind = _BLOCKS.get(str(document.get("type")))
    children = document.get("children")
    if kind is None or not isinstance(children, Sequence) or isinstance(children, str):
        raise InvalidConfigError(
            f"{document.get('type')!r} is no composition block.", hint=f"Blocks: {', '.join(sorted(_BLOCKS))}."
        )
    options = {**(document.get("kwargs") or {}), **{k: v for k, v in document.items() if k not in _RESERVED}}
    unknown = sorted(set(options) - set(kind.options))
    if unknown:
        raise InvalidConfigError(f"{kind.__name__} has no option {', '.join(unknown)}.")
    inner = [child if isinstance(child, str) else from_dict(child) for child in children]
    try:
        return kind(*inner, **options)
    except TypeError as error:
        told = str(error).partition(" ")[2] or str(error)
        raise InvalidConfigError(f"The options of {kind.__name__} are not as they must be: {told}.") from None


_RESERVED = frozenset({"type", "children", "kwargs"})


def _sizes(what: str, given: int | Sequence[int], count: int) -> tuple[int, ...]:
    sizes = [given] * count if isinstance(given, int) else list(given)
    if len(sizes) != count:
        raise InvalidConfigError(f"{what} has {len(sizes)} entries for {count} children.")
    if any(isinstance(size, bool) or not isinstance(size, (int, float)) or size < 0 or size % 1 for size in sizes):
        raise InvalidConfigError(f"{what} must be whole numbers of at least 0, not {sizes}.")
    return tuple(int(size) for size in sizes)


def _reason(outer: Composition, inner: Composition) -> str:
    if isinstance(inner, Parallel):
        return "it repeats the batch, which is only possible at the outermost level or in an outermost Stack."
    if isinstance(outer, Fuse):
        return "fusion attends over the outputs of single adapters."
    return "there is nothing sensible this could compute."


__all__ += ["from_dict"]
