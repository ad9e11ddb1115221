"""Values carried from one hook to a later one of the same forward, each thread its own."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch

__all__ = ["Carrier"]


class _Values(threading.local):
    def __init__(self) -> None:
        #: weak: what a model leaves behind goes with it, and never turns up in another one
        self.by_carrier: WeakKeyDictionary[Carrier, Any] = WeakKeyDictionary()


_values = _Values()


class Carrier:
    """Holds at most one value a thread, between `put` and `take`. Copies and pickles are empty."""

    def __init__(self) -> None:
        self.traced: Any = None

    def put(self, value: Any) -> None:
        """Keep a value until it is taken."""
        if torch.compiler.is_compiling():
            self.traced = value
        else:
            _values.by_carrier[self] = value

    def peek(self) -> Any:
        """The value kept, which stays; None if there is none."""
        return self.traced if torch.compiler.is_compiling() else _values.by_carrier.get(self)

    def take(self) -> Any:
        """The value kept, which is then forgotten; None if there is none."""
        if torch.compiler.is_compiling():
            value, self.traced = self.traced, None
            return value
        return _values.by_carrier.pop(self, None)
