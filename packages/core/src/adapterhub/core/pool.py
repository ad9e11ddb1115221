"""The pool: which adapters and fusions a model holds, their configs, and their tensors by neutral key.

What checkpoint formats, heads and trainers may rely on:

    pool = pool_of(model)                      # AdapterHubError if `init` never ran on the model
    pool.layout.family, pool.base_model        # "bert", the bare transformer inside a model with a head
    pool.sites                                 # every hook point, in order; site.key is the first part of neutral keys
    pool.adapters["sst-2"] -> Adapter          # .name .config .type .modules {site key: nn.Module} .tensors()
    pool.fusions["a,b"] -> Fusion              # .name .adapters ("a", "b") .config .modules .tensors()
    adapter.tensors()                          # {neutral key: nn.Parameter}, e.g. "encoder.3.ffn.down.weight"
    pool.shapes(config)                        # {neutral key: shape}: what such an adapter has here; nothing is allocated
    pool.add(name, config, tensors=…) -> Adapter          # tensors are assigned to their slots, never initialised first
    pool.add_fusion(names, config, tensors=…) -> Fusion
    pool.delete(name), pool.delete_fusion(name), pool.fusion_of(Fuse block) -> Fusion
    legacy_hosts(pool.layout)                  # {module path in adapters 1.x: neutral key of the slot}, see `families`

Neutral keys are `<tower>.<layer>.<site>.<leaf>`, `<tower>.embedding.<leaf>` or `shared.<leaf>`. For bottlenecks:

    encoder.3.{attention,cross_attention,ffn}.  down.weight [r, d]  down.bias [r]  up.weight [d, r]  up.bias [d]
        norm_before.{weight,bias} [d]  norm_after.{weight,bias} [d]  gate.weight [1, d]  gate.bias [1]  scaling [1] or [d]
    with PHM instead {down,up}.  left [n, in/n, rank]  right [n, rank, out/n]  (or weight [n, in/n, out/n])  bias [out]
        rule [n, n, n]  (or rule_left [n, n, 1], rule_right [n, 1, n])
    shared.  rule [n, n, n]  (or rule_left, rule_right)   with shared_W_phm also {down,up}.{left,right,weight}
    encoder.embedding.   NICE: {f,g}.{down,up}.{weight,bias}    GLOW: {s1,s2}.{down,up}.{weight,bias}
    fusions: encoder.3.ffn.   query.{weight [d, d],bias [d]}  key.{weight,bias}  value.weight [d, d]  temperature []
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from adapterhub.core import packing
from adapterhub.core.held import Adapter, Fusion, the_config
from adapterhub.core.layout import Layout
from adapterhub.core.methods import place
from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.methods.parameters import Given, Shapes, Source, fresh_sources
from adapterhub.core.packed import Form, Packed, only_unpacked
from adapterhub.core.plan import fusions_in, names_in
from adapterhub.core.plans import Plans, lock
from adapterhub.core.rows import Rows
from adapterhub.core.sites import EmbeddingSite, HookedSite, SharedSite, Site, SublayerSite
from adapterhub.spec.composition import Fuse
from adapterhub.spec.config import parse_config
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError, CheckpointError, InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.merged import Merged
    from adapterhub.core.sites.attention import AttentionSite
    from adapterhub.core.sites.layers import LayerSite
    from adapterhub.core.sites.linears import LinearSite
    from adapterhub.core.sites.positions import PositionSite
    from adapterhub.core.sites.prompts import PromptSite
    from adapterhub.spec.config import AdapterConfig

__all__ = ["Adapter", "Fusion", "HookedSite", "Pool", "Rows", "live_pools", "pool_of"]

_ATTRIBUTE = "_adapterhub_pool"
_live: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool(Plans):
    """State of one model with adapters.

    Args:
        model: what the user called `init` on.
        base_model: the bare transformer in it.
        layout: its places.
    """

    def __init__(self, model: nn.Module, base_model: nn.Module, layout: Layout) -> None:
        self.model, self.base_model, self.layout = model, base_model, layout
        self.adapters: dict[str, Adapter] = {}
        self.fusions: dict[str, Fusion] = {}
        self.frozen = False
        self.merged: Merged | None = None
        #: names of adapters that are packed when nobody holds them
        self.unpacked: deque[str] = deque()
        #: id of a config, type → the config, and the tensors an adapter of it has here (False: it is not packed)
        self.forms: dict[tuple[int, torch.dtype], tuple[AdapterConfig, Form | Literal[False]]] = {}
        self.model_name: str | None = None
        self.trained_before: dict[str, bool] = {}
        self.sites: list[Site] = []
        self._make_sites()
        self.by_key: dict[str, Site] = {site.key: site for site in self.sites}
        self._begin()
        _live.add(self)

    def __getstate__(self) -> dict[str, Any]:
        for adapter in self.adapters.values():  # the containers of the copy have modules, not notes
            if adapter.packed is not None:
                self.unpack(adapter.packed)
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _live.add(self)

    def _make_sites(self) -> None:
        modules = self.own_modules()
        self.shared_site = SharedSite(self, 0, "shared", self.base_model, "shared")
        self.sites.append(self.shared_site)
        self.embedding_site: EmbeddingSite | None = None
        if self.layout.embedding is not None:
            self.embedding_site = EmbeddingSite(self, len(self.sites), self.layout.embedding, modules)
            self.sites.append(self.embedding_site)
        for spot in self.layout.sublayers:
            site = SublayerSite(self, len(self.sites), spot, modules)
            for other in self.sites if spot.chained is not None else ():
                if isinstance(other, SublayerSite) and other.place.output == spot.chained:
                    other.follower = site
            self.sites.append(site)

    def own_modules(self) -> dict[str, nn.Module]:
        """The modules of the bare transformer by path, shared ones at each of theirs."""
        with lock, only_unpacked():  # the lock: others may bring the first adapter of a place
            return dict(self.base_model.named_modules(remove_duplicate=False))

    def own_parameters(self, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the model, or of a part of it, that belong to no adapter or fusion, by name."""
        held = (*self.adapters.values(), *self.fusions.values())
        added = {id(p) for one in held for part in one.placed.values() for p in part.parameters()}
        with lock, only_unpacked():
            found = list(module.named_parameters())
        return ((name, parameter) for name, parameter in found if id(parameter) not in added)

    def grow(self, make: Callable[[int], Iterable[Site]]) -> list[Site]:
        """Add sites a method needs and the pool does not have yet; `make` gets the number of the first one."""
        with lock:
            fresh = list(make(len(self.sites)))
            self.sites.extend(fresh)
            self.by_key.update((site.key, site) for site in fresh)
            for plan in {id(plan): plan for plan in (self.plan, *self._plans.values())}.values():
                plan.operations.extend([None] * (len(self.sites) - len(plan.operations)))
        return fresh

    def linear_sites(
        self, roles: Sequence[str], targets: Sequence[str] | None = None, *, on_input: bool = False
    ) -> list[LinearSite]:
        """The linear maps of these roles, or in place of them those that `targets` name by role or end of path.

        Args:
            roles: such as `q` or `cross_v`; of those the model lacks, none is missed.
            targets: each must fit at least one map.
            on_input: whether the input of the maps is meant.

        Raises:
            InvalidConfigError: a target that fits no map.
        """
        from adapterhub.core.sites.linears import linear_sites

        return linear_sites(self, roles, targets, on_input=on_input)

    def layer_sites(self) -> list[LayerSite]:
        """The outputs of all layers."""
        from adapterhub.core.sites.layers import layer_sites

        return layer_sites(self)

    def attention_sites(self) -> list[AttentionSite]:
        """The keys and values of all attentions the family names."""
        from adapterhub.core.sites.attention import attention_sites

        return attention_sites(self)

    def prompt_site(self, among_words: bool = False) -> PromptSite:
        """The embedded text, for prompts: behind the embeddings module of models that have one, or among its words."""
        from adapterhub.core.sites.prompts import prompt_site

        return prompt_site(self, among_words)

    def position_site(self) -> PositionSite | None:
        """The positions of the text; None where only relative ones count."""
        from adapterhub.core.sites.positions import position_site

        return position_site(self)

    # ---- adapters -----------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        config: Any,
        *,
        type: str | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        strict: bool = True,
        overwrite: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Adapter:
        """Put a new adapter on the model; nothing becomes active.

        Args:
            name: any text but the empty one.
            config: whatever `parse_config` takes.
            type: kind of adapter, kept as it is.
            tensors: by neutral key, assigned as they are (many small ones are copied into one, see `packing`); without them the
                adapter is initialised as its config says.
            strict: whether missing or left-over tensors are an error; else they are listed in the result and the missing
                ones initialised.
            overwrite: whether an adapter of this name is replaced; else it is an error.
            dtype: of the parameters; by default the model's, or with `tensors` theirs.

        Raises:
            InvalidConfigError: a name that is taken or empty, a config that fits no place of this model.
            CheckpointError: tensors that do not fit. The model is left as it was.
        """
        config = the_config(parse_config(config))
        if not isinstance(name, str) or not name:
            raise InvalidConfigError("An adapter needs a name, a text that is not empty.")
        if name in self.adapters and not overwrite:
            raise InvalidConfigError(
                f"The model already has an adapter {name!r}.", hint="Pass overwrite_ok=True, or delete it first."
            )
        adapter = Adapter(name, config=config, type=type)
        if tensors is None or dtype is not None or not packing.pack_as_it_comes(self, adapter, tensors):
            placed = self._build(
                adapter, lambda source: list(place(config, self, source)), config, tensors, strict, dtype
            )
            adapter.placed = {site.key: module for site, module in placed}
            packing.pack(self, adapter)
        if not adapter.sites():
            raise InvalidConfigError(
                f"The config of {name!r} puts nothing anywhere in this {self.layout.family} model.",
                hint=f"{self._places()} Choose among these, or name linear maps by path (targets of LoRA and IA3).",
            )
        with lock:
            replaced = self.adapters.get(name)
            if replaced is not None:
                self._drop(replaced, "adapter")
            if self.frozen:
                adapter.freeze()
            for key in adapter.sites():
                self.by_key[key].put(name, adapter.packed or adapter.placed[key])
            self.adapters[name] = adapter
            if replaced is not None:  # no plan speaks of a name that is new
                self._changed({name})
            self.tidy()
        return adapter

    def _places(self) -> str:
        """What there is to put adapters on, for messages."""
        kinds = sorted({place.kind for place in self.layout.sublayers})
        roles = sorted({role for layer in self.layout.layers for role in layer.linears})
        return (
            f"There are sublayers ({', '.join(kinds)}) and linear maps ({', '.join(roles) or 'none of a known role'})."
        )

    @torch.inference_mode(False)  # what is added in inference mode may be trained later
    @torch.no_grad()
    def _build(
        self,
        held: Adapter | Fusion,
        make: Callable[[Callable[[Site], Source]], list[tuple[Site, nn.Module]]],
        config: Any,
        tensors: Mapping[str, Tensor] | None,
        strict: bool,
        dtype: torch.dtype | None,
    ) -> list[tuple[Site, nn.Module]]:
        fresh = fresh_sources(getattr(config, "init_weights_seed", None), dtype)
        if tensors is None:
            return make(fresh)
        used: set[str] = set()

        def given(site: Site) -> Source:
            otherwise = fresh(site)
            return Given(tensors, f"{site.key}.", otherwise.device, dtype, otherwise, used, held.missing)

        placed = make(given)
        held.unexpected.extend(sorted(set(tensors) - used))
        if strict and (held.missing or held.unexpected):
            raise CheckpointError(
                f"The checkpoint does not fit {held.name!r}: {_told('missing', held.missing)}"
                f"{' and ' if held.missing and held.unexpected else ''}{_told('unexpected', held.unexpected)}.",
                hint="Pass strict=False to initialise what is missing and leave out the rest.",
                details={"missing": held.missing, "unexpected": held.unexpected},
            )
        return placed

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor an adapter of this config has on this model, by neutral key; nothing is allocated."""
        placed = place(parse_config(config), self, lambda site: Shapes())
        return {
            f"{site.key}.{leaf}": tuple(parameter.shape)
            for site, module in placed
            for leaf, parameter in module.named_parameters()
        }

    def delete(self, name: str) -> None:
        """Take an adapter away. Fusions over it go too; if it was active, nothing is active afterwards."""
        with lock:
            adapter = self.get(name)
            for fusion in [fusion for fusion in self.fusions.values() if name in fusion.adapters]:
                self.delete_fusion(fusion.name)
            if name in names_in(self.plan.setup):
                self.activate(None)
            self._drop(adapter, "adapter")
            del self.adapters[name]
            self._changed({name}, gone=True)

    def get(self, name: str) -> Adapter:
        """The adapter of this name.

        Raises:
            AdapterNotFoundError: with close names.
        """
        found = self.adapters.get(name)
        if found is None:
            raise AdapterNotFoundError(
                _unknown("adapter", name, self.adapters), suggestions=_close(name, self.adapters)
            )
        return found

    def unpack(self, note: Packed) -> None:
        """Give a packed adapter its modules (see `packing`)."""
        with lock:
            packing.unpack(note)

    def tidy(self) -> None:
        """Pack adapters nobody holds any longer, some at a time."""
        with lock:
            packing.tidy(self)

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Do to packed adapters what `nn.Module._apply` does to parameters."""
        with lock:
            packing.move(self, change)

    # ---- fusions ------------------------------------------------------------------------------------------------------

    def add_fusion(
        self,
        adapters: Sequence[str] | Fuse,
        config: Any = None,
        *,
        name: str | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        strict: bool = True,
        overwrite: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Fusion:
        """Put a fusion of these adapters on the model; nothing becomes active. Arguments as in `add`.

        Args:
            adapters: the adapters attended over, or a `Fuse` block.
            config: a preset name ("dynamic", "static"), dict or FusionConfig; None is dynamic.
            name: to tell several fusions over the same adapters apart; by default the names joined by commas.
        """
        from adapterhub.core.methods.fusion import place_fusion
        from adapterhub.spec.fusion import parse_fusion

        if isinstance(adapters, Fuse):
            name = name or adapters.name
            adapters = adapters.fused_names()
        names = tuple(adapters)
        for adapter in names:
            self.get(adapter)
        name = name or ",".join(names)
        if name in self.fusions and not overwrite:
            raise InvalidConfigError(
                f"The model already has a fusion {name!r}.", hint="Pass overwrite_ok=True, or another name."
            )
        config = parse_fusion(config)
        fusion = Fusion(name, adapters=names, config=config)
        placed = self._build(
            fusion, lambda source: list(place_fusion(names, config, self, source)), config, tensors, strict, dtype
        )
        for adapter in names:
            if not any(isinstance(module, Bottleneck) for module in self.adapters[adapter].modules.values()):
                raise InvalidConfigError(
                    f"{adapter!r} has no bottleneck anywhere, and fusion attends over bottlenecks.",
                    hint="Leave it out, or combine it by Stack or Average.",
                )
        with lock:
            replaced = self.fusions.get(name)
            if replaced is not None:
                self._drop(replaced, "fusion")
            for site, module in placed:
                site.put(name, module, "fusion")
                fusion.placed[site.key] = module
                if self.frozen:
                    module.requires_grad_(False)
            self.fusions[name] = fusion
            if replaced is not None:
                self._changed(set(names))
        return fusion

    def delete_fusion(self, name: str) -> None:
        """Take a fusion away; if it was active, nothing is active afterwards."""
        with lock:
            if name not in self.fusions:
                raise AdapterNotFoundError(_unknown("fusion", name, self.fusions))
            if any(self.fusion_of(block).name == name for block in fusions_in(self.plan.setup)):
                self.activate(None)
            fusion = self.fusions.pop(name)
            self._drop(fusion, "fusion")
            self._changed(set(fusion.adapters), gone=True)

    def fusion_of(self, block: Fuse) -> Fusion:
        """The fusion a block means: by its name, else by its adapters.

        Raises:
            AdapterNotFoundError: there is none.
        """
        names = tuple(block.fused_names())
        found = self.fusions.get(block.name or ",".join(names))
        if found is None and block.name is None:
            found = next((fusion for fusion in self.fusions.values() if fusion.adapters == names), None)
        if found is None or found.adapters != names:
            raise AdapterNotFoundError(
                f"There is no fusion of {', '.join(names)} on this model.",
                hint=f"Add it first: model.add_adapter_fusion([{', '.join(map(repr, names))}]).",
                suggestions=list(self.fusions),
            )
        return found

    # ---- the model's own parameters -------------------------------------------------------------------------------------

    def remember_trained(self) -> None:
        """Note which of the model's own parameters train, before the first freeze; `detach` puts that back."""
        if not self.frozen:
            with only_unpacked():
                self.trained_before = {name: p.requires_grad for name, p in self.model.named_parameters()}
            self.frozen = True

    def _drop(self, held: Adapter | Fusion, role: str) -> None:
        for key in held.sites():
            self.by_key[key].drop(held.name, role)


def pool_of(model: nn.Module) -> Pool:
    """The pool of a model that went through `init`.

    Raises:
        AdapterHubError: it did not.
    """
    found = model.__dict__.get(_ATTRIBUTE)
    if found is None:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)  # compiled, or wrapped by DDP
        if isinstance(inner, nn.Module):
            return pool_of(inner)
        raise AdapterHubError(
            f"This {type(model).__name__} has no adapters.", hint="Call adapterhub.core.init(model) first."
        )
    assert isinstance(found, Pool)
    return found


def live_pools() -> list[Pool]:
    """The pools of all models with adapters in this process."""
    return list(_live)


def _told(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{len(keys)} tensors are {what} ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})"


def _close(name: str, known: Iterable[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(str(name), list(known), n=3)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    there = f"It has {', '.join(names[:10])}{' and more' if len(names) > 10 else ''}." if names else "It has none."
    return f"There is no {what} {name!r} on this model. {there}"
