"""Sites inside attention: trained keys and values in front of those of the text (prefix tuning).

transformers lets a model choose its attention function by name. While a prefix is in use, the model's choice is replaced by
one that puts the prefix in front, lets every query see it, and calls the function chosen before. It acts after the cache
was updated, so caches hold no prefix, and after rotary embeddings, so prefixes have no position. In attention modules that
choose no function, a method is replaced that does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.carried import Carrier
from adapterhub.core.operations import Operation
from adapterhub.core.sites import HookedSite
from adapterhub.core.sites.disentangled import attend_disentangled
from adapterhub.spec.errors import InvalidConfigError, UnsupportedModelError

if TYPE_CHECKING:
    from adapterhub.core.layout import LayerPlace
    from adapterhub.core.pool import Pool

__all__ = ["AtAttention", "AttentionSite", "attention_sites"]

_NAME = "adapterhub_{}"
_SITE = "_adapterhub_prefix_site"


class AttentionSite(HookedSite):
    """The keys and values of one attention.

    The value that operations map is [B, P, 2 · heads · size + 1]: for each of P prefix tokens its key, its value, and a 1
    that says it is there (0: padding, where rows have prefixes of different length). Beside it is the attention's input
    [B, T, d], which gates read.
    """

    def __init__(self, pool: Pool, index: int, place: LayerPlace, kind: str, module: nn.Module) -> None:
        super().__init__(pool, index, f"{place.key}.{kind}_prefix", module, f"{kind}_prefix")
        self.layer = place.index
        self.place, self.kind, self.module = place, kind, module
        self.config = getattr(module, "config", pool.base_model.config)
        self.heads, self.size = _heads(self.config, place.width)
        self.width = place.width
        self.input = Carrier()

    def leaf(self, module: nn.Module) -> Operation:
        return AtAttention(module)

    def hooks(self) -> Iterator[RemovableHandle]:
        module = self.module
        module.__dict__[_SITE] = self
        yield module.register_forward_pre_hook(partial(_keep_input, self), with_kwargs=True)
        yield _Method(self) if type(module).__name__ in _METHODS else _Chosen(self.config)

    def remove(self) -> None:
        super().remove()
        self.module.__dict__.pop(_SITE, None)


class AtAttention(Operation):
    """One prefix at one attention: it is put in front of the prefixes before it."""

    needs_residual = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.moves_text = bool(getattr(module, "moves_text", False))

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        prefix: Tensor = self.module.forward(value, beside)
        return torch.cat((prefix, value), 1) if value.shape[1] else prefix


#: Attention classes that do not choose a function by name: the method of theirs in place of which ours is called.
_METHODS = {"CodeGenAttention": "_attn", "GPTJAttention": "_attn", "DisentangledSelfAttention": "forward"}


class _Method(RemovableHandle):
    """The method of one attention module in place of which ours is called; on `remove` it is as it was."""

    def __init__(self, site: AttentionSite) -> None:
        self.module: nn.Module | None = site.module
        self.name = _METHODS[type(site.module).__name__]
        self.before: Any = site.module.__dict__.get(self.name)  # set where another library wraps the module
        ours = _attend_by_method if self.name == "_attn" else _attend_as_whole
        site.module.__dict__[self.name] = partial(ours, site)

    def remove(self) -> None:
        if self.module is not None:
            self.module.__dict__.pop(self.name, None)
            if self.before is not None:
                self.module.__dict__[self.name] = self.before
        self.module = None

    def __getstate__(self) -> Any:
        return self.module, self.name, self.before

    def __setstate__(self, state: Any) -> None:
        self.module, self.name, self.before = state


def _attend_by_method(
    site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> Any:
    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
        return type(module)._attn(module, query, key, value, mask)

    return _attend_with(attend, "eager", site.module, query, key, value, attention_mask, is_causal=True)


def _attend_as_whole(
    site: AttentionSite, hidden: Tensor, attention_mask: Tensor, output_attentions: bool = False, **options: Any
) -> Any:
    operation = site.operation()
    if operation is None:
        return type(site.module).forward(site.module, hidden, attention_mask, output_attentions, **options)
    keys, values, there = _front(site, operation, hidden, site.heads, site.size)
    mask = _extended(attention_mask.bool(), there, hidden.shape[1], hidden.shape[1])
    output, shares = attend_disentangled(site.module, keys, values, hidden, mask, **options)
    return output, shares if output_attentions else None


class _Chosen(RemovableHandle):
    """The replaced choice of a config, put back on `remove`; nested for the many sites of one config."""

    def __init__(self, config: Any) -> None:
        self.config: Any = config
        current = config._attn_implementation or "eager"
        if not current.startswith("adapterhub_"):
            _register(current)
            _set_choice(config, _NAME.format(current))
        config.__dict__["_adapterhub_prefixes"] = config.__dict__.get("_adapterhub_prefixes", 0) + 1

    def remove(self) -> None:
        if self.config is None:
            return
        count = self.config.__dict__.get("_adapterhub_prefixes", 1) - 1
        if count > 0:
            self.config.__dict__["_adapterhub_prefixes"] = count
        else:
            self.config.__dict__.pop("_adapterhub_prefixes", None)
            _set_choice(self.config, self.config._attn_implementation.removeprefix("adapterhub_"))
        self.config = None

    def __getstate__(self) -> Any:
        return self.config

    def __setstate__(self, state: Any) -> None:
        self.config = state
        if state is not None:  # in another process the names may not be known yet
            _register(state._attn_implementation.removeprefix("adapterhub_"))


def _set_choice(config: Any, name: str) -> None:
    config._attn_implementation_internal = name


def _register(chosen: str) -> None:
    """Make the prefixing variant of an attention function known to transformers under its own name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    if chosen not in ("eager", "sdpa"):
        raise UnsupportedModelError(
            f"Prefix tuning is not possible with the attention implementation {chosen!r}.",
            hint="Load the model with attn_implementation='sdpa' or 'eager'.",
        )
    AttentionInterface.register(_NAME.format(chosen), partial(_attend, chosen))
    AttentionMaskInterface.register(_NAME.format(chosen), ALL_MASK_ATTENTION_FUNCTIONS[chosen])


def _attend(
    chosen: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> Any:
    """Attention of `query` [B, h, T, n] over the prefix and `key`, `value` [B, h', K, n]."""
    return _attend_with(_original(chosen, module), chosen, module, query, key, value, attention_mask, **options)


def _attend_with(
    attend: Callable[..., Any],
    chosen: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> Any:
    site: AttentionSite | None = module.__dict__.get(_SITE)
    operation = None if site is None else site.operation()
    if site is None or operation is None:
        return attend(module, query, key, value, attention_mask, **options)
    heads, length, size = key.shape[1:]
    keys, values, there = _front(site, operation, key, heads, size)
    count = keys.shape[2]
    key, value = torch.cat((keys, key), 2), torch.cat((values, value), 2)
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", False) if causal is None else causal
    if attention_mask is None and causal and query.shape[2] > 1:
        # no mask means that the first query sees the first key: what a static cache has room for comes after
        seen = torch.arange(length, device=key.device)[None, :]
        attention_mask = (seen <= torch.arange(query.shape[2], device=key.device)[:, None])[None, None]
    options["is_causal"] = False
    if options.get("position_bias") is not None:
        moved = count if _moves_text(operation) else 0
        options["position_bias"] = _bias(site, module, options["position_bias"], count, moved)
    mask = _extended(attention_mask, there, query.shape[2], length)
    if chosen == "eager" and mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    return attend(module, query, key, value, mask, **options)


def _front(
    site: AttentionSite, operation: Operation, like: Tensor, heads: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values [B, h', P, n] of the prefix, and which of its tokens are there [B, P]; B and the dtype as in `like`."""
    prefix = operation(like.new_empty(like.shape[0], 0, 2 * heads * size + 1), site.input.take())
    keys, values, there = prefix.split((heads * size, heads * size, 1), -1)
    keys, values = (part.unflatten(-1, (heads, size)).transpose(1, 2) for part in (keys, values))
    return keys, values, there[..., 0]


def _extended(mask: Tensor | None, there: Tensor, targets: int, length: int) -> Tensor:
    """The mask [B, 1, T, P + K]: prefix tokens that are there are seen by all."""
    rows, count = there.shape
    visible = there != 0
    if mask is None:
        mask = torch.ones(1, 1, 1, length, dtype=torch.bool, device=there.device)
    front = visible[:, None, None, :].expand(rows, mask.shape[1], targets, count)
    if mask.dtype != torch.bool:
        front = torch.zeros_like(front, dtype=mask.dtype).masked_fill(~front, torch.finfo(mask.dtype).min)
    return torch.cat((front, mask[..., :length].expand(rows, -1, targets, -1)), -1)


def _moves_text(operation: Operation) -> bool:
    """Whether the text stands behind the prefix (`PrefixTuningConfig.positions`)."""
    parts = [part for part in getattr(operation, "parts", ()) if part is not None]
    if parts:
        return all(map(_moves_text, parts))
    return bool(getattr(operation, "moves_text", False))


def _bias(site: AttentionSite, module: nn.Module, bias: Tensor, count: int, moved: int) -> Tensor:
    """Relative position bias [1, h, T, P + K]: slots count from the first prefix token, as in `adapters`; the queries are
    `moved` up where the text stands behind the prefix."""
    first = next(
        s.module for s in attention_sites(site.pool) if s.kind == site.kind and s.place.tower == site.place.tower
    )
    if not getattr(first, "has_relative_attention_bias", False):
        return torch.nn.functional.pad(bias, (count, 0))
    targets, length = bias.shape[2], bias.shape[3]
    return first.compute_bias(  # type: ignore[operator]
        targets, length + count, device=bias.device, past_seen_tokens=length - targets + moved
    )


def _original(chosen: str, module: nn.Module) -> Callable[..., Any]:
    from transformers import AttentionInterface

    if chosen != "eager":
        found: Callable[..., Any] = AttentionInterface()[chosen]
        return found
    for kind in type(module).__mro__:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if eager is not None:
            return eager
    raise UnsupportedModelError(f"{type(module).__name__} has no eager attention function.")


def _keep_input(site: AttentionSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    value = args[0] if args else kwargs.get("hidden_states")
    site.input.put(value)


def _heads(config: Any, width: int) -> tuple[int, int]:
    """(number of key/value heads, size of one) of an attention with this config."""
    heads = next(
        (
            n
            for name in ("num_attention_heads", "num_heads", "n_heads", "n_head")
            if isinstance(n := getattr(config, name, None), int)
        ),
        1,
    )
    size = next(
        (n for name in ("head_dim", "d_kv") if isinstance(n := getattr(config, name, None), int)), width // heads
    )
    grouped = getattr(config, "num_key_value_heads", None)
    return (grouped if isinstance(grouped, int) else heads), size


def attention_sites(pool: Pool) -> list[AttentionSite]:
    """The sites of `Pool.attention_sites`, made on first use.

    Raises:
        InvalidConfigError: the family names no attention modules, or they do not use transformers' attention interface.
    """
    modules = pool.own_modules()
    places = [
        (layer, kind, f"{layer.path}.{name}") for layer in pool.layout.layers for kind, name in layer.attention.items()
    ]
    for _, _, path in places[:1]:
        source = sys.modules[type(modules[path]).__module__]
        if not hasattr(source, "ALL_ATTENTION_FUNCTIONS") and type(modules[path]).__name__ not in _METHODS:
            raise InvalidConfigError(
                f"Prefix tuning needs transformers' attention interface, which {type(modules[path]).__name__} does not use.",
                hint="Later releases of transformers move more models to it (T5 in 5.15); other methods work here.",
            )
    missing = [(layer, kind, path) for layer, kind, path in places if f"{layer.key}.{kind}_prefix" not in pool.by_key]
    pool.grow(
        lambda first: [
            AttentionSite(pool, index, layer, kind, modules[path])
            for index, (layer, kind, path) in enumerate(missing, first)
        ]
    )
    found = [pool.by_key[f"{layer.key}.{kind}_prefix"] for layer, kind, _ in places]
    return [site for site in found if isinstance(site, AttentionSite)]
