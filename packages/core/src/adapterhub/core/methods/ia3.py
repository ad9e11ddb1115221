"""IA3 (Liu et al., 2022, arXiv:2205.05638): learned vectors that rescale activations.

y = alpha · l ⊙ (W x + b)       at keys, values and the up projection: l [out]
y = W (alpha · l ⊙ x) + b       at the down projection, as in the paper: l [in]
gated (Mao et al., 2022): alpha is replaced by mean over tokens of sigmoid(W_g x + b_g)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.linear import Linear
from adapterhub.core.methods.parameters import Source, normal, ones
from adapterhub.core.slim import Slim
from adapterhub.spec.config import IA3Config

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["IA3", "place"]


def place(config: IA3Config, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """One vector at each linear map the config names: on its output, or on its input."""
    attention = [f"{front}{matrix}" for front in ("", "cross_") for matrix in config.attn_matrices if config.selfattn]
    outputs = attention + ["up"] * (config.ffn == "up_output")
    inputs = ["down"] if config.ffn == "down_input" and config.targets is None else []
    named = config.input_targets if config.targets is not None or config.input_targets else None
    for site in pool.linear_sites(outputs, config.targets):
        if site.layer is None or site.layer not in config.leave_out:
            yield site, IA3(config, site.place.outputs, site.place.inputs, source(site))
    for site in pool.linear_sites(inputs, named, on_input=True):
        if site.layer is None or site.layer not in config.leave_out:
            yield site, IA3(config, site.place.inputs, site.place.inputs, source(site))


class IA3(Slim):
    """One rescaling vector.

    Args:
        config: switches.
        width: size of what is rescaled.
        inputs: size of what the gate reads.
        source: where `scale` [width] and the gate come from.
    """

    def __init__(self, config: IA3Config, width: int, inputs: int, source: Source) -> None:
        super().__init__()
        self.scale = source("scale", (width,), ones)
        self.gate = Linear(inputs, 1, source.within("gate."), normal(0.02)) if config.use_gating else None
        self.alpha = 1.0 if config.use_gating else float(config.alpha)
        self.dropout = float(config.dropout)

    def forward(self, output: Tensor, value: Tensor) -> Tensor:
        """The rescaled value [..., width]; `value` is what the gate reads."""
        scale = self.scale if self.alpha == 1.0 else self.scale * self.alpha
        if self.gate is not None:
            gate = torch.sigmoid(self.gate.forward(value.to(self.gate.weight.dtype))).mean(dim=-2, keepdim=True)
            scale = scale * gate
        if self.dropout and self.training:
            scale = F.dropout(scale, self.dropout)
        return (output * scale).to(output.dtype)
