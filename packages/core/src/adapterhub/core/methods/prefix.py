"""Prefix tuning (Li & Liang, 2021, arXiv:2101.00190): trained keys and values in front of those of the text.

For the L attentions of one kind in one tower, P prefix tokens, key/value heads of total size k and hidden size d:

    Z = W_up act(W_down E + b_down) + b_up      E [P, d], W_down [b, d], W_up [2 L k, b]     Z [P, 2 L k]
    flat: Z itself is trained
    attention i:  K' = [g Z_2i ; K],  V' = [g Z_2i+1 ; V]
    positions: the text stands at P, P + 1, …, as PEFT has it; else at 0, 1, …
    gated (Mao et al., 2022): g = mean over tokens of sigmoid(W_g x + b_g), one for K and V or (`shared_gating=False`) two
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
from adapterhub.core.methods.parameters import Source, normal
from adapterhub.core.slim import Slim
from adapterhub.spec.config import PrefixTuningConfig
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site
    from adapterhub.core.sites.attention import AttentionSite

__all__ = ["Prefix", "PrefixNetwork", "place"]


def place(config: PrefixTuningConfig, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """The networks, shared by all attentions of a kind and tower, and one module at each attention."""
    groups: dict[str, list[AttentionSite]] = {}
    two_towers = len({layer.tower for layer in pool.layout.layers}) > 1
    for site in pool.attention_sites():
        if site.layer in config.leave_out:
            continue
        if site.kind == "cross_attention" and not config.cross_prefix:
            continue
        if two_towers and site.place.tower == "encoder" and not config.encoder_prefix:
            continue
        groups.setdefault(f"{site.place.tower}_{site.kind}", []).append(site)
    if not groups:
        raise InvalidConfigError("Prefix tuning finds no attention in this model's family file.")
    networks = nn.ModuleDict()
    inner = source(pool.shared_site)
    for name, sites in groups.items():
        networks[name] = PrefixNetwork(config, sites[0].width, len(sites), sites[0], inner.within(f"{name}."))
    yield pool.shared_site, networks
    if config.positions and (moved := pool.position_site()) is not None:
        yield moved, Shift(config.prefix_length)
    for name, sites in groups.items():
        for position, site in enumerate(sites):
            network = networks[name]
            assert isinstance(network, PrefixNetwork)
            yield site, Prefix(config, network, position, site.width, source(site))


class Shift(Slim):
    """Positions of text that stands behind `length` tokens of a prefix."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, positions: Tensor) -> Tensor:
        """Moved up by the length."""
        return positions + self.length


class PrefixNetwork(Slim):
    """Z of one kind of attention in one tower.

    Args:
        config: sizes.
        width: d.
        layers: L.
        site: one of the attentions, for the size of its heads.
        source: `tokens` [P, d], `down`, `up`; or `values` [P, 2 L k] where flat.
    """

    def __init__(
        self, config: PrefixTuningConfig, width: int, layers: int, site: AttentionSite, source: Source
    ) -> None:
        super().__init__()
        self.size = site.heads * site.size
        total = 2 * layers * self.size
        self.flat = config.flat
        if config.flat:
            self.values = source("values", (config.prefix_length, total), normal(0.02))
        else:
            self.tokens = source("tokens", (config.prefix_length, width), normal(1.0))
            self.down = Linear(width, config.bottleneck_size, source.within("down."), normal(0.02))
            self.up = Linear(config.bottleneck_size, total, source.within("up."), normal(0.02))
        self.act = activation(config.non_linearity)
        self.dropout = float(config.dropout)

    def keys_and_values(self, position: int) -> Tensor:
        """[P, 2 k]: key and value of each prefix token for one attention."""
        start, stop = 2 * position * self.size, 2 * (position + 1) * self.size
        if self.flat:
            found = self.values[:, start:stop]
        else:
            inner = self.act(self.down.forward(self.tokens))
            assert self.up.bias is not None
            found = F.linear(inner, self.up.weight[start:stop], self.up.bias[start:stop])
        return F.dropout(found, self.dropout) if self.dropout and self.training else found


class Prefix(Slim):
    """The prefix of one attention. The network is shared and lives elsewhere."""

    def __init__(
        self, config: PrefixTuningConfig, network: PrefixNetwork, position: int, width: int, source: Source
    ) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so that it is no child of this module
        self.position = position
        self.moves_text = config.positions
        gates = 1 if config.shared_gating else 2
        self.gate = Linear(width, gates, source.within("gate."), normal(0.02)) if config.use_gating else None

    def forward(self, before: Tensor, hidden: Tensor | None) -> Tensor:
        """[B, P, 2 k + 1] for `before` [B, …]: key, value and a 1 for each prefix token; gates read `hidden` [B, T, d]."""
        network = self.network
        changes = self.drops and network.training
        found = (self.tokens() if changes else kept(self, self.tokens, network)).to(before.dtype)
        found = found.expand(before.shape[0], -1, -1)
        if self.gate is None:
            return found
        assert hidden is not None
        gate = torch.sigmoid(self.gate.forward(hidden)).mean(1, keepdim=True).to(before.dtype)
        keys, values, there = found.split((network.size, network.size, 1), -1)
        return torch.cat((keys * gate[..., :1], values * gate[..., -1:], there), -1)

    @property
    def network(self) -> PrefixNetwork:
        """Where keys and values come from."""
        return self._network[0]

    @property
    def drops(self) -> bool:
        """Whether keys and values are other ones in each call in training."""
        return self.network.dropout > 0

    def tokens(self) -> Tensor:
        """[P, 2 k + 1]: key, value and a 1 for each prefix token."""
        found = self.network.keys_and_values(self.position)
        return torch.cat((found, found.new_ones(found.shape[0], 1)), -1)
