"""The generated subclass: an instance keeps its class and gains methods, nothing else.

The subclass has the name, the qualified name and the module of the stock class, so that saving, auto classes and source
look-ups see the stock class. Copies and pickles are made through `rebuild`, since pickle cannot find a generated class.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["is_generated", "rebuild", "stock_class", "subclass_of"]


_made: dict[tuple[Any, type], Any] = {}


def subclass_of(stock: Any, mixin: type) -> Any:
    """`stock` with the methods of `mixin` in front; one class a pair."""
    if (stock, mixin) not in _made:
        _made[stock, mixin] = _make(stock, mixin)
    return _made[stock, mixin]


def _make(stock: Any, mixin: type) -> Any:
    members = {
        "__module__": stock.__module__,
        "__qualname__": stock.__qualname__,
        "__doc__": stock.__doc__,
        "_adapterhub_stock": stock,
        "_adapterhub_mixin": mixin,
    }
    # a hook for subclasses of transformers (`__init_subclass__`) has run for the stock class and need not run again
    return type(stock)(stock.__name__, (mixin, stock), members)


def _generated(cls: type) -> type | None:
    """The generated class among the bases of `cls`: itself, or behind a class a wrapper such as FSDP2 put in front."""
    return next((base for base in cls.__mro__ if "_adapterhub_stock" in base.__dict__), None)


def is_generated(model: nn.Module) -> bool:
    """Whether the instance has a generated class."""
    return _generated(type(model)) is not None


def stock_class(model: nn.Module) -> type[nn.Module]:
    """The class the instance had, or has."""
    generated = _generated(type(model))
    found: type[nn.Module] = type(model) if generated is None else generated.__dict__["_adapterhub_stock"]
    return found


def rebuild(stock: type[nn.Module], mixin: type) -> nn.Module:
    """An empty instance of the generated class, for copy and pickle to fill."""
    generated: Any = subclass_of(stock, mixin)
    made: nn.Module = generated.__new__(generated)
    return made
