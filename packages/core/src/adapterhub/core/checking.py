"""The identity check: one small forward shows that what a family says of a model is so.

At every sublayer h + r must be, to the last bit, what the model's norm gets (post-LN) or what the next sublayer or the end of
the layer gets (pre-LN). A site that passes is a place where a changed h' has exactly the meaning the equations give it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.dummy import run_small
from adapterhub.core.layout import LayerPlace, Layout, SublayerPlace, argument_of
from adapterhub.spec.errors import UnsupportedModelError

__all__ = ["check_identity", "problems_of", "quiet"]


@dataclass(slots=True)
class _Event:
    kind: str  # "residual", "output", "norm", "layer"
    place: SublayerPlace | LayerPlace
    value: Tensor


def check_identity(model: nn.Module, base: nn.Module, layout: Layout) -> None:
    """Run `base` once and verify every sublayer of `layout`.

    Nothing of the model changes: no gradient, no random number, the mode of every module is put back. Models whose
    parameters hold no numbers (meta device) are taken at their word.

    Raises:
        UnsupportedModelError: what was expected where, and what was found.
    """
    if any(parameter.device.type == "meta" for parameter in base.parameters()):
        return
    try:
        found = problems_of(base, layout)
    except Exception as error:
        raise UnsupportedModelError(
            f"The {layout.family} sites of {type(model).__name__} could not be verified: one small forward failed with "
            f"{type(error).__name__}: {error}",
            hint="Pass verify=False if you know that the family holds for this model.",
        ) from error
    problems = list(found.values())
    if problems:
        raise UnsupportedModelError(
            f"The family {layout.family!r} does not hold for {type(model).__name__}: {'; '.join(problems[:3])}"
            f"{f'; and {len(problems) - 3} more sites' if len(problems) > 3 else ''}.",
            hint="Write a family file that says where h, r and the norm are; spec/families has examples.",
            details={"problems": problems},
        )


def problems_of(base: nn.Module, layout: Layout) -> dict[str, str]:
    """What one small forward shows to be wrong, by the key of the sublayer."""
    modules = dict(base.named_modules(remove_duplicate=False))
    events: list[_Event] = []
    handles: list[Any] = []
    for place in layout.sublayers:
        handles += _listen(place, modules, events)
    for layer in layout.layers:
        handles.append(modules[layer.path].register_forward_hook(_record_output(events, "layer", layer)))
    try:
        with quiet(base):
            run_small(base, again=events.clear)
    finally:
        for handle in handles:
            handle.remove()
    return {place.key: problem for place in layout.sublayers if (problem := _problem(place, events))}


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first one in a tuple, list or model output."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list) and value:
        return first_tensor(value[0])
    return None


def _listen(place: SublayerPlace, modules: dict[str, nn.Module], events: list[_Event]) -> Iterator[Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = argument_of(place, args, kwargs)
        if isinstance(value, Tensor):
            events.append(_Event("residual", place, value.clone()))

    def normed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = first_tensor(args) if args else next(iter(kwargs.values()))
        if isinstance(value, Tensor):
            events.append(_Event("norm", place, value.clone()))

    yield modules[place.residual].register_forward_pre_hook(before, with_kwargs=True)
    yield modules[place.output].register_forward_hook(_record_output(events, "output", place))
    if place.norm is not None:
        yield modules[place.norm].register_forward_pre_hook(normed, with_kwargs=True)


def _record_output(events: list[_Event], kind: str, place: Any) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        value = first_tensor(output)
        if value is not None:
            events.append(_Event(kind, place, value.clone()))

    return hook


def _problem(place: SublayerPlace, events: list[_Event]) -> str | None:
    """What is wrong at one sublayer, or None."""
    spots = [i for i, event in enumerate(events) if event.kind == "output" and event.place is place]
    if place.shared:
        own = [(i, event.kind) for i, event in enumerate(events) if event.place is place]
        spots = [
            i for (i, kind), (_, last) in zip(own[1:], own, strict=False) if (kind, last) == ("output", "residual")
        ]
    if not spots and place.kind == "cross_attention":
        return None  # it runs only where another text is attended to
    if not spots:
        return f"{place.key}: {place.output} was never called"
    for spot in spots:
        hidden = events[spot].value if place.scale == 1.0 else events[spot].value * place.scale
        residual = next((e.value for e in reversed(events[:spot]) if e.kind == "residual" and e.place is place), None)
        if residual is None:
            return f"{place.key}: no residual was seen at {place.residual}"
        if residual.numel() != hidden.numel() or residual.shape[-1] != hidden.shape[-1]:
            return f"{place.key}: h is {tuple(hidden.shape)} and r is {tuple(residual.shape)}"
        residual = residual.reshape(hidden.shape)  # rows and tokens may be flattened
        if hidden.shape[-1] != place.layer.width:
            return f"{place.key}: h has size {hidden.shape[-1]}, the config says {place.layer.width}"
        others = [e for e in events if e.kind == "output" and e.place is not place and _same_layer(e.place, place)]
        wanted = _sums(place, hidden, residual, others)
        targets = _targets(place, events[spot + 1 :])
        if not targets:
            return f"{place.key}: nothing is known of what comes after {place.output}"
        if not any(
            torch.equal(total.reshape(target.shape), target)
            for total in wanted
            for target in targets
            if total.numel() == target.numel()
        ):
            off = min(
                (
                    float((total.reshape(t.shape) - t).abs().max())
                    for total in wanted
                    for t in targets
                    if t.numel() == total.numel()
                ),
                default=float("inf"),
            )
            return f"{place.key}: h + r is not the next tensor (off by {off:.1e})"
    return None


def _same_layer(one: SublayerPlace | LayerPlace, other: SublayerPlace) -> bool:
    return isinstance(one, SublayerPlace) and one.layer is other.layer


def _sums(place: SublayerPlace, hidden: Tensor, residual: Tensor, others: list[_Event]) -> list[Tensor]:
    """h + r, or in a parallel block the sum with the other output in any order."""
    if not place.joint:
        return [hidden + residual]
    found = []
    for event in others:
        other = event.value
        if other.shape == hidden.shape:
            found += [(other + hidden) + residual, (hidden + residual) + other, (other + residual) + hidden]
    return found


def _targets(place: SublayerPlace, after: list[_Event]) -> list[Tensor]:
    """What h + r may be: the input of its norm, or up to the end of the layer whatever comes next."""
    found: list[Tensor] = []
    for event in after:
        if place.norm is not None:
            if event.kind == "norm" and event.place is place:
                return [event.value]
        elif event.kind == "residual" and event.place is not place:
            found.append(event.value)
        elif event.kind == "layer":
            found.append(event.value)
            if event.place is place.layer:
                break
    return found
