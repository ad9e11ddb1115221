"""The site of prompts: trained embeddings in front of the embedded text (prompt tuning).

Models with an embeddings module of their own (BERT and its kin) get the prompt behind it, so prompts have no position, or
among its words (`prefix_words`, as PEFT does); all others get it among their `inputs_embeds`. There the positions are numbered
through. Mask, positions, segments and labels are lengthened to fit.
Calls that go on from a cache only have their mask and positions moved: the prompt is in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.caches import seen_before
from adapterhub.core.carried import Carrier
from adapterhub.core.operations import AtEmbedding, Operation
from adapterhub.core.sites import HookedSite
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool

__all__ = ["PromptSite", "prompt_site"]


class PromptSite(HookedSite):
    """The embedded text [B, T, d]."""

    def __init__(self, pool: Pool, index: int, key: str, module: nn.Module | None, width: int) -> None:
        super().__init__(pool, index, key, pool.base_model, "prompt")
        self.module, self.width = module, width
        #: what is called with the text: generation calls the towers of two-tower models one by one
        self.caller = pool.base_model
        self.reader: nn.Module | None = None
        #: how many tokens the model with the head put in front of the ids
        self.room = Carrier()
        if getattr(pool.base_model.config, "is_encoder_decoder", False):
            self.caller, self.reader = (
                pool.base_model.get_submodule("encoder"),
                pool.base_model.get_submodule("decoder"),
            )

    def leaf(self, module: nn.Module) -> Operation:
        return AtEmbedding(module)

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.caller.register_forward_pre_hook(partial(_make_room, self), with_kwargs=True)
        if self.reader is not None:
            yield self.reader.register_forward_pre_hook(partial(_widen_cross_mask, self), with_kwargs=True)
        if self.module is not None:
            yield self.module.register_forward_pre_hook(_mask_of_text, with_kwargs=True)
            yield self.module.register_forward_hook(partial(_put_behind, self))
        if self.pool.model is not self.pool.base_model:
            yield self.pool.model.register_forward_pre_hook(partial(_lengthen_labels, self), with_kwargs=True)
            if self.module is None and hasattr(self.pool.model, "score"):
                yield self.pool.model.register_forward_pre_hook(partial(_lengthen_ids, self), with_kwargs=True)


def _added(operation: Operation, like: Tensor) -> int:
    """How many tokens the operation adds."""
    probe = operation(like.new_zeros(like.shape[0], 1, like.shape[-1]), None)
    return probe.shape[1] - 1


def _make_room(
    site: PromptSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    operation = site.operation()
    if operation is None:
        return None
    kwargs = dict(kwargs)
    ids = args[0] if args else kwargs.get("input_ids")
    if (room := site.room.take()) and ids is not None:
        ids = ids[:, room:]
    embedded = kwargs.get("inputs_embeds")
    if embedded is None and ids is None:
        return None
    mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    first = not seen_before(kwargs)
    if embedded is None:
        embedded = site.pool.base_model.get_input_embeddings()(ids)  # type: ignore[operator]
    count = _added(operation, embedded.new_zeros(embedded.shape[0], 1, site.width))
    if isinstance(mask, Tensor) and mask.dim() == 2:
        mask = F.pad(mask, (count, 0), value=1)
    positions = kwargs.get("position_ids")
    if isinstance(positions, Tensor) and site.module is None:
        positions = positions + count
        if first:
            front = torch.arange(count, device=positions.device).expand(*positions.shape[:-1], count)
            positions = torch.cat((front, positions), -1)
        kwargs["position_ids"] = positions
    segments = kwargs.get("token_type_ids")
    if first and isinstance(segments, Tensor) and site.module is None:
        kwargs["token_type_ids"] = F.pad(segments, (count, 0))
    if len(args) > 1:
        args = (args[0], mask, *args[2:])
    else:
        kwargs["attention_mask"] = mask
    if first and site.module is None:
        kwargs["inputs_embeds"] = operation(embedded, None)
        kwargs["input_ids"] = None
        args = (None, *args[1:]) if args else ()
        if args:
            kwargs.pop("input_ids")
    return args, kwargs


def _widen_cross_mask(
    site: PromptSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
    if not isinstance(mask, Tensor) or not isinstance(states, Tensor) or mask.dim() != 2:
        return None
    return args, {**kwargs, "encoder_attention_mask": F.pad(mask, (states.shape[1] - mask.shape[1], 0), value=1)}


def _mask_of_text(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """DeBERTa's embeddings are given the mask too, and multiply the text by it, which the prompt is not part of yet."""
    mask = kwargs.get("mask")
    text = next(
        (given for given in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args) if given is not None), None
    )
    if not isinstance(mask, Tensor) or not isinstance(text, Tensor) or mask.dim() != 2:
        return None
    return args, {**kwargs, "mask": mask[:, -text.shape[1] :]}


def _put_behind(site: PromptSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    operation = site.operation()
    if operation is None:
        return None
    if isinstance(output, Tensor):
        return operation(output, None)
    return (operation(output[0], None), *output[1:])


def _lengthen_labels(
    site: PromptSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    operation, labels = site.operation(), kwargs.get("labels")
    if operation is None or not isinstance(labels, Tensor) or labels.dim() != 2:
        return None
    if getattr(site.pool.base_model.config, "is_encoder_decoder", False):
        return None
    ids = kwargs.get("input_ids", args[0] if args else None)
    if isinstance(ids, Tensor) and labels.shape != ids.shape:
        return None
    weight = next(site.pool.base_model.parameters())
    count = _added(operation, weight.new_zeros(labels.shape[0], 1, site.width))
    return args, {**kwargs, "labels": F.pad(labels, (count, 0), value=-100)}


def _lengthen_ids(
    site: PromptSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Classifiers of decoders read the last token, which they find among the ids: these get as many in front as are added."""
    operation, ids = site.operation(), kwargs.get("input_ids", args[0] if args else None)
    if operation is None or not isinstance(ids, Tensor) or seen_before(kwargs):
        return None
    weight = next(site.pool.base_model.parameters())
    count = _added(operation, weight.new_zeros(ids.shape[0], 1, site.width))
    site.room.put(count)
    ids = F.pad(ids, (count, 0))
    return ((ids, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": ids})


def prompt_site(pool: Pool, among_words: bool) -> PromptSite:
    """The site of `Pool.prompt_site`, made on first use.

    Args:
        pool: of the model.
        among_words: before an embeddings module of the model, not behind it.

    Raises:
        InvalidConfigError: a model without text embeddings.
    """
    place = pool.layout.embedding
    if place is None:
        raise InvalidConfigError(f"Prompt tuning needs text embeddings; the family {pool.layout.family} names none.")
    key = f"{place.key.rpartition('.')[0]}.{'word_prompt' if among_words else 'prompt'}"
    if key not in pool.by_key:
        behind = place.path.endswith("embeddings") and not among_words
        module = pool.base_model.get_submodule(place.path) if behind else None
        words = pool.base_model.get_input_embeddings()  # type: ignore[operator]
        width = place.width if module is not None else words.weight.shape[1]
        pool.grow(lambda first: [PromptSite(pool, first, key, module, width)])
    found = pool.by_key[key]
    assert isinstance(found, PromptSite)
    return found
