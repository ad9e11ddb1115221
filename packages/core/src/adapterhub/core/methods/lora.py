"""LoRA (Hu et al., 2022, arXiv:2106.09685): low-rank updates beside frozen linear maps.

y = W x + b + s · B A dropout(x)          A [r, in], B [out, r],  s = alpha / r, or alpha / sqrt(r) rank-stabilised
with `bias` a trained offset c [out] is added to y
gated (Mao et al., 2022): s is replaced by mean over tokens of sigmoid(W_g x + b_g)
DoRA (Liu et al., 2024, arXiv:2402.09353):  y = m / ‖W + s B A‖ · (W x + s B A dropout(x)) + b
    with m [out] trained and the norm taken over the rows of the sum, as a constant in the backward pass
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import kept
from adapterhub.core.methods.linear import Linear
from adapterhub.core.methods.parameters import Draw, Source, kaiming_uniform, normal, zeros
from adapterhub.core.slim import Slim
from adapterhub.spec.config import LoRAConfig
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site
    from adapterhub.core.sites.linears import LinearSite

__all__ = ["LoRA", "dense_weight", "place"]


def _orthogonal(value: Tensor, generator: torch.Generator) -> None:
    """Orthonormal rows or columns (Saxe et al., 2014), from the QR of a Gaussian matrix."""
    tall = value if value.shape[0] >= value.shape[1] else value.T
    q, r = torch.linalg.qr(torch.randn(tall.shape, generator=generator))
    tall.copy_(q * torch.sign(torch.diagonal(r)))


#: init_weights → how A and B are drawn
_DRAWS: dict[str, tuple[Draw, Draw]] = {
    "lora": (kaiming_uniform, zeros),
    "bert": (normal(0.02), normal(0.02)),
    "gaussian": (normal(0.02), zeros),
    "orthogonal": (_orthogonal, zeros),
}


def place(config: LoRAConfig, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """One module at each linear map the config names."""
    for site in pool.linear_sites(wanted_roles(config), config.targets):
        if site.layer is not None and site.layer in config.leave_out:
            continue
        rank = int(_patterned(config.rank_pattern, site, config.r))
        alpha = float(_patterned(config.alpha_pattern, site, config.alpha))
        yield site, LoRA(config, site, rank, alpha, source(site))


def wanted_roles(config: LoRAConfig) -> list[str]:
    """The roles of linear maps the switches of the config name; those of cross-attention come along."""
    roles = [f"{front}{matrix}" for front in ("", "cross_") for matrix in config.attn_matrices if config.selfattn_lora]
    return roles + ["up"] * config.intermediate_lora + ["down"] * config.output_lora


def _patterned(pattern: dict[str, int] | dict[str, int | float], site: LinearSite, default: int | float) -> int | float:
    for name, value in pattern.items():
        if name in (site.place.role, site.place.path) or f".{site.place.path}".endswith(f".{name}"):
            return value
    return default


class LoRA(Slim):
    """The update of one linear map.

    Args:
        config: switches.
        site: the map.
        rank, alpha: r and alpha here.
        source: where A [rank, in], B [out, rank], and where asked for `magnitude` [out], `bias` [out] and the gate come from.
    """

    def __init__(self, config: LoRAConfig, site: LinearSite, rank: int, alpha: float, source: Source) -> None:
        super().__init__()
        if config.composition_mode != "add":
            raise InvalidConfigError("LoRA with composition_mode='scale' is IA3.", hint="Use the ia3 preset.")
        inputs, outputs = site.place.inputs, site.place.outputs
        self.linear = _Reference(site)
        draw_a, draw_b = _DRAWS[config.init_weights]
        self.a = source("a", (rank, inputs), draw_a)
        self.b = source("b", (outputs, rank), draw_b)
        self.magnitude: nn.Parameter | None = None
        if config.use_dora:
            self.magnitude = source("magnitude", (outputs,), lambda value, _: value.copy_(_row_norms(self.linear())))
        self.gate = Linear(inputs, 1, source.within("gate."), normal(0.02)) if config.use_gating else None
        self.bias = source("bias", (outputs,), zeros) if config.bias else None
        self.scale = 1.0 if config.use_gating else alpha / _divisor(rank, config.use_rslora)
        self.dropout = float(config.dropout)
        #: set for checkpoints trained with adapters 1.3, whose norm lacks the scale and whose bias is rescaled too
        self.unscaled_norm = False

    def delta(self) -> Tensor:
        """s · B A [out, in], the update as one matrix."""
        return self.scale * (self.b @ self.a)

    def forward(self, output: Tensor, value: Tensor) -> Tensor:
        """The adapted output [..., out] from the map's output [..., out] and input [..., in]."""
        value = value.to(self.a.dtype) if not torch.is_autocast_enabled(value.device.type) else value
        dropped = F.dropout(value, self.dropout) if self.dropout and self.training else value
        inner = F.linear(dropped, self.a)
        if self.gate is None and self.magnitude is None and inner.dtype == output.dtype == self.b.dtype:
            # s · B z is added by the product itself
            flat = output.reshape(-1, output.shape[-1])
            placed = torch.addmm(flat, inner.reshape(-1, inner.shape[-1]), self.b.t(), alpha=self.scale).view(
                output.shape
            )
            return placed if self.bias is None else placed + self.bias
        update = F.linear(inner, self.b)
        if self.scale != 1.0:
            update = update * self.scale
        if self.gate is not None:
            update = update * torch.sigmoid(self.gate.forward(value)).mean(dim=-2, keepdim=True)
        placed = self._placed(output, update.to(output.dtype))
        return placed if self.bias is None else placed + self.bias.to(output.dtype)

    def _placed(self, output: Tensor, update: Tensor) -> Tensor:
        """Output and update together: added, and with DoRA brought to the trained norms."""
        if self.magnitude is None:
            return output + update
        factor = kept(self, self._factor, self.linear.site.linear).to(output.dtype)
        bias = self._kept_bias()
        if bias is None:
            return (output + update) * factor
        return (output - bias + update) * factor + bias

    def norms(self) -> tuple[Tensor, Tensor | None] | None:
        """m / ‖W + s B A‖ [out] and the bias of the map [out], which it does not rescale; None without DoRA."""
        return None if self.magnitude is None else (self._factor(), self._kept_bias())

    def _kept_bias(self) -> Tensor | None:
        return None if self.unscaled_norm else self.linear.bias()

    def _factor(self) -> Tensor:
        """m / ‖W + s B A‖ [out]."""
        assert self.magnitude is not None
        weight = self.linear().detach()
        delta = (self.b @ self.a).detach()
        return self.magnitude / _row_norms(weight + (delta if self.unscaled_norm else self.scale * delta))


class _Reference:
    """A frozen linear map seen from an adapter module, without becoming its child."""

    __slots__ = ("site",)

    def __init__(self, site: LinearSite) -> None:
        self.site = site

    def __call__(self) -> Tensor:
        weight = dense_weight(self.site.linear)
        return weight[self.site.place.rows]

    def bias(self) -> Tensor | None:
        bias = getattr(self.site.linear, "bias", None)
        return None if bias is None else bias.detach()[self.site.place.rows]


def dense_weight(linear: nn.Module) -> Tensor:
    """The weight of a linear map as [out, in] numbers.

    Raises:
        InvalidConfigError: a quantised map that keeps no numbers.
    """
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InvalidConfigError(
            f"{type(linear).__name__} keeps its weight quantised, so DoRA and merging cannot read it.",
            hint="Use plain LoRA, or load the model without quantisation.",
        )
    return weight.T if type(linear).__name__ == "Conv1D" else weight


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1)


def _divisor(rank: int, stabilised: bool) -> float:
    return math.sqrt(rank) if stabilised else float(rank)
