"""Which parameters train: Θ, the transformer, stands still; Φ, the adapters, and the head learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from adapterhub.core.plan import fusions_in, names_in
from adapterhub.core.pool import Pool
from adapterhub.spec.composition import Composition

__all__ = ["freeze_base", "static_head", "train_only"]


def static_head(pool: Pool) -> dict[str, nn.Parameter]:
    """The parameters of the model's own head, by name: all outside of the bare transformer and of flexible heads.

    Empty for a bare model, and for language models: there the head is the pre-trained output embedding.
    """
    model = pool.model
    if model is pool.base_model or _output_embeddings(model) is not None:
        return {}
    inside = {id(parameter) for parameter in pool.base_model.parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in inside and not name.startswith("heads.")
    }


def freeze_base(pool: Pool, *, freeze: bool = True) -> None:
    """Freeze the transformer and everything pre-trained around it, or let it train; adapters and heads stay as they are."""
    own = {id(parameter) for parameter in _added(pool)}
    heads = {id(parameter) for parameter in static_head(pool).values()} | _flexible(pool, None)
    for parameter in pool.model.parameters():
        if id(parameter) not in own and id(parameter) not in heads and parameter.is_floating_point():
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
        heads: names of the flexible heads that train; by default those called like adapters of the setup.
        train_head: whether heads train at all.
    """
    pool.frozen = True
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
        for parameter in static_head(pool).values():
            parameter.requires_grad_(parameter.is_floating_point())
        wanted = _flexible(pool, set(names_in(setup) if heads is None else heads))
        for parameter in pool.model.parameters():
            if id(parameter) in wanted:
                parameter.requires_grad_(True)


def _train(module: nn.Module) -> None:
    for part in module.modules():
        fixed = getattr(part, "fixed_leaves", frozenset())
        for name, parameter in part.named_parameters(recurse=False):
            parameter.requires_grad_(name not in fixed)


def _added(pool: Pool) -> Iterator[nn.Parameter]:
    for held in (*pool.adapters.values(), *pool.fusions.values()):
        yield from held.parameters()


def _flexible(pool: Pool, names: set[str] | None) -> set[int]:
    """Identities of the parameters of flexible heads (`model.heads`, by name), less those shared with the transformer."""
    heads = getattr(pool.model, "heads", None)
    if not isinstance(heads, nn.ModuleDict):
        return set()
    inside = {id(parameter) for parameter in pool.base_model.parameters()}
    return {
        id(parameter)
        for name, head in heads.items()
        if names is None or name in names
        for parameter in head.parameters()
        if id(parameter) not in inside
    }


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    if getter is None:
        return None
    try:
        found = getter()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None
