"""A different invertible adapter in every row of the batch, at the embedded text: four batched products, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import Kept
from adapterhub.core.methods.invertible import Coupling, Network
from adapterhub.core.methods.linear import Linear
from adapterhub.core.mixed.several import by_make
from adapterhub.core.operations import Operation
from adapterhub.core.runs import Numbered, numbered

__all__ = ["MixedInvertible", "mixed_embeddings"]


def mixed_embeddings(
    modules: Sequence[nn.Module | None], counts: Sequence[int] | None, *, expand: bool
) -> Operation | None:
    """As `by_make`; None also where there are modules of other methods. Rows without an adapter are not touched."""
    ours = [module if isinstance(module, Coupling) else None for module in modules]
    return by_make(ours, counts, _make, _together, expand=expand, apart=True) if ours == list(modules) else None


def _together(modules: Sequence[Coupling | None], counts: Sequence[int] | None, expand: bool) -> MixedInvertible:
    return MixedInvertible(*numbered(modules, counts, expand=expand))


def _make(module: Coupling) -> tuple[object, ...]:
    """What invertible adapters must agree in to run as one."""
    network, _ = module.networks()
    return type(module), network.act, network.down.weight.dtype


class MixedInvertible(Operation):
    """Runs of rows, each through one invertible adapter.

    Args:
        modules: of one make; the sizes of their networks may differ.
        batch: which row takes which.
    """

    def __init__(self, modules: Sequence[Coupling], batch: Numbered) -> None:
        self.modules, self.batch = list(modules), batch
        self.stacked = Kept(modules, partial(self._stack, self.modules))

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        return self._through(self.modules[0].coupled, value)

    def inverse(self, value: Tensor) -> Tensor:
        """The value of which this operation gives `value`, row by row."""
        return self._through(self.modules[0].uncoupled, value)

    def _through(self, coupling: Callable[[Tensor, _Networks, _Networks], Tensor], value: Tensor) -> Tensor:
        """A coupling with the networks of each row. Few tokens are brought to the weights, sorted by adapter; to many, each
        row's weights."""
        rows, width, things = value.shape[0], value.shape[-1], self.batch.things
        of_two, of_one = self.stacked.get()
        read = value.to(of_two.down.dtype).reshape(rows, -1, width)
        if self.batch.even:
            self.batch.lengths(rows)  # raises where the batch does not fit
            found = coupling(read.reshape(things, -1, width), of_two, of_one)
        elif (groups := self._groups(read, of_two)) is None:
            index = self.batch.rows(rows, value.device)
            found = coupling(read, of_two.rows(index), of_one.rows(index))
        else:
            order, places = groups
            found = coupling(read.index_select(0, order).view(things, -1, width), of_two, of_one)
            found = found.view(-1, *read.shape[1:]).index_select(0, places)
        return found.view(value.shape).to(value.dtype)

    def _groups(self, read: Tensor, network: _Networks) -> tuple[Tensor, Tensor] | None:
        """As `Numbered.groups`; None also where the weights of a row are fewer numbers than its tokens."""
        if read.shape[1] > network.down.shape[1]:
            return None
        return self.batch.groups(read.shape[0], read.device)

    @staticmethod
    def _stack(modules: Sequence[Coupling]) -> tuple[_Networks, _Networks]:
        of_two, of_one = zip(*(module.networks() for module in modules), strict=True)
        return _Networks.of(of_two), _Networks.of(of_one)


@dataclass(slots=True)
class _Networks:
    """Networks of one make: down [N, r, in] and up [N, out, r] with biases [N, 1, r] and [N, 1, out], those of the smaller ones
    filled up with 0."""

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    act: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, networks: Sequence[Network]) -> _Networks:
        size = max(network.down.weight.shape[0] for network in networks)
        down = [_filled(network.down.weight, 0, size) for network in networks]
        down_bias = [_filled(_bias(network.down), 0, size) for network in networks]
        up = [_filled(network.up.weight, 1, size) for network in networks]
        up_bias = [_bias(network.up) for network in networks]
        return cls(
            torch.stack(down),
            torch.stack(down_bias).unsqueeze(1),
            torch.stack(up),
            torch.stack(up_bias).unsqueeze(1),
            networks[0].act,
        )

    def rows(self, index: Tensor) -> _Networks:
        """Those of each row."""
        down, down_bias, up, up_bias = (
            part.index_select(0, index) for part in (self.down, self.down_bias, self.up, self.up_bias)
        )
        return _Networks(down, down_bias, up, up_bias, self.act)

    def __call__(self, value: Tensor) -> Tensor:
        """Group by group: [N, S, in] → [N, S, out]."""
        inner = self.act(torch.baddbmm(self.down_bias, value, self.down.transpose(1, 2)))
        return torch.baddbmm(self.up_bias, inner, self.up.transpose(1, 2))


def _bias(linear: Linear) -> Tensor:
    assert linear.bias is not None
    return linear.bias


def _filled(value: Tensor, axis: int, size: int) -> Tensor:
    """With zeros at the end of an axis, so that it has this size."""
    missing = size - value.shape[axis]
    return F.pad(value, (0, 0) * (value.dim() - 1 - axis) + (0, missing)) if missing else value
