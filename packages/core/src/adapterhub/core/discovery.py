"""Structural discovery: where the sublayers of an unknown transformer are, read off one small forward.

Every call of every module is recorded. In each layer the value of the residual stream is followed: a sublayer is found where
(stream + output of a module) is, to the last bit, what a later module or the end of the layer gets. If that reader is a norm
whose output goes on as the stream, the layer is post-LN there. Blocks that add two outputs at once (parallel attention and
feed-forward) are found the same way. Of what is found only those places count that then pass the identity check.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.checking import problems_of
from adapterhub.core.layout import EmbeddingPlace, LayerPlace, Layout, SublayerPlace
from adapterhub.core.recording import Call, Read, Recording, Written, record
from adapterhub.core.roles import attention_of, linears_of
from adapterhub.spec.errors import UnsupportedModelError

__all__ = ["discover"]

_SWITCH = {"attention": "mh_adapter", "cross_attention": "cross_adapter", "ffn": "output_adapter"}
_CROSS = ("cross", "encoder_attn", "encdec", "enc_dec", "encoder_decoder", "inter_attention")
_FEED_FORWARD = ("mlp", "ffn", "feed_forward", "feedforward", "intermediate")
_ATTENTION = ("attn", "attention", "mixer_attn", "self_att")


@dataclass(slots=True)
class _Found:
    output: str
    residual: str
    argument: int
    keyword: str
    norm: str | None
    joint: str | None = None
    shared: bool = False
    scale: float = 1.0
    since: int = 0
    until: int = 0


def discover(base: nn.Module) -> Layout:
    """The places of a bare transformer no family file knows.

    Raises:
        UnsupportedModelError: no small input could be run, or no sublayer was found; the message says what was seen.
    """
    recording = record(base)
    modules = dict(base.named_modules())
    types = {path: type(module).__name__ for path, module in modules.items()}
    towers = _towers(modules, recording, types)
    if not towers:
        raise UnsupportedModelError(
            f"No row of layers was found in {type(base).__name__}: no list of modules that each add to a stream "
            "[batch, tokens, features] and hand it on as it came.",
            hint="If it is a transformer nevertheless, write a family file (see spec/families) and pass it: init(model, family=…).",
        )
    layers: list[LayerPlace] = []
    sublayers: list[SublayerPlace] = []
    spare: list[SublayerPlace] = []
    empty: list[str] = []
    called = {read.path for read in recording.reads}
    names = _tower_names(list(towers))
    total = sum(len(modules[where]) for where in towers)
    for where, paths in towers.items():
        for position, path in enumerate(paths):
            found = _sublayers_of(recording, recording.calls[path][0], types, _scales(modules[path]))
            if not found:
                empty.append(path)
                continue
            entry = recording.calls[path][0].entry
            assert entry is not None
            layer = LayerPlace(
                key=f"{names[where]}.{position}",
                tower=names[where],
                index=len(layers),
                position=position,
                path=path,
                legacy_path=path,
                width=int(entry.shape[-1]),
                linears=linears_of(modules[path], lambda name, path=path: f"{path}.{name}" in called),  # type: ignore[misc]
                attention=attention_of(modules[path]),
            )
            layers.append(layer)
            for place in _places(layer, found, recording, modules):
                (sublayers if place.key == f"{layer.key}.{place.kind}" else spare).append(place)
    if not sublayers:
        raise UnsupportedModelError(
            f"{type(base).__name__} has layers ({', '.join(empty[:3])}…), but in none of them a module's output is added to "
            "the residual stream as it is.",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
            details={"layers": empty},
        )
    layout = Layout(
        "discovered", tuple(sublayers), tuple(layers), _embedding(base, recording, layers), _shaped(recording, layers)
    )
    layout = _verified(base, layout, spare)
    _tell_partial(base, layout, total)
    return layout


def _tell_partial(base: nn.Module, layout: Layout, total: int) -> None:
    """Warn of layers that adapters leave alone."""
    used = {place.layer.path for place in layout.sublayers}
    if len(used) < total:
        warnings.warn(
            f"In {total - len(used)} of the {total} layers of {type(base).__name__} no place for adapters was found: they stay "
            f"as they are. A family file can name the places: init(model, family=…).",
            stacklevel=2,
        )


def _verified(base: nn.Module, layout: Layout, spare: Sequence[SublayerPlace]) -> Layout:
    """Only the places that pass the identity check; `spare` ones take part in it, for what comes after a sublayer may be one
    of them.

    Raises:
        UnsupportedModelError: none does.
    """
    wrong = problems_of(base, replace(layout, sublayers=(*layout.sublayers, *spare)))
    kept = tuple(place for place in layout.sublayers if place.key not in wrong)
    if not kept:
        raise UnsupportedModelError(
            f"None of the places found in {type(base).__name__} is where h + r goes on as it is: "
            f"{'; '.join(list(wrong.values())[:3])}.",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
            details={"problems": list(wrong.values())},
        )
    return replace(layout, sublayers=kept)


def _towers(modules: dict[str, nn.Module], recording: Recording, types: dict[str, str]) -> dict[str, list[str]]:
    """Lists of layers, outermost first: modules in a ModuleList that keep the shape of what they are given. A list some of whose
    modules are no such layers gives way to lists inside of it, as stages do to their blocks."""
    found: dict[str, list[str]] = {}
    for path, module in modules.items():
        if isinstance(module, nn.ModuleList):
            fitting = [layer for layer in _children(path, modules) if _is_layer(recording, layer, modules, types)]
            if fitting:
                found[path] = fitting
    for path, fitting in list(found.items()):
        inside = any(f"{path}.".startswith(f"{layer}.") for rows in found.values() for layer in rows)
        some = len(fitting) < sum(layer in recording.calls for layer in _children(path, modules))
        if inside or (some and any(other.startswith(f"{path}.") for other in found)):
            del found[path]
    return found


def _children(path: str, modules: dict[str, nn.Module]) -> list[str]:
    return [f"{path}.{name}" if path else name for name, _ in modules[path].named_children()]


def _is_layer(recording: Recording, layer: str, modules: dict[str, nn.Module], types: dict[str, str]) -> bool:
    return (
        _keeps_shape(recording.calls.get(layer, []))
        and not isinstance(modules[layer], nn.Linear | nn.LayerNorm | nn.Embedding)
        and _features_last(recording, layer, modules)
        and bool(_sublayers_of(recording, recording.calls[layer][0], types, _scales(modules[layer])))
    )


def _keeps_shape(calls: list[Call]) -> bool:
    return bool(calls) and all(
        call.entry is not None and call.exit is not None and call.entry.shape == call.exit.shape for call in calls
    )


def _features_last(recording: Recording, layer: str, modules: dict[str, nn.Module]) -> bool:
    """Whether the last axis of what a layer is given holds features: a map or norm inside has that size, and no convolution
    takes another axis for channels, as in networks for images."""
    call = recording.calls[layer][0]
    assert call.entry is not None
    shape = call.entry.shape
    sized = any(shape[-1] in _sizes_of(module) for module in modules[layer].modules())
    inside = (r for r in recording.reads if call.start < r.time < call.end and r.value.shape == shape)
    return sized and not any(shape[1] == _channels(modules[read.path]) for read in inside)


def _sizes_of(module: nn.Module) -> tuple[Any, ...]:
    """What a linear map or norm takes or gives."""
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) and weight.dim() <= 2 else ()


def _channels(module: nn.Module) -> int | None:
    """How many channels a module of images or sound expects as second axis; None for all others."""
    names = ("in_channels", "num_channels", "num_features")
    kinds = (nn.modules.conv._ConvNd, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    return next(
        (int(getattr(module, name)) for name in names if isinstance(module, kinds) and hasattr(module, name)), None
    )


def _tower_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for each list of layers: `encoder` or `decoder` where the path says so, else its own path."""
    names: dict[str, str] = {}
    for path in paths:
        words = path.split(".")
        name = next((word for word in words if word in ("encoder", "decoder")), None)
        if name is None:
            name = "decoder" if len(paths) == 1 else "_".join(words[:-1]) or words[-1]
        if name in names.values():
            name = "_".join(words)
        names[path] = name
    return names


def _scales(layer: nn.Module) -> list[float]:
    """Numbers a layer may multiply what it adds by, 1 first: Granite's residual multiplier, MiniCPM's depth scale, the half
    steps of a Conformer."""
    own = [value for value in layer.__dict__.values() if isinstance(value, float) and value > 0]
    return list(dict.fromkeys([1.0, *own, 0.5]))


def _sublayers_of(
    recording: Recording, call: Call, types: dict[str, str], scales: Sequence[float] = (1.0,)
) -> list[_Found]:
    """Follow the residual stream through one call of one layer."""
    if call.entry is None or call.exit is None:
        return []
    shape = call.entry.shape
    inside = [r for r in recording.reads if call.start <= r.time <= call.end and _same_rows(r.value, shape)]
    reads = [replace(read, value=read.value.reshape(shape)) for read in inside]
    given = [w for w in recording.writes if call.start < w.time < call.end and _same_rows(w.value, shape)]
    writes = [replace(written, value=written.value.reshape(shape)) for written in given]
    counts = Counter(written.path for written in writes)
    final = Read(call.end, "", 0, "", call.exit)
    found: list[_Found] = []
    streams = [call.entry]
    since = call.start
    for read in [*reads, final]:
        if any(torch.equal(read.value, stream) for stream in streams):
            continue
        between = [w for w in writes if since < w.time < read.time]
        step = _step(streams, between, read, [r for r in reads if r.path != call.path], scales)
        if step is None:
            continue
        sublayers = step
        for sublayer in sublayers:
            sublayer.shared = counts[sublayer.output] > 1
            sublayer.since, sublayer.until = since, read.time
        found.extend(sublayers)
        since = read.time
        streams = [read.value]
        if read.path and "norm" in types[read.path].lower():
            written = next((w for w in writes if w.path == read.path and w.time > read.time), None)
            if written is not None and not torch.equal(written.value, read.value):
                streams.append(written.value)
                for sublayer in sublayers:
                    sublayer.norm = read.path
    return _settled(found, call, reads, writes)


def _same_rows(value: Tensor, shape: torch.Size) -> bool:
    """Whether a tensor has this shape, or its rows flattened."""
    return value.shape[-1] == shape[-1] and value.numel() == shape.numel()


def _step(
    streams: list[Tensor], between: list[Written], read: Read, reads: list[Read], scales: Sequence[float]
) -> list[_Found] | None:
    """The sublayer, or the two at once, whose output added to a stream gives what `read` saw."""
    for stream, scale in product(streams, scales):
        for written in reversed(between):
            if torch.equal(stream + (written.value if scale == 1.0 else written.value * scale), read.value):
                source = _source(stream, reads, written.time)
                if source is not None and not _ran_since(written, source, between):
                    return [replace(_found(written, source), scale=scale)]
    for stream in streams:
        distinct = _distinct(between)
        for i, one in enumerate(distinct):
            for other in distinct[:i]:
                sums = (
                    (other.value + one.value) + stream,
                    (one.value + stream) + other.value,
                    (other.value + stream) + one.value,
                )
                if any(torch.equal(total, read.value) for total in sums):
                    first, second = _source(stream, reads, other.time), _source(stream, reads, one.time)
                    if first is not None and second is not None:
                        pair = [_found(other, first), _found(one, second)]
                        for part in pair:
                            part.joint = "stream"
                        return pair
    return None


def _ran_since(written: Written, source: Read, between: list[Written]) -> bool:
    """Whether the module ran between the residual and this call: then the call cannot be told from the other."""
    return any(w.path == written.path and source.time < w.time < written.time for w in between)


def _distinct(written: list[Written]) -> list[Written]:
    """The last of each run of equal tensors."""
    kept: list[Written] = []
    for item in written:
        same = next((k for k, old in enumerate(kept) if torch.equal(old.value, item.value)), None)
        if same is not None:
            kept.pop(same)
        kept.append(item)
    return kept


def _source(stream: Tensor, reads: list[Read], before: int) -> Read | None:
    """The last call, before the output appeared, of a module that was given the stream; each module called only once."""
    counts: dict[str, int] = {}
    times = {(read.path, read.time) for read in reads}
    for path, _ in times:
        counts[path] = counts.get(path, 0) + 1
    fitting = [r for r in reads if r.time < before and counts[r.path] == 1 and torch.equal(r.value, stream)]
    return min(fitting, key=lambda read: (read.path.count("."), -read.time), default=None)


def _found(written: Written, source: Read) -> _Found:
    return _Found(written.path, source.path, source.argument, source.keyword, None)


def _settled(found: list[_Found], call: Call, reads: list[Read], writes: list[Written]) -> list[_Found]:
    """A reader of h + r is its norm only if what it gives is the next stream; else the layer is pre-LN there."""
    for number, sublayer in enumerate(found):
        if sublayer.norm is None:
            continue
        written = next((w for w in writes if w.path == sublayer.norm), None)
        following = found[number + 1] if number + 1 < len(found) else None
        if written is None:
            sublayer.norm = None
        elif following is None:
            if not (call.exit is not None and torch.equal(call.exit, written.value)):
                sublayer.norm = None
        else:
            source = next(
                (
                    r
                    for r in reads
                    if r.path == following.residual
                    and r.argument == following.argument
                    and r.keyword == following.keyword
                ),
                None,
            )
            if source is None or not torch.equal(source.value, written.value):
                sublayer.norm = None
    return found


def _places(
    layer: LayerPlace, found: list[_Found], recording: Recording, modules: dict[str, nn.Module]
) -> Iterator[SublayerPlace]:
    """All sublayers of a layer; of several of one kind, those that count are called by the kind alone."""
    kinds = [_kind(sublayer, layer, recording, modules) for sublayer in found]
    chosen: dict[str, int] = {}
    for number, kind in enumerate(kinds):
        if kind == "ffn" or kind not in chosen:  # of several feed-forward parts the last one
            chosen[kind] = number
    for number, sublayer in enumerate(found):
        kind = kinds[number]
        yield SublayerPlace(
            key=f"{layer.key}.{kind}" + ("" if chosen[kind] == number else f"_{number}"),
            kind=kind,
            layer=layer,
            output=sublayer.output,
            residual=sublayer.residual,
            argument=sublayer.argument,
            keyword=sublayer.keyword,
            norm=sublayer.norm,
            switch=_SWITCH[kind],
            joint=sublayer.joint,
            host=None,
            shared=sublayer.shared,
            scale=sublayer.scale,
        )


def _kind(sublayer: _Found, layer: LayerPlace, recording: Recording, modules: dict[str, nn.Module]) -> str:
    """What a sublayer is by the names of the module that gives h and of its parents, then of all modules that ran for it: of
    two attentions that share a module, the one that ran modules of cross-attention; a layer that adds only once is for its
    feed-forward part."""
    inner = sublayer.output.removeprefix(layer.path).strip(".").split(".")
    parents = [f"{layer.path}.{'.'.join(inner[: i + 1])}" for i in range(len(inner))]
    kind = _kind_of(parents, layer, modules)
    if kind == "cross_attention" or sublayer.joint is not None:
        return kind
    between = [read.path for read in recording.reads if sublayer.since < read.time < sublayer.until]
    ran = [path for path in between if path.startswith(f"{layer.path}.")]
    by_all = _kind_of(ran, layer, modules)
    if kind == "attention":
        return "cross_attention" if by_all == "cross_attention" else kind
    return "ffn" if by_all == "attention" and _named(ran, layer, modules, _FEED_FORWARD) else by_all


def _kind_of(paths: list[str], layer: LayerPlace, modules: dict[str, nn.Module]) -> str:
    if _named(paths, layer, modules, _CROSS):
        return "cross_attention"
    return "attention" if _named(paths, layer, modules, _ATTENTION) else "ffn"


def _named(paths: list[str], layer: LayerPlace, modules: dict[str, nn.Module], words: Sequence[str]) -> bool:
    """Whether a path inside the layer, or the class of a module there, has one of these words in its name."""
    names = [f"{path.removeprefix(layer.path)} {type(modules[path]).__name__}".lower() for path in paths]
    return any(word in name for name in names for word in words)


def _entry(base: nn.Module, call: Call, recording: Recording, layer: LayerPlace) -> EmbeddingPlace | None:
    """The first argument of the first layer, if that is text [B, T, d]."""
    read = next((r for r in recording.reads if r.path == call.path and r.time == call.start), None)
    try:
        words = base.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    if not isinstance(words, nn.Embedding) or read is None or read.value.dim() != 3:
        return None
    if read.value.shape[0] != recording.rows or not (read.argument == 0 or read.keyword == "hidden_states"):
        return None
    return EmbeddingPlace(f"{layer.tower}.embedding", call.path, int(read.value.shape[-1]), argument=0)


def _shaped(recording: Recording, layers: Sequence[LayerPlace]) -> dict[str, str]:
    """How tensors lie at the modules in layers that give them otherwise than [B, T, d] (see `shapes`)."""
    found: dict[str, str] = {}
    rows = recording.rows
    for layer in layers if rows > 1 else ():
        call = recording.calls[layer.path][0]
        assert call.entry is not None
        entry = call.entry.shape[:-1]
        for written in recording.writes:
            if not call.start < written.time <= call.end:
                continue
            shape = written.value.shape[:-1]
            if shape[0] == rows:
                kind = "grid" if len(shape) > 2 else None
            elif len(shape) == 2 and shape[1] == rows:
                kind = "second"
            else:
                kind = "flat" if entry[0] == rows and shape.numel() == entry.numel() else None
            if kind is not None:
                found[written.path] = kind
    return found


def _embedding(base: nn.Module, recording: Recording, layers: list[LayerPlace]) -> EmbeddingPlace | None:
    """The module outside of layers that gives, once, what the first layer gets; where positions are added in no module (OPT,
    Pegasus), what the first layer of a text model gets."""
    first = recording.calls[layers[0].path][0]
    paths = [w.path for w in recording.writes]
    fitting = [
        w
        for w in recording.writes
        if w.time < first.start
        and paths.count(w.path) == 1
        and first.entry is not None
        and w.value.shape == first.entry.shape
        and torch.equal(w.value, first.entry)
    ]
    if not hasattr(base, "get_input_embeddings"):
        return None
    if not fitting:
        return _entry(base, first, recording, layers[0])
    last = fitting[-1]
    return EmbeddingPlace(f"{layers[0].tower}.embedding", last.path, int(last.value.shape[-1]))
