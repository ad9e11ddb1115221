"""ReFT (Wu et al., 2024, arXiv:2404.03592): low-rank changes of the hidden states at some positions of each layer's output.

    h' = h + P^T (act(W h + b) - P h)       LoReFT: P [r, d] with orthonormal rows;  NoReFT: P any matrix
    h' = h + P^T (act(W h + b))             DiReFT

for h at the first `prefix_positions` and the last `suffix_positions` tokens that are no padding. Only P itself is stored.
Orthonormal rows come from the QR decomposition of the stored matrix, so the length of its rows does not matter and weight
decay cannot make it collapse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import kept
from adapterhub.core.methods.activations import activation
from adapterhub.core.methods.linear import Linear
from adapterhub.core.methods.parameters import Draw, Source, kaiming_uniform
from adapterhub.core.slim import Slim
from adapterhub.spec.config import ReftConfig

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["Intervention", "Reft", "orthonormal_rows", "place"]


def place(config: ReftConfig, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """One module at the output of each layer the config names."""
    for site in pool.layer_sites():
        if config.layers == "all" or site.layer in config.layers:
            yield site, Reft(config, site.width, source(site))


def orthonormal_rows(matrix: Tensor) -> Tensor:
    """The rows of `matrix` [r, d] made orthonormal in their order (Gram-Schmidt, by QR); orthonormal rows stay as they are."""
    q, r = torch.linalg.qr(matrix.to(torch.promote_types(matrix.dtype, torch.float32)).T)
    signs = torch.sign(torch.diagonal(r))
    return (q * torch.where(signs == 0, 1.0, signs)).T.to(matrix.dtype)


def _orthonormal(value: Tensor, generator: torch.Generator) -> None:
    value.copy_(orthonormal_rows(torch.randn(value.shape, generator=generator)))


class Intervention(Slim):
    """The change of a hidden state: `source` [r, d], `projection` [r, d]."""

    def __init__(self, config: ReftConfig, width: int, source: Source) -> None:
        super().__init__()
        draw: Draw = _orthonormal if config.orthogonality else kaiming_uniform
        self.source = Linear(width, config.r, source.within("source."), kaiming_uniform)
        self.projection = source("projection", (config.r, width), draw)
        self.orthogonal, self.subtract = config.orthogonality, config.subtract_projection
        self.act = activation(config.non_linearity) if config.non_linearity else None
        self.dropout = float(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """What is added to `hidden` [..., d]."""
        projection = kept(self, self.rows) if self.orthogonal else self.projection
        value = hidden.to(projection.dtype)
        target = self.source.forward(value)
        if self.act is not None:
            target = self.act(target)
        if self.subtract:
            target = target - F.linear(value, projection)
        if self.dropout and self.training:
            target = F.dropout(target, self.dropout)
        return (target @ projection).to(hidden.dtype)

    def rows(self) -> Tensor:
        """P [r, d]: the stored matrix, its rows made orthonormal where they shall be."""
        return orthonormal_rows(self.projection) if self.orthogonal else self.projection


class Reft(Slim):
    """The interventions at one layer's output: `prefix` for the first positions, `suffix` for the last, or one for both."""

    def __init__(self, config: ReftConfig, width: int, source: Source) -> None:
        super().__init__()
        self.first, self.last = config.prefix_positions, config.suffix_positions
        self.prefix = (
            Intervention(config, width, source.within("prefix.")) if self.first or config.tied_weights else None
        )
        self.suffix = (
            Intervention(config, width, source.within("suffix.")) if self.last and not config.tied_weights else None
        )

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`hidden` [B, T, d] with the interventions made.

        Args:
            mask: 1 for tokens, 0 for padding, [B, L], of all tokens so far; with L > T the first L - T were seen in earlier
                calls. None: T tokens, no padding.
        """
        return self.changed(hidden, mask, lambda unit, value: unit.forward(value))

    def changed(self, hidden: Tensor, mask: Tensor | None, change: Callable[[Intervention, Tensor], Tensor]) -> Tensor:
        """As `forward`, with `change(intervention, states [B, n, d])` in place of what the intervention adds."""
        rows, length, width = hidden.shape
        if mask is None:
            mask = hidden.new_ones(rows, length)
        present = mask != 0
        start, count = present.int().argmax(1), present.sum(1)
        seen = mask.shape[1] - length
        changed = hidden
        for intervention, positions in self._units(start, count, hidden.device):
            inside = (positions >= start[:, None].clamp(min=seen)) & (positions < (start + count)[:, None])
            index = (positions - seen).clamp(0, length - 1)[..., None].expand(-1, -1, width)
            update = change(intervention, hidden.gather(1, index)) * inside[..., None].to(hidden.dtype)
            changed = changed.scatter_add(1, index, update)
        return changed

    def _units(self, start: Tensor, count: Tensor, device: torch.device) -> Iterator[tuple[Intervention, Tensor]]:
        """Each intervention with the positions [B, n] it acts on; a token is changed once."""
        if self.first:
            assert self.prefix is not None
            yield self.prefix, start[:, None] + torch.arange(self.first, device=device)
        if self.last:
            positions = (start + count)[:, None] - self.last + torch.arange(self.last, device=device)
            taken = positions < start[:, None] + self.first
            unit = self.suffix or self.prefix
            assert unit is not None
            yield unit, torch.where(taken, torch.full_like(positions, -1), positions)
