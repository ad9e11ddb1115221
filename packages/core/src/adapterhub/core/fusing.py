"""How a fusion runs at a site: the plain equations for any children, and the factored form for plain bottlenecks.

Factored, with z_i = act(D_i x + c_i) [r_i] and U_i = E_i z_i + e_i (scaling inside E_i, e_i), t = W_kᵀ (W_q x + b_q):

    s_i = (E_iᵀ t) · z_i + t · e_i  (+ q · b_k: the same for all i, so softmax does not see it)
    o   = W_v (sum_i E_i (p_i z_i) + p_i e_i)

so K and V are never applied to N outputs. Where no gradients are needed the products [E, e]ᵀ W_kᵀ W_q and W_v [E, e] are kept as
well when that is cheaper, and a token costs 4 d Σr operations, whatever d²; otherwise 3 d² + 3 d Σr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.bank import matrices
from adapterhub.core.kept import Kept
from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.methods.fusion import FusionLayer
from adapterhub.core.operations import Chain, Operation
from adapterhub.core.overrides import attention_listener
from adapterhub.core.sublayers import AtSublayer
from adapterhub.spec.composition import Fuse, Stack
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.sites import SublayerSite

__all__ = ["FactoredFusion", "PlainFusion", "fusing"]


def fusing(block: Fuse, layer: nn.Module, site: SublayerSite) -> Operation | None:
    """The operation of a Fuse block: factored where all children are single plain bottlenecks, else plain."""
    assert isinstance(layer, FusionLayer)
    children: list[tuple[Operation | None, Bottleneck]] = []
    for child in block.children:
        names = [str(name) for name in child.children] if isinstance(child, Stack) else [str(child)]
        modules = [module for name in names if (module := site.find(name)) is not None]
        if not all(isinstance(module, Bottleneck) for module in modules):
            raise InvalidConfigError(f"Fuse works on bottleneck adapters; {block!r} holds others at {site.key}.")
        if modules:
            *first, last = [module for module in modules if isinstance(module, Bottleneck)]
            before = [AtSublayer(module, site.norm, alone=site.alone) for module in first]
            children.append((Chain(before) if before else None, last))
    if not children:
        return None
    simple = all(before is None and _simple(module) for before, module in children)
    kind = FactoredFusion if simple else PlainFusion
    return kind(layer, children, site.norm, site.key, alone=site.alone)


def _simple(module: Bottleneck) -> bool:
    return module.norm_before is None and not module.depth_dropout


class PlainFusion(Operation):
    """The equations as they stand.

    Args:
        layer: the attention.
        children: for each, what runs before its last bottleneck (None: nothing), and that bottleneck.
        norm: the model's norm of h + r.
        key: of the site, for listeners.
        alone: h + r is not read there, only h.
    """

    def __init__(
        self,
        layer: FusionLayer,
        children: Sequence[tuple[Operation | None, Bottleneck]],
        norm: nn.Module | None,
        key: str,
        *,
        alone: bool = False,
    ) -> None:
        self.layer, self.children, self.norm, self.key = layer, list(children), norm, key
        self.last = children[-1][1]
        self.alone = alone and not self.last.parallel
        self.replaces_norm = not self.last.norm_last
        self.takes_sum = (
            all(module.takes_sum and (before is None or before.takes_sum) for before, module in children)
            and not alone
            and not layer.query_before_norm
            and not layer.residual_before
        )
        self.needs_residual = (
            any(module.needs_residual for _, module in children)
            or any(before.needs_residual for before, _ in children if before is not None)
            or (self.replaces_norm and norm is None)
        )

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        read, skip = self.last.before(value, None if self.alone else beside, self.norm)
        if self.last.parallel:
            skip = read
        query = value if self.layer.query_before_norm and not self.last.parallel else read
        result = self.attend(query, read, skip, value, beside)
        if self.last.parallel:
            result = value + result
        return result if result.dtype == value.dtype else result.to(value.dtype)

    def attend(self, query: Tensor, read: Tensor, skip: Tensor, value: Tensor, beside: Tensor | None) -> Tensor:
        """o with its skip connection: all [B, T, d]."""
        layer = self.layer
        outputs = []
        for before, module in self.children:
            given = read
            if before is not None:
                given, _ = module.before(before(value, beside), beside, self.norm)
            outputs.append(module.output(given))
        stacked = torch.stack(outputs, dim=-2)
        if layer.residual_before:
            stacked = stacked + skip.unsqueeze(-2)
        asked = query if layer.query is None else layer.query.forward(query)
        keys = stacked if layer.key is None else layer.key.forward(stacked)
        values = stacked if layer.value is None else layer.value.forward(stacked)
        scores = (asked.unsqueeze(-2) * keys).sum(-1)
        shares = self.shares(scores)
        result = (shares.unsqueeze(-1) * values).sum(-2)
        return result if layer.residual_before else result + skip

    def shares(self, scores: Tensor) -> Tensor:
        """p [B, T, N] from scores."""
        layer = self.layer
        if layer.dropout and layer.training:
            scores = F.dropout(scores, layer.dropout)
        shares = torch.softmax(layer.cooled(scores), -1)
        listener = attention_listener()
        if listener is not None:
            listener.setdefault(self.key, []).append(shares.detach())
        return shares


@dataclass(slots=True)
class _Factors:
    """Matrices of N bottlenecks side by side; R is the sum of their sizes.

    down [R, d], down_bias [R], up [d, R], up_bias [N, d]; folded: score [R + N, d] with score_bias [R + N], and
    value [d, R + N], or None where that would cost more.
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    score: Tensor | None
    score_bias: Tensor | None
    value: Tensor | None


class FactoredFusion(PlainFusion):
    """The factored form; equal to the plain one up to rounding."""

    def __init__(
        self,
        layer: FusionLayer,
        children: Sequence[tuple[Operation | None, Bottleneck]],
        norm: nn.Module | None,
        key: str,
        *,
        alone: bool = False,
    ) -> None:
        super().__init__(layer, children, norm, key, alone=alone)
        modules = [module for _, module in children]
        self.modules = modules
        self.sizes = [_size(module) for module in modules]
        self.even = len(set(self.sizes)) == 1
        self.one_act = len({module.activation_name for module in modules}) == 1
        self.side_by_side = Kept(modules, partial(_side_by_side, modules))
        self.folded = Kept([*modules, layer], partial(_folded, modules, layer))

    def attend(self, query: Tensor, read: Tensor, skip: Tensor, value: Tensor, beside: Tensor | None) -> Tensor:
        layer = self.layer
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in layer.parameters())
        whole = layer.training and layer.dropout > 0  # dropout acts on whole scores: what they have in common counts
        fold = not (learns or whole or torch.compiler.is_compiling())
        factors = (self.folded if fold else self.side_by_side).get()
        dtype = factors.down.dtype
        if read.dtype != dtype and not torch.is_autocast_enabled(read.device.type):
            read, query, skip = read.to(dtype), query.to(dtype), skip.to(dtype)
        inner = self.activated(F.linear(read, factors.down, factors.down_bias))
        if factors.score is not None:
            asked = F.linear(query, factors.score, factors.score_bias)
            total = inner.shape[-1]
            scores = self.sums(inner * asked[..., :total]) + asked[..., total:]
        else:
            question = query if layer.query is None else layer.query.forward(query)
            turned = question if layer.key is None else F.linear(question, layer.key.weight.t())
            scores = self.sums(inner * F.linear(turned, factors.up.t())) + F.linear(turned, factors.up_bias)
            if whole:
                if layer.key is not None and layer.key.bias is not None:
                    scores = scores + (question * layer.key.bias).sum(-1, keepdim=True)
                if layer.residual_before:
                    scores = scores + (turned * skip).sum(-1, keepdim=True)
        shares = self.shares(scores)
        weighed = self.spread(shares, inner)
        if factors.value is not None:
            result = F.linear(torch.cat([weighed, shares.to(weighed.dtype)], -1), factors.value)
            if layer.residual_before:
                result = result + (skip if layer.value is None else layer.value.forward(skip))
        else:
            result = F.linear(weighed, factors.up) + F.linear(shares.to(weighed.dtype), factors.up_bias.t())
            if layer.residual_before:
                result = result + skip
            if layer.value is not None:
                result = layer.value.forward(result)
        return result if layer.residual_before else result + skip

    def activated(self, inner: Tensor) -> Tensor:
        """The non-linearity of each bottleneck on its features: [B, T, R]."""
        if self.one_act:
            return self.modules[0].act(inner)
        parts = [module.act(part) for module, part in zip(self.modules, inner.split(self.sizes, -1), strict=True)]
        return torch.cat(parts, -1)

    def sums(self, value: Tensor) -> Tensor:
        """Sum over the features of each bottleneck: [B, T, R] → [B, T, N]."""
        if self.even:
            return value.unflatten(-1, (len(self.sizes), self.sizes[0])).sum(-1)
        return torch.stack([part.sum(-1) for part in value.split(self.sizes, -1)], -1)

    def spread(self, shares: Tensor, inner: Tensor) -> Tensor:
        """p_i z_i: [B, T, N], [B, T, R] → [B, T, R]."""
        if self.even:
            return (inner.unflatten(-1, (len(self.sizes), self.sizes[0])) * shares.unsqueeze(-1)).flatten(-2)
        parts = inner.split(self.sizes, -1)
        return torch.cat([part * shares[..., i : i + 1] for i, part in enumerate(parts)], -1)


def _size(module: Bottleneck) -> int:
    return int(matrices(module)[0].shape[1])


def _side_by_side(modules: Sequence[Bottleneck]) -> _Factors:
    parts = [matrices(module) for module in modules]
    return _Factors(
        down=torch.cat([part[0] for part in parts], 1).t(),
        down_bias=torch.cat([part[1] for part in parts]),
        up=torch.cat([part[2] for part in parts]).t(),
        up_bias=torch.stack([part[3] for part in parts]),
        score=None,
        score_bias=None,
        value=None,
    )


def _folded(modules: Sequence[Bottleneck], layer: FusionLayer) -> _Factors:
    factors = _side_by_side(modules)
    width, total = factors.up.shape
    both: Any = torch.cat([factors.up, factors.up_bias.t()], 1)  # [d, R + N]
    if 2 * total > 3 * width:
        return factors
    # scores: [E, e]ᵀ W_kᵀ (W_q x + b_q)
    turned = both.t() if layer.key is None else both.t() @ layer.key.weight.t()
    if layer.query is None:
        factors.score, factors.score_bias = turned, None
    else:
        factors.score = turned @ layer.query.weight
        factors.score_bias = None if layer.query.bias is None else turned @ layer.query.bias
    factors.value = both if layer.value is None else layer.value.weight @ both
    return factors
