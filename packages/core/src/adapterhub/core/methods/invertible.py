"""Invertible adapters on the embedded text (Pfeiffer et al., 2020, MAD-X): coupling blocks whose inverse runs before the
output embedding of a language model.

With x cut into x_1 (the first floor(d/2) features) and x_2, and small networks of two linear maps each:

    NICE (Dinh et al., 2015)            y_1 = x_1 + F(x_2)               y_2 = x_2 + G(y_1)
    GLOW (Kingma & Dhariwal, 2018)      y_1 = e(s_2) x_1 + t_2           y_2 = e(s_1) x_2 + t_1
        (s_2, t_2) = S_2(x_2), (s_1, t_1) = S_1(y_1), e(s) = exp(0.636 c atan(s / c)) with c = 5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from adapterhub.core.methods.activations import activation
from adapterhub.core.methods.linear import Linear
from adapterhub.core.methods.parameters import Source, normal
from adapterhub.spec.config import BottleneckConfig
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["Coupling", "Glow", "Network", "Nice", "place_invertible"]

#: [..., inputs] → [..., outputs]
Map: TypeAlias = Callable[[Tensor], Tensor]


def place_invertible(config: BottleneckConfig, pool: Pool, source: Callable[[Site], Source]) -> tuple[Site, nn.Module]:
    """The invertible block of a bottleneck config, at the embedding.

    Raises:
        InvalidConfigError: the family has no embedding site.
    """
    site = pool.embedding_site
    if site is None:
        raise InvalidConfigError(
            f"The family {pool.layout.family!r} has no place for invertible adapters.",
            hint="Set inv_adapter=None, or name the embedding in the family file.",
        )
    block = Nice if config.inv_adapter == "nice" else Glow
    assert config.inv_adapter_reduction_factor is not None
    return site, block(site.place.width, float(config.inv_adapter_reduction_factor), config.non_linearity, source(site))


class Network(nn.Module):
    """Linear → non-linearity → linear; [..., inputs] → [..., outputs] through floor(inputs / factor) features."""

    def __init__(self, inputs: int, outputs: int, factor: float, non_linearity: str, source: Source) -> None:
        super().__init__()
        inner = max(1, int(inputs // factor))
        self.down = Linear(inputs, inner, source.within("down."), normal(0.02))
        self.up = Linear(inner, outputs, source.within("up."), normal(0.02))
        self.act = activation(non_linearity)

    def forward(self, value: Tensor) -> Tensor:
        return self.up.forward(self.act(self.down.forward(value)))


class Coupling(nn.Module):
    """Base of the blocks over the last axis, of size `width`; [B, T, width] → the same shape.

    `coupled` and `uncoupled` are the formulas above and their inverses. They take the two networks, that of x_2 and that of y_1,
    as functions of [..., d/2], so that they serve the block's own and those of many blocks alike.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = width // 2, width - width // 2

    def networks(self) -> tuple[Network, Network]:
        """The network of x_2 and that of y_1."""
        raise NotImplementedError

    def coupled(self, value: Tensor, of_two: Map, of_one: Map) -> Tensor:
        """y from x."""
        raise NotImplementedError

    def uncoupled(self, value: Tensor, of_two: Map, of_one: Map) -> Tensor:
        """x from y."""
        raise NotImplementedError

    def forward(self, value: Tensor) -> Tensor:
        of_two, of_one = self.networks()
        read = value.to(of_two.down.weight.dtype)
        return self.coupled(read, of_two.forward, of_one.forward).to(value.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        """x of which `forward` gives `value`."""
        of_two, of_one = self.networks()
        read = value.to(of_two.down.weight.dtype)
        return self.uncoupled(read, of_two.forward, of_one.forward).to(value.dtype)

    def _halves(self, value: Tensor) -> tuple[Tensor, Tensor]:
        one, two = value.split([self.first, self.second], -1)
        return one, two


class Nice(Coupling):
    """Additive coupling."""

    def __init__(self, width: int, factor: float, non_linearity: str, source: Source) -> None:
        super().__init__(width)
        self.f = Network(self.second, self.first, factor, non_linearity, source.within("f."))
        self.g = Network(self.first, self.second, factor, non_linearity, source.within("g."))

    def networks(self) -> tuple[Network, Network]:
        return self.f, self.g

    def coupled(self, value: Tensor, of_two: Map, of_one: Map) -> Tensor:
        one, two = self._halves(value)
        one = one + of_two(two)
        two = two + of_one(one)
        return torch.cat([one, two], -1)

    def uncoupled(self, value: Tensor, of_two: Map, of_one: Map) -> Tensor:
        one, two = self._halves(value)
        two = two - of_one(one)
        one = one - of_two(two)
        return torch.cat([one, two], -1)


class Glow(Coupling):
    """Affine coupling."""

    clamp = 5.0

    def __init__(self, width: int, factor: float, non_linearity: str, source: Source) -> None:
        super().__init__(width)
        self.s1 = Network(self.first, 2 * self.second, factor, non_linearity, source.within("s1."))
        self.s2 = Network(self.second, 2 * self.first, factor, non_linearity, source.within("s2."))

    def networks(self) -> tuple[Network, Network]:
        return self.s2, self.s1

    def coupled(self, value: Tensor, of_two: Map, of_one: Map) -> Tensor:
        one, two = self._halves(value)
        scale, shift = of_two(two).chunk(2, -1)
        one = self._scale(scale) * one + shift
        scale, shift = of_one(one).chunk(2, -1)
        two = self._scale(scale) * two + shift
        return torch.cat([one, two], -1)

    def uncoupled(self, value: Tensor, of_two: Map, of_one: Map) -> Tensor:
        one, two = self._halves(value)
        scale, shift = of_one(one).chunk(2, -1)
        two = (two - shift) / self._scale(scale)
        scale, shift = of_two(two).chunk(2, -1)
        one = (one - shift) / self._scale(scale)
        return torch.cat([one, two], -1)

    def _scale(self, value: Tensor) -> Tensor:
        return torch.exp(self.clamp * 0.636 * torch.atan(value / self.clamp))
