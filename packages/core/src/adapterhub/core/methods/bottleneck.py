"""Bottleneck adapters: down-projection, non-linearity, up-projection at a sublayer (h, r, norm).

With h the output of the sublayer, r the residual the model adds to it and norm the model's norm of h + r (or none):

    up(x)        = scaling · (W_up act(W_down n(x) + b_down) + b_up)        n = own norm if `ln_before`
    core(x, s)   = m(g(x) · dropout(up(x)) [+ s]) [+ s]                     m = own norm if `ln_after`, s before or after it
    sequential:  h' = core(x, s),  x = h | h + r | norm(h + r),  s = h | h + r | x        (Houlsby et al., 2019; Pfeiffer et al., 2021)
    parallel:    h' = h + core(r, 0)                                                      (He et al., 2022)

The model then computes norm(h' + r) itself; with `original_ln_after=False` its result is replaced by h'.
Gate (Mao et al., 2022): g(x) = mean over tokens of sigmoid(W_g x + b_g), one number a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.activations import activation
from adapterhub.core.methods.linear import Linear, Norm
from adapterhub.core.methods.parameters import (
    Draw,
    Source,
    kaiming_uniform,
    normal,
    ones,
    truncated_normal,
    zeros,
)
from adapterhub.core.methods.phm import PHMLinear, SharedPHM
from adapterhub.core.slim import Slim
from adapterhub.spec.config import BottleneckConfig

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["Bottleneck", "bottleneck_size", "place"]

#: init_weights → how down, up and gate are drawn (Devlin et al., 2019; He et al., 2022; Houlsby et al., 2019)
_DRAWS: dict[str, tuple[Draw, Draw, Draw]] = {
    "bert": (normal(0.02), normal(0.02), normal(0.02)),
    "mam_adapter": (kaiming_uniform, zeros, normal(0.02)),
    "houlsby": (truncated_normal(0.01, 0.02), truncated_normal(0.01, 0.02), kaiming_uniform),
}


def place(config: BottleneckConfig, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """The modules of a bottleneck adapter: one at each sublayer its switches name, what PHM layers share, and the
    invertible block on the embedding."""
    from adapterhub.core.sites import SublayerSite

    shared, switches = None, Switches.of(config)
    if config.phm_layer:
        width = pool.layout.layers[0].width
        shared = SharedPHM(config, width, bottleneck_size(config, width, 0), source(pool.shared_site))
        if any(True for _ in shared.parameters()):
            yield pool.shared_site, shared
    if config.inv_adapter is not None:
        from adapterhub.core.methods.invertible import place_invertible

        yield place_invertible(config, pool, source)
    for site in pool.sites:
        if isinstance(site, SublayerSite) and getattr(config, site.place.switch) and site.layer not in config.leave_out:
            assert site.layer is not None
            size = bottleneck_size(config, site.width, site.layer)
            yield site, Bottleneck(config, site.width, size, source(site), shared, switches)


def bottleneck_size(config: BottleneckConfig, width: int, layer: int) -> int:
    """Size of the bottleneck in one layer: given, or floor(width / reduction factor), at least 1.

    Raises:
        InvalidConfigError: a map of reduction factors without an entry for this layer.
    """
    if config.bottleneck_size is not None:
        return config.bottleneck_size
    factor = config.reduction_factor
    if isinstance(factor, dict):
        factor = factor.get(str(layer), factor.get("default"))
        if factor is None:
            from adapterhub.spec.errors import InvalidConfigError

            raise InvalidConfigError(
                f"reduction_factor has no entry for layer {layer} and no 'default'.", hint="Add a 'default' entry."
            )
    assert factor is not None
    return max(1, int(width // factor))


@dataclass(frozen=True, slots=True)
class Switches:
    """How a bottleneck computes, apart from its parameters; one object for all sites of an adapter."""

    activation_name: str
    act: Callable[[Tensor], Tensor]
    parallel: bool
    norm_first: bool
    norm_last: bool
    skip_from: bool | str
    skip_inside: bool
    dropout: float
    depth_dropout: float
    scaling: float | None

    @classmethod
    def of(cls, config: BottleneckConfig) -> Switches:
        """Those of a config; `scaling` is None where it is learned."""
        return cls(
            activation_name=config.non_linearity,
            act=activation(config.non_linearity),
            parallel=config.is_parallel,
            norm_first=config.original_ln_before,
            norm_last=config.original_ln_after,
            skip_from=config.residual_before_ln,
            skip_inside=config.adapter_residual_before_ln,
            dropout=float(config.dropout),
            depth_dropout=0.0 if config.is_parallel else float(config.stochastic_depth),
            scaling=None if isinstance(config.scaling, str) else float(config.scaling),
        )


class Bottleneck(Slim):
    """One bottleneck at one sublayer.

    Args:
        config: all switches.
        width: size d of h.
        size: size of the bottleneck.
        source: where parameters come from: down [size, d], up [d, size], and what the switches ask for.
        shared: for PHM layers, what they share.
        switches: those of the config, where there is an object already.
    """

    norm_before: Norm | None
    down: Linear | PHMLinear
    up: Linear | PHMLinear
    norm_after: Norm | None
    gate: Linear | None

    def __init__(
        self,
        config: BottleneckConfig,
        width: int,
        size: int,
        source: Source,
        shared: SharedPHM | None = None,
        switches: Switches | None = None,
    ) -> None:
        super().__init__()
        draw_down, draw_up, draw_gate = _DRAWS[config.init_weights]
        parts: dict[str, nn.Module | None] = self._modules
        parts["norm_before"] = Norm(width, source.within("norm_before.")) if config.ln_before else None
        if config.phm_layer:
            assert shared is not None
            parts["down"] = PHMLinear(width, size, config, source.within("down."), shared, "down")
            parts["up"] = PHMLinear(size, width, config, source.within("up."), shared, "up")
        else:
            parts["down"] = Linear(width, size, source.within("down."), draw_down)
            parts["up"] = Linear(size, width, source.within("up."), draw_up)
        parts["norm_after"] = Norm(width, source.within("norm_after.")) if config.ln_after else None
        parts["gate"] = Linear(width, 1, source.within("gate."), draw_gate) if config.use_gating else None
        if config.scaling == "learned":
            self._parameters["scaling"] = source("scaling", (1,), ones)
        elif config.scaling == "channel":
            self._parameters["scaling"] = source("scaling", (width,), ones)
        object.__setattr__(self, "switches", switches or Switches.of(config))

    switches: Switches
    # what others read of the switches, by the same names
    activation_name = property(lambda self: self.switches.activation_name)
    act = property(lambda self: self.switches.act)
    parallel = property(lambda self: self.switches.parallel)
    norm_first = property(lambda self: self.switches.norm_first)
    norm_last = property(lambda self: self.switches.norm_last)
    skip_from = property(lambda self: self.switches.skip_from)
    skip_inside = property(lambda self: self.switches.skip_inside)
    dropout = property(lambda self: self.switches.dropout)
    depth_dropout = property(lambda self: self.switches.depth_dropout)

    @property
    def scaling(self) -> float | nn.Parameter:
        """The factor of the up-projection: a number, or a parameter [1] or [d] where it is learned."""
        fixed = self.switches.scaling
        if fixed is not None:
            return fixed
        learned = self._parameters["scaling"]
        assert learned is not None
        return learned

    @property
    def needs_residual(self) -> bool:
        """Whether r takes part in h'."""
        return self.parallel or self.norm_first

    @property
    def takes_sum(self) -> bool:
        """Whether h is read as norm(h + r) only, and h' = h + something: of h + r in place of h it gives h' + r."""
        return (
            self.norm_first
            and self.norm_last
            and not self.parallel
            and self.skip_from is True
            and not (self.skip_inside and self.norm_after is not None)
        )

    @property
    def plain(self) -> bool:
        """h' = s + scaling · (W_up act(W_down x + b) + b) with constant scaling: nothing else takes part."""
        return (
            isinstance(self.down, Linear)
            and self.norm_before is None
            and self.norm_after is None
            and self.gate is None
            and not isinstance(self.scaling, nn.Parameter)
        )

    def before(self, hidden: Tensor, residual: Tensor | None, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        """(x, s): what the down-projection reads and what is added to the result. All [B, T, d]."""
        if self.parallel:
            assert residual is not None
            return residual, hidden
        value = skip = hidden
        if self.norm_first:
            if residual is not None:
                value = hidden + residual
            if self.skip_from == "post_add":
                skip = value
            if norm is not None:
                value = norm.forward(value)
        if self.skip_from is False:
            skip = value
        return value, skip

    def inner(self, value: Tensor) -> Tensor:
        """act(W_down n(x) + b_down): [..., d] → [..., size]."""
        weight = self.down.weight if isinstance(self.down, Linear) else self.down.bias
        if weight is not None and value.dtype != weight.dtype and not torch.is_autocast_enabled(value.device.type):
            value = value.to(weight.dtype)
        if self.norm_before is not None:
            value = self.norm_before.forward(value)
        return self.act(self.down.forward(value))

    def output(self, value: Tensor) -> Tensor:
        """up(x), before dropout and gate: [..., d] → [..., d]."""
        result = self.up.forward(self.inner(value))
        if self.depth_dropout and self.training:
            keep = torch.rand(result.shape[0], *[1] * (result.dim() - 1), device=result.device) >= self.depth_dropout
            result = result * keep.to(result.dtype) / (1 - self.depth_dropout)
        if isinstance(self.scaling, nn.Parameter) or self.scaling != 1.0:
            result = result * self.scaling
        return result

    def forward(self, hidden: Tensor, residual: Tensor | None, norm: nn.Module | None) -> Tensor:
        """h' [B, T, d] from h, r [B, T, d] and the model's norm (None where the model is pre-LN)."""
        value, skip = self.before(hidden, residual, norm)
        result = self.output(value)
        if self.dropout and self.training:
            result = F.dropout(result, self.dropout)
        if self.gate is not None:
            result = result * gate_of(self.gate, value)
        if self.skip_inside and not self.parallel:
            result = result + skip
        if self.norm_after is not None:
            result = self.norm_after.forward(result)
        if not self.skip_inside or self.parallel:
            result = skip + result
        return result if result.dtype == hidden.dtype else result.to(hidden.dtype)


def gate_of(gate: Linear, value: Tensor) -> Tensor:
    """mean over tokens of sigmoid(W x + b): [B, T, d] → [B, 1, 1]."""
    return torch.sigmoid(gate.forward(value.to(gate.weight.dtype))).mean(dim=-2, keepdim=True)
