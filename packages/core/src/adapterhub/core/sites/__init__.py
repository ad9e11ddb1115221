"""Sites: the hook points of a model. A site knows where its values are, holds the adapter modules placed there, and is hooked
only while a plan in force uses it.

Kinds, and what the operation a plan puts there maps:

| class | value → value | beside | used by |
|---|---|---|---|
| `SublayerSite` | h [B, T, d] | r, norm | bottleneck, fusion |
| `EmbeddingSite` | embedded text [B, T, e] | – | invertible adapters |
| `linears.LinearSite` | output of a linear map | its input | LoRA, IA3 |
| `linears.LinearInputSite` | input of a linear map | the same | IA3 |
| `layers.LayerSite` | output of a layer | the mask of the text so far | ReFT |
| `attention.AttentionSite` | prefixes of one attention | its input | prefix tuning |
| `prompts.PromptSite` | embedded text | – | prompt tuning |
| `positions.PositionSite` | positions of the text | – | prefix tuning with `positions` |

A new kind of site derives from `HookedSite`: it says where its modules live (`host`), which hooks it needs (`hooks`), and how
one adapter module acts there (`leaf`; at sublayers `sublayers.AtSublayer`). Compositions around it come from `blocks`. Every site has a place in the plan by `index`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.carried import Carrier
from adapterhub.core.layout import argument_of
from adapterhub.core.operations import AtEmbedding, Operation, chosen
from adapterhub.core.overrides import current_override
from adapterhub.core.packed import AdapterModules, Packed, only_unpacked
from adapterhub.core.shapes import arrangement
from adapterhub.core.slim import set_training

if TYPE_CHECKING:
    from adapterhub.core.layout import EmbeddingPlace, SublayerPlace
    from adapterhub.core.pool import Pool

__all__ = ["EmbeddingSite", "HookedSite", "SharedSite", "Site", "SublayerSite", "module_key"]


def module_key(name: str) -> str:
    """An adapter's name as the name of a module: dots, which separate modules, are written as %2E."""
    return name.replace("%", "%25").replace(".", "%2E")


class Site:
    """A place of adapter modules.

    Args:
        pool: the pool the site belongs to.
        index: its number in the plan.
        key: first part of neutral keys.
        host: the module under which the adapter modules are registered, as `adapterhub_<attribute>` (fusions as
            `adapterhub_<attribute>_fusion`).
        layer: index of the layer in configs, or None outside of layers.
    """

    def __init__(self, pool: Pool, index: int, key: str, host: nn.Module, attribute: str) -> None:
        self.pool, self.index, self.key = pool, index, key
        self.host = host
        self.attributes = {"adapter": f"adapterhub_{attribute}", "fusion": f"adapterhub_{attribute}_fusion"}
        self.layer: int | None = None
        self.anchor: nn.Module | None = None

    def find(self, name: str, role: str = "adapter") -> nn.Module | None:
        """The module of an adapter (or, as `role`, a fusion) here, or None."""
        held = self.host._modules.get(self.attributes[role])
        return None if held is None else held._modules.get(module_key(name))

    def note(self, name: str) -> nn.Module | Packed | None:
        """What stands here for an adapter, as it is: a packed one is not unpacked."""
        held = self.host._modules.get(self.attributes["adapter"])
        found: nn.Module | Packed | None = None if held is None else dict.get(held._modules, module_key(name))
        return found

    def put(self, name: str, module: nn.Module | Packed, role: str = "adapter") -> None:
        """Register the module of an adapter (or fusion), or the note that stands for it."""
        held = self.host._modules.get(self.attributes[role])
        if held is None:
            held = AdapterModules()
            held.training = self.host.training
            self.host._modules[self.attributes[role]] = held
        if isinstance(module, nn.Module):
            set_training(module, self.host.training)
        held._modules[module_key(name)] = module  # type: ignore[assignment]

    def drop(self, name: str, role: str = "adapter") -> None:
        """Take the module of an adapter (or fusion) away; the last one takes the container with it."""
        held = self.host._modules.get(self.attributes[role])
        if held is not None:
            held._modules.pop(module_key(name), None)
            if not held._modules:
                del self.host._modules[self.attributes[role]]

    def clear(self) -> None:
        """Take every module away."""
        for attribute in self.attributes.values():
            self.host._modules.pop(attribute, None)

    def home(self) -> tuple[torch.device, torch.dtype]:
        """Device and floating type of the model around the site: where new parameters go."""
        near = None if self.anchor is None else next(iter(self.anchor._parameters.values()), None)
        if near is not None and _is_plain(near):
            return self._placed(near.device), near.dtype
        device = None
        with only_unpacked():
            for part in chain(self.host.modules(), self.pool.base_model.modules()):
                for parameter in part._parameters.values():
                    if parameter is None:
                        continue
                    device = device or parameter.device
                    if _is_plain(parameter):
                        self.anchor = part
                        return self._placed(parameter.device), parameter.dtype
        return self._placed(device or torch.device("cpu")), torch.get_default_dtype()

    def _placed(self, device: torch.device) -> torch.device:
        """Where a layer runs whose weights accelerate keeps elsewhere; else the device itself."""
        if device.type == "meta":
            with only_unpacked():
                for module in self.host.modules():
                    there = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
                    if there is not None:
                        return torch.device(there)
        return device


def _is_plain(parameter: nn.Parameter) -> bool:
    """Floating and not quantised."""
    return parameter.is_floating_point() and parameter.element_size() > 1


class SharedSite(Site):
    """Home of what all modules of one adapter share. Nothing is computed here."""


class HookedSite(Site):
    """A site whose hooks come and go with the plans that use it."""

    def __init__(self, pool: Pool, index: int, key: str, host: nn.Module, attribute: str) -> None:
        super().__init__(pool, index, key, host, attribute)
        self.users = 0
        self.handles: list[RemovableHandle] = []

    def clear(self) -> None:
        super().clear()
        self.users = 0
        self.remove()

    def hooks(self) -> Iterator[RemovableHandle]:
        """Register the hooks and give their handles."""
        raise NotImplementedError

    def leaf(self, module: nn.Module) -> Operation:
        """What one adapter module does here."""
        raise NotImplementedError

    def install(self, operation: Operation) -> bool:
        """Count one more user, and hook the module for it unless it is; whether anything changed."""
        self.users += 1
        if self.handles:
            return False
        self.handles = list(self.hooks())
        return True

    def uninstall(self, operation: Operation) -> bool:
        """Count one user less; without users the hooks go. Whether anything changed."""
        self.users -= 1
        if self.users:
            return False
        self.remove()
        return True

    def state(self) -> str:
        """Which hooks are in place; empty for none."""
        return str(self.index) if self.handles else ""

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def operation(self) -> Operation | None:
        """What the plan in force here does at this site."""
        override = current_override()
        plan = self.pool.plan if override is None else override.plan_for(self.pool)
        return plan.operations[self.index]


class SublayerSite(HookedSite):
    """One sublayer (h, r, norm).

    The residual is seen before the sublayer and kept until its output appears: two hooks on two modules. Where a plan
    replaces the model's own norm(h' + r) by h', a third one on the norm does so; pre-LN models get h' - r instead.
    Operations that take the sum of h and r need none of these, only a hook where the norm is given that sum.
    """

    def __init__(self, pool: Pool, index: int, place: SublayerPlace, modules: dict[str, nn.Module]) -> None:
        super().__init__(pool, index, place.key, modules[place.layer.path], place.kind)
        self.place = place
        self.layer = place.layer.index
        self.width = place.layer.width
        self.output = modules[place.output]
        self.residual = modules[place.residual]
        self.normalises = None if place.norm is None else modules[place.norm]
        self.norm = None if self.normalises is None else _alone(self.normalises)
        self.kept = Carrier()
        self.result = Carrier()
        self.first = Carrier()
        self.wanted: dict[str, int] = {}
        self.hooked: dict[str, list[RemovableHandle]] = {}
        self.alone = place.joint == "alone"
        self.scale = place.scale
        #: in a parallel block, the output of the sublayer before, which is part of this one's residual
        self.before = modules[place.chained] if place.chained is not None else None
        self.follower: SublayerSite | None = None
        self.arranged = arrangement(pool.layout, place.output, modules)
        plain = self.norm is not None and self.norm is self.normalises
        #: whether the norm is given h + r and nothing else, as the identity check has seen it
        self.sums = plain and not place.joint and not place.shared and self.before is None

    def install(self, operation: Operation) -> bool:
        """Hook only what the operation needs: h, r and the norm where they take part, or h + r alone."""
        before = len(self.hooked)
        for kind in self._kinds(operation):
            self.wanted[kind] = self.wanted.get(kind, 0) + 1
            if kind not in self.hooked:
                self.hooked[kind] = list(self._hooks_for(kind))
        return self._recount(before)

    def uninstall(self, operation: Operation) -> bool:
        before = len(self.hooked)
        for kind in self._kinds(operation):
            if kind not in self.wanted:  # the model was detached meanwhile
                continue
            self.wanted[kind] -= 1
            if not self.wanted[kind]:
                for handle in self.hooked.pop(kind):
                    handle.remove()
        return self._recount(before)

    def _recount(self, before: int) -> bool:
        self.handles = [handle for handles in self.hooked.values() for handle in handles]
        return len(self.hooked) != before

    def _kinds(self, operation: Operation) -> str:
        if self.by_sum(operation):
            return "s"
        if operation.before_norm:
            return "br"
        kinds = "h"
        if operation.needs_residual or self.place.shared:
            kinds += "r"
        if operation.replaces_norm and self.norm is not None:
            kinds += "n"
        return kinds if self.arranged is None else kinds + "a"

    def before_norm(self) -> SublayerSite:
        """This site as `operations.BeforeNorm` has it: with the last layer's norm of this kind inside, as adapters 1.3."""
        alike = [
            site
            for site in self.pool.sites
            if isinstance(site, SublayerSite)
            and (site.place.kind, site.place.layer.tower) == (self.place.kind, self.place.layer.tower)
        ]
        found = copy.copy(self)
        found.norm = _alone(alike[-1].output)
        return found

    def by_sum(self, operation: Operation) -> bool:
        """Whether the operation acts on h + r where the norm is given it, and not on h."""
        return operation.takes_sum and self.sums and self.follower is None

    def remove(self) -> None:
        super().remove()
        self.hooked, self.wanted = {}, {}

    def state(self) -> str:
        return f"{self.index}{''.join(self.hooked)}" if self.hooked else ""

    def _hooks_for(self, kind: str) -> Iterator[RemovableHandle]:
        if kind == "h":
            yield self.output.register_forward_hook(partial(_adapt_sublayer, self))
        elif kind == "b":
            yield self.output.register_forward_pre_hook(partial(_adapt_before_norm, self))
        elif kind == "s":
            assert self.norm is not None
            yield self.norm.register_forward_pre_hook(partial(_adapt_sum, self), with_kwargs=True)
        elif kind == "n":
            assert self.normalises is not None
            yield self.normalises.register_forward_hook(partial(_replace_normed, self))
        elif kind == "a":
            assert self.arranged is not None
            yield from self.arranged.hooks()
        else:
            yield self.residual.register_forward_pre_hook(partial(_keep_residual, self), with_kwargs=True)
            if self.before is not None:
                yield self.before.register_forward_hook(partial(_keep_first, self))


def _adapt_sum(
    site: SublayerSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    operation = site.operation()
    if operation is None or not site.by_sum(operation):
        return None
    if args:
        return (_on_sum(site, operation, args[0]), *args[1:]), kwargs
    name, total = next(iter(kwargs.items()))
    return args, {**kwargs, name: _on_sum(site, operation, total)}


def _on_sum(site: SublayerSite, operation: Operation, total: Tensor) -> Tensor:
    if site.arranged is None:
        return operation(total, None)
    return site.arranged.back(operation(site.arranged.turned(total), None), total)


def _keep_residual(site: SublayerSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    operation = site.operation()
    if operation is None or site.by_sum(operation):
        return
    if operation.needs_residual or site.place.shared:
        site.kept.put(argument_of(site.place, args, kwargs))


def _keep_first(site: SublayerSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    operation = site.operation()
    if operation is not None and operation.needs_residual:
        site.first.put(output if isinstance(output, Tensor) else output[0])


def _adapt_before_norm(site: SublayerSite, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    operation = site.operation()
    if operation is None or not operation.before_norm:
        return None
    return (operation(args[0], site.kept.take()), *args[1:])


def _adapt_sublayer(site: SublayerSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    operation = site.operation()
    if operation is None or operation.before_norm or site.by_sum(operation):
        return None
    hidden = output if isinstance(output, Tensor) else output[0]
    if site.scale != 1.0:
        hidden = hidden * site.scale
    residual = site.kept.take() if operation.needs_residual or site.place.shared else None
    if site.place.shared and residual is None:
        return None  # the call of another sublayer
    if residual is not None and residual.shape != hidden.shape:
        residual = residual.reshape(hidden.shape)  # one of them has rows and tokens flattened
    if site.before is not None and residual is not None:
        residual = site.first.take() + residual
    given = hidden
    if site.arranged is not None:
        hidden = site.arranged.turned(hidden)
        residual = None if residual is None else site.arranged.turned(residual)
    result = operation(hidden, residual)
    if site.follower is not None:  # whichever hook came first, the sublayer after sees what this one gives
        _keep_first(site.follower, module, args, result)
    if operation.replaces_norm:
        replaced = operation.replaced(hidden.shape[0], hidden.shape[1])
        if site.norm is not None:
            site.result.put((result, replaced))
        else:
            assert residual is not None
            result = chosen(replaced, result - residual, result)
    if site.arranged is not None:
        result = site.arranged.back(result, given)
    if site.scale != 1.0:
        result = result / site.scale
    if isinstance(output, Tensor):
        return result
    return [result, *output[1:]] if isinstance(output, list) else (result, *output[1:])


def _replace_normed(site: SublayerSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    operation = site.operation()
    if operation is None or not operation.replaces_norm:
        return None
    kept = site.result.take()
    if kept is None:
        return None
    result, replaced = kept
    normed = output if isinstance(output, Tensor) else output[0]
    if site.arranged is None:
        result = chosen(replaced, result, normed)
    else:
        result = site.arranged.back(chosen(replaced, result, site.arranged.turned(normed)), normed)
    return result if isinstance(output, Tensor) else (result, *output[1:])


class _First(nn.Module):
    """A norm that gives more than the normalised value (I-BERT: its scale), as one that does not."""

    norm: nn.Module

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.__dict__["norm"] = norm  # no child: it belongs to the model

    def forward(self, value: Tensor) -> Tensor:
        found: Any = self.norm.forward(value)
        return found if isinstance(found, Tensor) else found[0]


def _alone(norm: nn.Module) -> nn.Module:
    return norm if len(inspect.signature(norm.forward).parameters) == 1 else _First(norm)


class EmbeddingSite(HookedSite):
    """The embedded text: invertible adapters act on it."""

    def __init__(self, pool: Pool, index: int, place: EmbeddingPlace, modules: dict[str, nn.Module]) -> None:
        super().__init__(pool, index, place.key, pool.base_model, "embedding")
        self.place = place
        self.output = modules[place.path]

    def leaf(self, module: nn.Module) -> Operation:
        return AtEmbedding(module)

    def inverse(self, value: Tensor) -> Tensor:
        """Undo what the setup in force does to the embedded text; [B, T, e], before the output embedding."""
        operation = self.operation()
        return value if operation is None else operation.inverse(value)

    def hooks(self) -> Iterator[RemovableHandle]:
        if self.place.argument is None:
            yield self.output.register_forward_hook(partial(_adapt_embedding, self))
        else:
            yield self.output.register_forward_pre_hook(partial(_adapt_embedded, self), with_kwargs=True)
        decoder = self._output_embedding()
        if decoder is not None:
            yield decoder.register_forward_pre_hook(partial(_undo_embedding, self))

    def _output_embedding(self) -> nn.Module | None:
        """The vocabulary projection of a language model of transformers, where the embedding is undone. Flexible heads
        do so themselves."""
        model = self.pool.model
        if isinstance(getattr(model, "heads", None), nn.ModuleDict) or not hasattr(model, "get_output_embeddings"):
            return None
        try:
            found: Any = model.get_output_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            return None
        return found if isinstance(found, nn.Module) else None


def _adapt_embedded(
    site: EmbeddingSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    operation = site.operation()
    if operation is None:
        return None
    position = site.place.argument or 0
    if position < len(args):
        return (*args[:position], operation(args[position], None), *args[position + 1 :]), kwargs
    return args, {**kwargs, "hidden_states": operation(kwargs["hidden_states"], None)}


def _undo_embedding(site: EmbeddingSite, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    operation = site.operation()
    if operation is None or not args or args[0].shape[-1] != site.place.width:
        return None
    return (operation.inverse(args[0]), *args[1:])


def _adapt_embedding(site: EmbeddingSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    operation = site.operation()
    if operation is None:
        return None
    if isinstance(output, Tensor):
        return operation(output, None)
    return (operation(output[0], None), *output[1:])
