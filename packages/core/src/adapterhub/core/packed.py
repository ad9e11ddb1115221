"""Adapters packed into one tensor, and the containers in a model where a note stands for their modules.

A parameter costs torch some 900 bytes besides its numbers, and the module around it as much again. Compacter has 73 tensors
in 57 kB, so that a thousand of them that only wait would weigh twice what they hold. Packed (by `packing`), the numbers of an
adapter are one flat tensor and its modules are gone. Whoever looks for them (`named_parameters`, `state_dict`, `get_adapter`,
a plan that runs the adapter) finds ordinary modules with parameters of their own, built that moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from adapterhub.core.held import Adapter
    from adapterhub.core.pool import Pool

__all__ = ["AdapterModules", "Form", "Packed", "only_unpacked"]

_only_unpacked: ContextVar[bool] = ContextVar("adapterhub_only_unpacked", default=False)


@dataclass(frozen=True)
class Form:
    """Which tensors an adapter has; one object for all adapters that have the same.

    Attributes:
        sites: the keys of the sites it has a module at.
        leaves: (key of the site, leaf, shape) of each tensor, in order.
        learns: whether each requires gradients.
    """

    sites: tuple[str, ...]
    leaves: tuple[tuple[str, str, tuple[int, ...]], ...]
    learns: tuple[bool, ...]

    def known(self) -> Form:
        """The object that stands for all equal ones."""
        return _forms.setdefault(self, self)

    def frozen(self) -> Form:
        """The same, and nothing learns."""
        return replace(self, learns=(False,) * len(self.learns)).known()


_forms: weakref.WeakValueDictionary[Form, Form] = weakref.WeakValueDictionary()


class Packed:
    """The note in place of the modules of one adapter, and its numbers.

    Args:
        pool: of the model.
        adapter: whose modules are gone.
        form: which tensors they had.
        flat: these tensors after one another, [number of scalars]; None while it is not decided whether it can be packed:
            who looks then waits in `Pool.unpack`.
    """

    __slots__ = ("adapter", "flat", "form", "pool")

    def __init__(self, pool: Pool, adapter: Adapter, form: Form, flat: Tensor | None = None) -> None:
        self.pool, self.adapter, self.form, self.flat = pool, adapter, form, flat

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by neutral key, as views of the flat one."""
        assert self.flat is not None
        pieces = self.flat.split([prod(shape) for _, _, shape in self.form.leaves])
        return {
            f"{key}.{leaf}": piece.view(shape)
            for (key, leaf, shape), piece in zip(self.form.leaves, pieces, strict=True)
        }


@contextmanager
def only_unpacked() -> Iterator[None]:
    """Here, walks through the modules of a model pass packed adapters by: what is looked for is not theirs."""
    token = _only_unpacked.set(True)
    try:
        yield
    finally:
        _only_unpacked.reset(token)


class _Modules(dict[str, Any]):
    """The children of a container by name. Reading unpacks what is packed."""

    def get(self, key: str, default: Any = None) -> Any:
        found = dict.get(self, key, default)
        while isinstance(found, Packed):
            note = found
            note.pool.unpack(note)
            found = dict.get(self, key, default)
            if found is note and note.adapter.packed is not note:  # this container is no longer part of the model
                return default
        return found

    def __getitem__(self, key: str) -> Any:
        found = self.get(key, self)
        if found is self:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:  # a dict whose class has one of its own is copied by its keys and items
        return dict.__iter__(self)

    def items(self) -> Any:
        """Pairs of name and module, as they are now: other threads may add and delete meanwhile."""
        here = list(dict.items(self))
        if _only_unpacked.get():
            return [(key, value) for key, value in here if not isinstance(value, Packed)]
        return [(key, self.get(key) if isinstance(value, Packed) else value) for key, value in here]

    def values(self) -> Any:
        """The modules."""
        return [value for _, value in self.items()]

    def copy(self) -> dict[str, Any]:
        return dict(self.items())


class AdapterModules(nn.Module):
    """The adapter modules at one site. Names are free: `train` and `forward` are as good as any."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_modules"] = _Modules()

    def train(self, mode: bool = True) -> AdapterModules:
        """As for any module; packed ones take the mode when they are unpacked."""
        with only_unpacked():
            return super().train(mode)
