"""The site of prompts: trained embeddings in front of the embedded text (prompt tuning).

Models with an embeddings module of their own (BERT and its kin) get the prompt behind it, so prompts have no position, or
among its words (`prefix_words`, as PEFT does); all others get it among their `inputs_embeds`. There the positions are numbered
through. Mask, positions, segments and labels are lengthened to fit. Where rows get prompts of different lengths, or none, those
that get less are filled up with what the mask leaves out: at the end in encoders, whose first tokens heads read, in front in
decoders, which go on after the last. So every row is what it is alone.
Calls that go on from a cache only have their mask and positions moved: the prompt is in the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.core.caches import seen_before
from adapterhub.core.carried import Carrier
from adapterhub.core.operations import Added, AtEmbedding, Operation
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
        #: whether rows that get less are filled up in front, so that all end together
        self.ends_aligned = pool.layout.layers[0].tower == "decoder" or getattr(
            pool.base_model.config, "is_decoder", False
        )
        self.takes_positions = "position_ids" in inspect.signature(self.caller.forward).parameters

    def leaf(self, module: nn.Module) -> Operation:
        return AtText(module)

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.caller.register_forward_pre_hook(partial(_make_room, self), with_kwargs=True)
        if self.reader is not None:
            yield self.reader.register_forward_pre_hook(partial(_widen_cross_mask, self), with_kwargs=True)
        if self.module is not None:
            yield self.module.register_forward_pre_hook(partial(_mask_of_text, self), with_kwargs=True)
            yield self.module.register_forward_hook(partial(_put_behind, self))
        if self.pool.model is not self.pool.base_model:
            yield self.pool.model.register_forward_pre_hook(partial(_lengthen_labels, self), with_kwargs=True)
            if self.module is None and hasattr(self.pool.model, "score"):
                yield self.pool.model.register_forward_pre_hook(partial(_lengthen_ids, self), with_kwargs=True)


class AtText(AtEmbedding):
    """One prompt among the embedded text."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.added: Added = module.added()  # type: ignore[operator]

    def tokens_added(self, rows: int) -> list[Added]:
        return [self.added] * rows


class Room:
    """How much longer the rows of a batch get.

    Args:
        site: whose operation it is.
        operation: which makes them longer.
        rows: of the batch.

    Attributes:
        count: tokens added to the row that gets most; all get as long.
        missing: how many of them each row lacks [rows, 1]; None where all get the same.
        behind: how many each row gets behind its first token [rows]; None where no row does.
    """

    def __init__(self, site: PromptSite, operation: Operation, rows: int) -> None:
        added = operation.tokens_added(rows)
        self.count = max(map(sum, added), default=0)
        missing = [self.count - front - behind for front, behind in added]
        self.missing = torch.tensor(missing).unsqueeze(1) if len(set(missing)) > 1 else None
        self.behind = torch.tensor([behind for _, behind in added]) if any(behind for _, behind in added) else None
        self.ends_aligned = site.ends_aligned

    def lengthened(self, value: Tensor, filling: int) -> Tensor:
        """[B, T] → [B, T + count] with `filling` where the text is not."""
        return self.placed(self._apart(F.pad(value, (self.count, 0), value=filling), filling))

    def _apart(self, value: Tensor, filling: int) -> Tensor:
        """The first token of [B, count + T] moved in front of what comes behind it."""
        if self.behind is None:
            return value
        rows = torch.arange(value.shape[0], device=value.device)
        value, first = value.clone(), value[:, self.count]
        value[:, self.count] = filling
        value[rows, self.count - self.behind.to(value.device)] = first
        return value

    def placed(self, value: Tensor) -> Tensor:
        """[B, count + T, …] with what a row lacks in front of it → where it belongs."""
        return value if self.missing is None or self.ends_aligned else _turned(value, self.missing)

    def of_text(self, value: Tensor) -> Tensor:
        """[B, T] of which `lengthened` gave `value` [B, T + count]."""
        if self.missing is not None and not self.ends_aligned:
            value = _turned(value, -self.missing)
        if self.behind is None:
            return value[:, self.count :]
        rows = torch.arange(value.shape[0], device=value.device)
        first = value[rows, self.count - self.behind.to(value.device)]
        return torch.cat((first.unsqueeze(1), value[:, self.count + 1 :]), 1)

    def mask(self, given: Tensor | None, rows: int, tokens: int, device: torch.device) -> Tensor | None:
        """The padding mask [B, T + count] from that of the text [B, T]; None where there is none and none is needed."""
        if given is None and self.missing is None:
            return None
        if given is None:
            given = torch.ones(rows, tokens, dtype=torch.long, device=device)
        longer = self._apart(F.pad(given, (self.count, 0), value=1), 1)
        if self.missing is not None:
            there = torch.arange(longer.shape[1]) >= self.missing
            longer = longer * there.to(longer.device, longer.dtype)
        return self.placed(longer)

    def positions(self, given: Tensor, *, first: bool) -> Tensor:
        """Positions of the text […, T] moved behind the prompt, with those of the prompt in front in the first call."""
        lacks = 0 if self.missing is None else self.missing.to(given.device)
        if self.missing is not None:
            given = given.expand(*given.shape[:-2], self.missing.shape[0], -1)
        moved = given + self.count - lacks
        if not first:
            return moved
        front = (torch.arange(self.count, device=given.device) - lacks).clamp(min=0)
        return self.placed(torch.cat((front.expand(*moved.shape[:-1], -1), moved), -1))

    def labels(self, given: Tensor, *, of_next: bool) -> Tensor:
        """Labels [B, T + count] of the text's [B, T]; -100 elsewhere. `of_next`: the model compares each with what the token
        before gives, which the first of a row has none of."""
        longer = self.lengthened(given, -100)
        if of_next and self.missing is not None and self.ends_aligned:
            longer = longer.scatter(1, self.missing.to(longer.device), -100)
        return longer


def _turned(value: Tensor, by: Tensor) -> Tensor:
    """Each row of [B, T, …] moved to the left by so many places [B, 1]; what falls out comes back at its end."""
    order = (torch.arange(value.shape[1]) + by) % value.shape[1]
    return value[torch.arange(value.shape[0]).unsqueeze(1), order.to(value.device)]


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
    rows, tokens = embedded.shape[:2]
    longer = Room(site, operation, rows)
    before = max(0, seen_before(kwargs) - longer.count)  # tokens of the text in the cache
    if mask is None or (isinstance(mask, Tensor) and mask.dim() == 2):
        mask = longer.mask(mask, rows, before + tokens, embedded.device)
    positions = kwargs.get("position_ids")
    if positions is None and longer.missing is not None and site.ends_aligned and site.takes_positions:
        positions = torch.arange(before, before + tokens, device=embedded.device).unsqueeze(0)
    if isinstance(positions, Tensor) and site.module is None:
        kwargs["position_ids"] = longer.positions(positions, first=first)
    segments = kwargs.get("token_type_ids")
    if first and isinstance(segments, Tensor) and site.module is None:
        kwargs["token_type_ids"] = longer.lengthened(segments, 0)
    if len(args) > 1:
        args = (args[0], mask, *args[2:])
    else:
        kwargs["attention_mask"] = mask
    if first and site.module is None:
        kwargs["inputs_embeds"] = longer.placed(operation(embedded, None))
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
    operation = site.operation()
    if operation is None or states.shape[1] == mask.shape[1]:
        return None
    rows, tokens = mask.shape
    wider = Room(site, operation, rows).mask(mask, rows, tokens, mask.device)
    return args, {**kwargs, "encoder_attention_mask": wider}


def _mask_of_text(
    site: PromptSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """DeBERTa's embeddings are given the mask too, and multiply the text by it, which the prompt is not part of yet."""
    mask = kwargs.get("mask")
    text = next(
        (given for given in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args) if given is not None), None
    )
    operation = site.operation()
    if operation is None or not isinstance(mask, Tensor) or not isinstance(text, Tensor) or mask.dim() != 2:
        return None
    return args, {**kwargs, "mask": Room(site, operation, mask.shape[0]).of_text(mask)}


def _put_behind(site: PromptSite, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    operation = site.operation()
    if operation is None:
        return None
    embedded = output if isinstance(output, Tensor) else output[0]
    changed = Room(site, operation, embedded.shape[0]).placed(operation(embedded, None))
    return changed if isinstance(output, Tensor) else (changed, *output[1:])


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
    return args, {
        **kwargs,
        "labels": Room(site, operation, labels.shape[0]).labels(labels, of_next=_speaks(site.pool.model)),
    }


def _speaks(model: nn.Module) -> bool:
    """Whether it is a language model, which compares what a token gives with the next one."""
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def _lengthen_ids(
    site: PromptSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Classifiers of decoders read the last token, which they find among the ids: these get as many in front as are added."""
    operation, ids = site.operation(), kwargs.get("input_ids", args[0] if args else None)
    if operation is None or not isinstance(ids, Tensor) or seen_before(kwargs):
        return None
    count = Room(site, operation, ids.shape[0]).count
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
