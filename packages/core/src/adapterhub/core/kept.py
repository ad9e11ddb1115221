"""Values computed from the parameters of modules, kept as long as those stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import getitem, is_
from typing import Generic, TypeVar

import torch
from torch import nn

__all__ = ["Kept", "kept", "steady"]

T = TypeVar("T")

#: what marks the `steady` block this thread, or asynchronous task, is in
_steady: ContextVar[object | None] = ContextVar("adapterhub_steady", default=None)


@contextmanager
def steady() -> Iterator[None]:
    """Take the parameters as steady in this block, here and now: a value looked at once is not looked at again. To see whether
    one of hundreds of parameters changed costs as much as a product with them, and a text is generated in hundreds of steps."""
    token = _steady.set(object())
    try:
        yield
    finally:
        _steady.reset(token)


class Kept(Generic[T]):
    """A value computed from modules, kept until one of their parameters changes. Where gradients flow to them nothing is kept:
    computing the value is then part of the graph.

    Changes are seen by version counters, which optimisers, `load_state_dict` and in-place arithmetic advance, and by identity
    and address of the parameters. Writing through `.data` is not seen; switching between `train()` and `eval()` drops the
    value as well. Under autocast values are computed in its type, so they are not those of a call without. In a `steady` block
    changes are not looked for again.

    Args:
        modules: at least one; those they hold count as well.
        compute: the value, from the parameters as they are.
    """

    def __init__(self, modules: Sequence[nn.Module], compute: Callable[[], T]) -> None:
        self.modules, self.compute = list(modules), compute
        self.value: T | None = None
        self.state: tuple[object, ...] | None = None
        #: the `steady` block in which the value was looked at last
        self.mark: object | None = None
        #: the parameters the value is of, and where in the tables of their modules they were
        self.parameters: list[nn.Parameter] = []
        self.tables: list[dict[str, nn.Parameter | None]] = []
        self.names: list[str] = []

    def get(self) -> T:
        """The value; computed anew where gradients flow or something changed."""
        if torch.compiler.is_compiling():
            return self.compute()
        mark = _steady.get()
        if mark is not None and mark is self.mark and self.value is not None:
            return self.value
        if not (self.parameters and self._in_place()):
            self.value = None
            self._find()
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters):
            self.value = None
            return self.compute()
        state = self._state()
        if self.value is None or state != self.state:
            with torch.inference_mode(False), torch.no_grad():  # graphs of later calls may need it
                self.value = self.compute()
            self.state = state
        self.mark = mark
        return self.value

    def _in_place(self) -> bool:
        """Whether the modules still have the parameters they had."""
        try:
            return all(map(is_, map(getitem, self.tables, self.names), self.parameters))
        except KeyError:
            return False

    def _find(self) -> None:
        found = [
            (parameter, part._parameters, name)
            for module in self.modules
            for part in module.modules()
            for name, parameter in part._parameters.items()
            if parameter is not None
        ]
        self.parameters = [parameter for parameter, _, _ in found]
        self.tables = [table for _, table, _ in found]
        self.names = [name for _, _, name in found]

    def _state(self) -> tuple[object, ...]:
        first = self.parameters[0] if self.parameters else None
        kind = "cpu" if first is None else first.device.type
        try:
            versions = sum([parameter._version for parameter in self.parameters])
        except RuntimeError:  # tensors made in inference mode have no version
            versions = -1
        return (
            versions,
            0 if first is None else first.data_ptr(),
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
            self.modules[0].training,
        )

    def __getstate__(self) -> dict[str, object]:
        return {
            **self.__dict__,
            "value": None,
            "state": None,
            "mark": None,
            "parameters": [],
            "tables": [],
            "names": [],
        }


def kept(module: nn.Module, compute: Callable[[], T], *others: nn.Module) -> T:
    """The value `module` computes from its own parameters and those of `others`, kept with it under the rules of `Kept`.
    `compute` must always be the same method of `module`."""
    if torch.compiler.is_compiling():
        return compute()
    found: Kept[T] | None = module.__dict__.get("_kept")
    if found is None:
        found = module.__dict__["_kept"] = Kept([module, *others], compute)
    return found.get()
