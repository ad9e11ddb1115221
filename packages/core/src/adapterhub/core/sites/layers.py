"""Sites at the output of whole layers, beside the padding mask of the text seen so far (ReFT)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.caches import seen_before
from adapterhub.core.carried import Carrier
from adapterhub.core.operations import Operation
from adapterhub.core.shapes import arrangement
from adapterhub.core.sites import HookedSite

if TYPE_CHECKING:
    from adapterhub.core.layout import LayerPlace
    from adapterhub.core.pool import Pool

__all__ = ["LayerSite", "layer_sites"]


class LayerSite(HookedSite):
    """The output h [B, T, d] of one layer, beside the mask [B, L] of all tokens its tower saw so far."""

    def __init__(self, pool: Pool, index: int, place: LayerPlace, modules: dict[str, nn.Module]) -> None:
        super().__init__(pool, index, f"{place.key}.layer", modules[place.path], "layer")
        self.place = place
        self.layer = place.index
        self.width = place.width
        self.module = modules[place.path]
        self.arranged = arrangement(pool.layout, place.path, modules)
        #: the module whose call carries the mask: generation calls the towers of two-tower models one by one
        self.caller = pool.base_model
        if getattr(pool.base_model.config, "is_encoder_decoder", False):
            self.caller = pool.base_model.get_submodule(place.path.rsplit(".", 2)[0])
        self.context = Carrier()

    def leaf(self, module: nn.Module) -> Operation:
        return AtLayer(module)

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.caller.register_forward_pre_hook(partial(_keep_context, self), with_kwargs=True)
        # before transformers' own hooks, which are added later and record what layers put out
        yield self.module.register_forward_hook(partial(_change_layer, self), prepend=True)
        if self.arranged is not None:
            yield from self.arranged.hooks()


class AtLayer(Operation):
    """One ReFT module at a layer's output: (h, what was seen so far) → h'."""

    needs_residual = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        found: Tensor = self.module.forward(value, beside)
        return found


def _keep_context(site: LayerSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    if mask is None and len(args) > 1:
        mask = args[1]
    site.context.put((mask if isinstance(mask, Tensor) and mask.dim() == 2 else None, seen_before(kwargs)))


def _change_layer(site: LayerSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    kept = site.context.take()
    site.context.put(kept)  # for the next run of a layer that runs several times, as ALBERT's
    mask, seen = kept or (None, 0)
    operation = site.operation()
    if operation is None:
        return None
    given = hidden = output if isinstance(output, Tensor) else output[0]
    if site.arranged is not None:
        hidden = site.arranged.turned(hidden)
    if mask is None or mask.shape != (hidden.shape[0], seen + hidden.shape[1]):
        mask = hidden.new_ones(hidden.shape[0], seen + hidden.shape[1])
    changed = operation(hidden, mask)
    if site.arranged is not None:
        changed = site.arranged.back(changed, given)
    return changed if isinstance(output, Tensor) else (changed, *output[1:])


def layer_sites(pool: Pool) -> list[LayerSite]:
    """The sites of `Pool.layer_sites`, made on first use."""
    modules = pool.own_modules()
    missing = [place for place in pool.layout.layers if f"{place.key}.layer" not in pool.by_key]
    pool.grow(lambda first: [LayerSite(pool, index, place, modules) for index, place in enumerate(missing, first)])
    found = [pool.by_key[f"{place.key}.layer"] for place in pool.layout.layers]
    return [site for site in found if isinstance(site, LayerSite)]
