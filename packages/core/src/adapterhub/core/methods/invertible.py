"""Invertible adapters on the embedded text (Pfeiffer et al., 2020, MAD-X): coupling blocks whose inverse runs before the
output embedding of a language model.

With x cut into x_1 (the first floor(d/2) features) and x_2, and small networks of two linear maps each:

    NICE (Dinh et al., 2015)            y_1 = x_1 + F(x_2)               y_2 = x_2 + G(y_1)
    GLOW (Kingma & Dhariwal, 2018)      y_1 = e(s_2) x_1 + t_2           y_2 = e(s_1) x_2 + t_1
        (s_2, t_2) = S_2(x_2), (s_1, t_1) = S_1(y_1), e(s) = exp(0.636 c atan(s / c)) with c = 5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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

__all__ = ["Glow", "Nice", "place_invertible"]


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


class _Network(nn.Module):
    """Linear → non-linearity → linear; [..., inputs] → [..., outputs] through floor(inputs / factor) features."""

    def __init__(self, inputs: int, outputs: int, factor: float, non_linearity: str, source: Source) -> None:
        super().__init__()
        inner = max(1, int(inputs // factor))
        self.down = Linear(inputs, inner, source.within("down."), normal(0.02))
        self.up = Linear(inner, outputs, source.within("up."), normal(0.02))
        self.act = activation(non_linearity)

    def forward(self, value: Tensor) -> Tensor:
        return self.up.forward(self.act(self.down.forward(value)))


class Nice(nn.Module):
    """Additive coupling over the last axis, of size `width`; [B, T, width] → the same shape."""

    def __init__(self, width: int, factor: float, non_linearity: str, source: Source) -> None:
        super().__init__()
        self.first, self.second = width // 2, width - width // 2
        self.f = _Network(self.second, self.first, factor, non_linearity, source.within("f."))
        self.g = _Network(self.first, self.second, factor, non_linearity, source.within("g."))

    def forward(self, value: Tensor) -> Tensor:
        one, two = value.to(self.f.down.weight.dtype).split([self.first, self.second], -1)
        one = one + self.f.forward(two)
        two = two + self.g.forward(one)
        return torch.cat([one, two], -1).to(value.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        """x of which `forward` gives `value`."""
        one, two = value.to(self.f.down.weight.dtype).split([self.first, self.second], -1)
        two = two - self.g.forward(one)
        one = one - self.f.forward(two)
        return torch.cat([one, two], -1).to(value.dtype)


class Glow(nn.Module):
    """Affine coupling over the last axis, of size `width`; [B, T, width] → the same shape."""

    clamp = 5.0

    def __init__(self, width: int, factor: float, non_linearity: str, source: Source) -> None:
        super().__init__()
        self.first, self.second = width // 2, width - width // 2
        self.s1 = _Network(self.first, 2 * self.second, factor, non_linearity, source.within("s1."))
        self.s2 = _Network(self.second, 2 * self.first, factor, non_linearity, source.within("s2."))

    def _scale(self, value: Tensor) -> Tensor:
        return torch.exp(self.clamp * 0.636 * torch.atan(value / self.clamp))

    def forward(self, value: Tensor) -> Tensor:
        one, two = value.to(self.s1.down.weight.dtype).split([self.first, self.second], -1)
        scale, shift = self.s2.forward(two).chunk(2, -1)
        one = self._scale(scale) * one + shift
        scale, shift = self.s1.forward(one).chunk(2, -1)
        two = self._scale(scale) * two + shift
        return torch.cat([one, two], -1).to(value.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        """x of which `forward` gives `value`."""
        one, two = value.to(self.s1.down.weight.dtype).split([self.first, self.second], -1)
        scale, shift = self.s1.forward(one).chunk(2, -1)
        two = (two - shift) / self._scale(scale)
        scale, shift = self.s2.forward(two).chunk(2, -1)
        one = (one - shift) / self._scale(scale)
        return torch.cat([one, two], -1).to(value.dtype)
