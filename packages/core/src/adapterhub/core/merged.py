"""An adapter merged into the weights of its base model, for inference without overhead, and taken out again.

    LoRA:  W' = W + s B A, b' = b + c          DoRA:  W' = m / ‖W + s B A‖ · (W + s B A)
    IA3:   W' = diag(l) W, b' = l ⊙ b   on outputs;   W' = W diag(l)   on inputs

The weights as they were are kept beside, so `unmerge_adapter` gives back every bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapterhub.core.methods.ia3 import IA3
from adapterhub.core.methods.lora import LoRA, dense_weight
from adapterhub.core.plan import names_in
from adapterhub.core.pool import pool_of
from adapterhub.core.sites.linears import LinearInputSite, LinearSite
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.spec.composition import Composition

__all__ = ["Merged", "merge_adapter", "unmerge_adapter"]


class Merged:
    """What `unmerge_adapter` needs: the changed parameters with their values, and whether the adapter was active.

    Attributes:
        name: the adapter.
        originals: (parameter, its value before).
        setup: the setup that was active and only named this adapter, or None.
    """

    def __init__(self, name: str, originals: list[tuple[nn.Parameter, Tensor]], setup: Composition | None) -> None:
        self.name, self.originals, self.setup = name, originals, setup


@torch.no_grad()
def merge_adapter(model: nn.Module, name: str) -> None:
    """Put LoRA, DoRA or IA3 into the base weights; if only this adapter was active, nothing is active afterwards.

    Raises:
        AdapterNotFoundError: there is no such adapter.
        InvalidConfigError: another method, a gated adapter, quantised weights, an adapter merged before, or one that is
            active together with others. The model is left as it was.
    """
    pool = pool_of(model)
    adapter = pool.get(name)
    if pool.merged is not None:
        raise InvalidConfigError(
            f"{pool.merged.name!r} is merged already.", hint="Call unmerge_adapter first: one adapter can be merged."
        )
    active = pool.plan.setup
    if name in names_in(active) and names_in(active) != [name]:
        raise InvalidConfigError(f"{name!r} is active together with others.", hint="Set active_adapters anew first.")
    parts = [(pool.by_key[key], module) for key, module in adapter.modules.items()]
    for site, module in parts:
        _check(name, site, module)
    originals: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for site, module in parts:
        assert isinstance(site, LinearSite)
        for parameter in site.linear.parameters(recurse=False):
            originals.setdefault(id(parameter), (parameter, parameter.detach().clone()))
        _merge(site, module)
    setup = active if name in names_in(active) else None
    if setup is not None:
        pool.activate(None)
    pool.merged = Merged(name, list(originals.values()), setup)  # type: ignore[arg-type]


@torch.no_grad()
def unmerge_adapter(model: nn.Module, name: str | None = None) -> None:
    """Give the base weights back as they were, bit for bit; what was active before merging is active again.

    Raises:
        InvalidConfigError: nothing is merged, or another adapter.
    """
    pool = pool_of(model)
    merged = pool.merged
    if merged is None or (name is not None and merged.name != name):
        raise InvalidConfigError(f"{name or 'No adapter'!r} is not merged." if name else "No adapter is merged.")
    for parameter, value in merged.originals:
        parameter.copy_(value)
    pool.merged = None
    if merged.setup is not None and pool.plan.setup is None and pool.knows(merged.setup):
        pool.activate(merged.setup)


def _check(name: str, site: object, module: nn.Module) -> None:
    if not isinstance(site, LinearSite) or not isinstance(module, (LoRA, IA3)):
        raise InvalidConfigError(
            f"{name!r} cannot be merged: only LoRA, DoRA and IA3 act on weights alone.", hint="Leave it beside them."
        )
    if module.gate is not None:
        raise InvalidConfigError(f"{name!r} has gates that depend on the input, so it cannot be merged.")
    if getattr(module, "bias", None) is not None and getattr(site.linear, "bias", None) is None:
        raise InvalidConfigError(f"{name!r} cannot be merged: it has a bias at {site.key}, where the model has none.")
    dense_weight(site.linear)


def _merge(site: LinearSite, module: nn.Module) -> None:
    weight = dense_weight(site.linear)  # a view where it is transposed, so writing to it writes the parameter
    at = site.place.rows
    rows = weight[at]
    bias = getattr(site.linear, "bias", None)
    if isinstance(module, LoRA):
        sum_ = rows.float() + module.delta().float()
        if module.magnitude is not None:
            normed = rows.float() + module.delta().float() / (module.scale if module.unscaled_norm else 1.0)
            factor = module.magnitude.float() / torch.linalg.vector_norm(normed, dim=1)
            sum_ = sum_ * factor[:, None]
            if module.unscaled_norm and bias is not None:
                bias[at] = (bias[at] * factor).to(bias.dtype)
        weight[at] = sum_.to(weight.dtype)
        offset = getattr(module, "bias", None)
        if offset is not None and bias is not None:
            bias[at] = (bias[at] + offset).to(bias.dtype)
        return
    assert isinstance(module, IA3)
    scale = module.scale * module.alpha
    if isinstance(site, LinearInputSite):
        weight[at] = (rows * scale[None, :]).to(weight.dtype)
        return
    weight[at] = (rows * scale[:, None]).to(weight.dtype)
    if bias is not None:
        bias[at] = (bias[at] * scale).to(bias.dtype)
