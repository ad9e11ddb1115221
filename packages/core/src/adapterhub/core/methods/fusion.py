"""AdapterFusion: attention over the outputs of several adapters (Pfeiffer et al., 2021, arXiv:2005.00247).

With x the query [B, T, d] and U_i the output of adapter i (before its residual connection):

    s_i = dropout((W_q x + b_q) · (W_k U_i + b_k))      p = softmax over i of s / temperature      o = sum_i p_i W_v U_i (+ skip)

W_q, W_k start from N(0, 0.02²); W_v from the identity plus 1e-6 elsewhere (`value_initialized`), so that at first the fusion
averages. Temperature, where it is used, falls from 50 to 1 by 0.05 a training step and is kept with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.methods.linear import Linear
from adapterhub.core.methods.parameters import Source, normal
from adapterhub.core.slim import Slim

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site
    from adapterhub.spec.fusion import FusionConfig

__all__ = ["FusionLayer", "place_fusion"]

_HIGHEST, _STEP = 50.0, 0.05


def place_fusion(
    adapters: Sequence[str], config: FusionConfig, pool: Pool, source: Callable[[Site], Source]
) -> Iterator[tuple[Site, nn.Module]]:
    """A fusion layer at every sublayer where at least one of the adapters has a bottleneck."""
    from adapterhub.core.sites import SublayerSite

    dropout = config.dropout_prob if config.dropout_prob is not None else _attention_dropout(pool)
    for site in pool.sites_of(adapters):
        if isinstance(site, SublayerSite) and any(isinstance(site.find(name), Bottleneck) for name in adapters):
            yield site, FusionLayer(config, site.width, float(dropout), source(site))


def _attention_dropout(pool: Pool) -> float:
    config = getattr(pool.base_model, "config", None)
    for name in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _near_identity(value: Tensor, generator: torch.Generator) -> None:
    value.fill_(1e-6).fill_diagonal_(1.0)


def _highest(value: Tensor, generator: torch.Generator) -> None:
    value.fill_(_HIGHEST)


class FusionLayer(Slim):
    """The attention of one site.

    Args:
        config: which projections there are.
        width: d.
        dropout: of the scores, in training.
        source: where parameters come from: query and key [d, d] with bias, value [d, d] without, temperature [].
    """

    fixed_leaves = frozenset({"temperature"})

    def __init__(self, config: FusionConfig, width: int, dropout: float, source: Source) -> None:
        super().__init__()
        draw = normal(0.02)
        self.query = Linear(width, width, source.within("query."), draw) if config.query else None
        self.key = Linear(width, width, source.within("key."), draw) if config.key else None
        drawn = _near_identity if config.value_initialized else draw
        self.value = Linear(width, width, source.within("value."), drawn, bias=False) if config.value else None
        self.temperature = source("temperature", (), _highest, optional=True) if config.temperature else None
        if self.temperature is not None:
            self.temperature.requires_grad_(False)
        self.dropout = dropout
        self.query_before_norm = config.query_before_ln
        self.residual_before = config.residual_before
        self.regularized = config.regularization and config.value

    def cooled(self, scores: Tensor) -> Tensor:
        """scores / temperature; in training the temperature then falls."""
        if self.temperature is None:
            return scores
        scores = scores / self.temperature.to(
            scores.dtype, copy=True
        )  # backward reads what it was, not what it falls to
        if self.training:
            with torch.no_grad():
                self.temperature.sub_(_STEP).clamp_(min=1.0)
        return scores

    def penalty(self) -> Tensor:
        """‖I - W_v‖² (Frobenius), the regularisation of the value matrix."""
        assert self.value is not None
        weight = self.value.weight
        identity = torch.eye(weight.shape[0], device=weight.device, dtype=weight.dtype)
        return (identity - weight).square().sum()
