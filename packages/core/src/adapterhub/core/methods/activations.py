"""Non-linearities by name: plain functions where torch has them, transformers' own otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["activation"]


def _identity(value: Tensor) -> Tensor:
    return value


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_orig": F.gelu,
    "gelu_python": F.gelu,
    "swish": F.silu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leakyrelu": F.leaky_relu,
    "leaky_relu": F.leaky_relu,
    "linear": _identity,
}


@cache
def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of this name; one object a name, so that configs of one shape share it."""
    plain = _PLAIN.get(name.lower())
    if plain is not None:
        return plain
    from transformers.activations import get_activation

    found: Callable[[Tensor], Tensor] = get_activation(name.lower())
    return found
