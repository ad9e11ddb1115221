"""Which parameters train: Θ, the transformer, stands still; Φ, the adapters, and the head learn."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from adapterhub.core.heads.attached import head_parameters, train_heads
from adapterhub.core.packed import only_unpacked
from adapterhub.core.plan import fusions_in, names_in
from adapterhub.core.pool import Pool
from adapterhub.spec.composition import Composition

__all__ = ["freeze_base", "train_only"]


def freeze_base(pool: Pool, *, freeze: bool = True) -> None:
    """Freeze the transformer and everything pre-trained around it, or let it train; adapters and heads stay as they are."""
    heads = {id(parameter) for parameter in head_parameters(pool)}
    for _, parameter in pool.own_parameters(pool.model):
        if id(parameter) not in heads and parameter.is_floating_point():
            parameter.requires_grad_(not freeze)


def train_only(
    pool: Pool,
    setup: Composition,
    *,
    adapters: bool = True,
    fusions: bool = True,
    heads: Iterable[str] | None = None,
    train_head: bool = True,
) -> None:
    """Freeze everything, then let parts of a setup train.

    Args:
        setup: names the parts.
        adapters, fusions: which of its parts train.
        heads: names of the heads that train; by default that of the adapter (or fusion) that answers for the setup.
        train_head: whether heads train at all.
    """
    pool.frozen = True
    for adapter in pool.adapters.values():
        adapter.freeze()
    with only_unpacked():
        for parameter in pool.model.parameters():
            parameter.requires_grad_(False)
    if adapters:
        for name in names_in(setup):
            for module in pool.get(name).modules.values():
                _train(module)
    if fusions:
        for block in fusions_in(setup):
            for module in pool.fusion_of(block).modules.values():
                _train(module)
    if train_head:
        train_heads(pool, setup, heads)


def _train(module: nn.Module) -> None:
    for part in module.modules():
        fixed: frozenset[str] = getattr(part, "fixed_leaves", frozenset())
        for name, parameter in part.named_parameters(recurse=False):
            parameter.requires_grad_(name not in fixed)
