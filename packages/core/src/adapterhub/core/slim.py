"""A torch module that weighs little while it only holds parameters.

`nn.Module` gives every instance sixteen tables: for buffers, and for hooks of every kind. A thousand adapters have tens of
thousands of modules, and nearly none of them ever gets a buffer or a hook. Here a table nobody wrote to is one empty,
read-only table for all; whatever registers something gives the module tables of its own first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from torch import nn

__all__ = ["Slim", "set_training"]


class _Nothing(OrderedDict[Any, Any]):
    """An empty table that stays empty."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("This module has no table of its own yet: register through the methods of nn.Module.")

    __setitem__ = setdefault = update = __ior__ = _refuse

    def copy(self) -> OrderedDict[Any, Any]:  # type: ignore[override]
        return OrderedDict()

    def __deepcopy__(self, memo: Any) -> OrderedDict[Any, Any]:
        return OrderedDict()

    def __reduce__(self) -> Any:
        return OrderedDict, ()


_NOTHING: Any = _Nothing()


class Slim(nn.Module):
    """Base of the modules of adapters; to callers it is an `nn.Module` like any other."""

    _buffers = _NOTHING
    _backward_pre_hooks = _NOTHING
    _backward_hooks = _NOTHING
    _is_full_backward_hook = None
    _forward_hooks = _NOTHING
    _forward_hooks_with_kwargs = _NOTHING
    _forward_hooks_always_called = _NOTHING
    _forward_pre_hooks = _NOTHING
    _forward_pre_hooks_with_kwargs = _NOTHING
    _state_dict_hooks = _NOTHING
    _state_dict_pre_hooks = _NOTHING
    _load_state_dict_pre_hooks = _NOTHING
    _load_state_dict_post_hooks = _NOTHING
    _non_persistent_buffers_set: Any = frozenset()

    def __init__(self) -> None:
        own = object.__setattr__
        own(self, "training", True)
        own(self, "_parameters", {})
        own(self, "_modules", {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def widen(self) -> None:
        """Give the module every table of its own, as `nn.Module` makes them."""
        if "_buffers" not in self.__dict__:
            self.__dict__.update({**_tables(), **self.__dict__})


def set_training(module: nn.Module, training: bool) -> None:
    """What `module.train(training)` does, without its ceremony, for modules that were just made."""
    module.__dict__["training"] = training
    for part in module._modules.values():
        if part is not None:
            set_training(part, training)


def _tables() -> dict[str, Any]:
    return {name: value for name, value in nn.Module().__dict__.items() if name in Slim.__dict__}


def _widened_first(name: str) -> Callable[..., Any]:
    register = getattr(nn.Module, name)

    @wraps(register)
    def widened(self: Slim, *arguments: Any, **named: Any) -> Any:
        self.widen()
        return register(self, *arguments, **named)

    return widened


for _name in (
    "register_buffer",
    "register_backward_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_state_dict_post_hook",
    "register_state_dict_pre_hook",
    "_register_state_dict_hook",
    "_register_load_state_dict_pre_hook",
    "register_load_state_dict_pre_hook",
    "register_load_state_dict_post_hook",
):
    setattr(Slim, _name, _widened_first(_name))
