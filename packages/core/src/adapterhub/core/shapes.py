"""Tensors that lie otherwise than [B, T, d], turned into that for an operation that tells rows or tokens apart, and back.

Discovery notes in `Layout.shaped` how they lie at a module: "flat" with rows and tokens (or rows and windows) in one axis, as in
OPT and Swin; "second" with the rows as second axis, as in FSMT and in the attention of Longformer; "grid" [B, H, W, d].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.carried import Carrier

if TYPE_CHECKING:
    from adapterhub.core.layout import Layout

__all__ = ["Arranged", "arrangement"]


class Arranged:
    """How tensors lie at one module.

    Args:
        kind: "flat", "second" or "grid".
        layer: the layer around it, whose input tells how many rows there are.
    """

    def __init__(self, kind: str, layer: nn.Module) -> None:
        self.kind, self.layer = kind, layer
        self.rows = Carrier()

    def hooks(self) -> Iterator[RemovableHandle]:
        """What has to be seen for it."""
        if self.kind == "flat":
            yield self.layer.register_forward_pre_hook(partial(_note_rows, self), with_kwargs=True)

    def turned(self, value: Tensor) -> Tensor:
        """As [B, T, d]."""
        if self.kind == "second":
            return value.transpose(0, 1)
        rows = value.shape[0] if self.kind == "grid" else self.rows.peek()
        return value if rows is None else value.reshape(rows, -1, value.shape[-1])

    def back(self, value: Tensor, like: Tensor) -> Tensor:
        """[B, T, d] as it lay in `like`."""
        return value.transpose(0, 1).contiguous() if self.kind == "second" else value.reshape(like.shape)


def arrangement(layout: Layout, path: str, modules: dict[str, nn.Module]) -> Arranged | None:
    """How tensors lie at the module at `path`; None for [B, T, d]."""
    kind = layout.shaped.get(path)
    layer = next((layer for layer in layout.layers if f"{path}.".startswith(f"{layer.path}.")), None)
    return None if kind is None or layer is None else Arranged(kind, modules[layer.path])


def _note_rows(arranged: Arranged, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    arranged.rows.put(None if given is None else given.shape[0])
