"""Structural discovery: where the sublayers of an unknown transformer are, read off one small forward.

Every call of every module is recorded. In each layer the value of the residual stream is followed: a sublayer is found where
(stream + output of a module) is, to the last bit, what a later module or the end of the layer gets. If that reader is a norm
whose output goes on as the stream, the layer is post-LN there. Blocks that add two outputs at once (parallel attention and
feed-forward) are found the same way. Of what is found only those places count that then pass the identity check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.checking import first_tensor, problems_of, quiet
from adapterhub.core.dummy import run_small
from adapterhub.core.layout import EmbeddingPlace, LayerPlace, Layout, SublayerPlace
from adapterhub.core.roles import attention_of, linears_of
from adapterhub.spec.errors import UnsupportedModelError

__all__ = ["discover"]

_SWITCH = {"attention": "mh_adapter", "cross_attention": "cross_adapter", "ffn": "output_adapter"}
_CROSS = ("cross", "encoder_attn", "encdec", "enc_dec", "encoder_decoder", "inter_attention")
_ATTENTION = ("attn", "attention", "mixer_attn", "self_att")


@dataclass(slots=True)
class _Read:
    """A module was called with this tensor."""

    time: int
    path: str
    argument: int
    keyword: str
    value: Tensor


@dataclass(slots=True)
class _Written:
    """A module gave this tensor (first of its outputs)."""

    time: int
    path: str
    value: Tensor


@dataclass(slots=True)
class _Call:
    """One call of one layer: what was read and written inside."""

    path: str
    start: int
    end: int = -1
    entry: Tensor | None = None
    exit: Tensor | None = None


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


@dataclass
class _Recording:
    reads: list[_Read] = field(default_factory=list)
    writes: list[_Written] = field(default_factory=list)
    calls: dict[str, list[_Call]] = field(default_factory=dict)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def clear(self) -> None:
        """Forget everything."""
        self.reads.clear()
        self.writes.clear()
        self.calls.clear()


def discover(base: nn.Module) -> Layout:
    """The places of a bare transformer no family file knows.

    Raises:
        UnsupportedModelError: no small input could be run, or no sublayer was found; the message says what was seen.
    """
    recording = _record(base)
    modules = dict(base.named_modules())
    types = {path: type(module).__name__ for path, module in modules.items()}
    towers = _towers(modules, recording, types)
    if not towers:
        raise UnsupportedModelError(
            f"No row of layers was found in {type(base).__name__}.",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
        )
    layers: list[LayerPlace] = []
    sublayers: list[SublayerPlace] = []
    empty: list[str] = []
    names = _tower_names(list(towers))
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
                linears=linears_of(modules[path]),
                attention=attention_of(modules[path]),
            )
            layers.append(layer)
            sublayers.extend(_places(layer, found, recording, modules))
    if not sublayers:
        raise UnsupportedModelError(
            f"{type(base).__name__} has layers ({', '.join(empty[:3])}…), but in none of them a module's output is added to "
            "the residual stream as it is.",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
            details={"layers": empty},
        )
    layout = Layout("discovered", tuple(sublayers), tuple(layers), _embedding(base, recording, layers))
    return _verified(base, layout)


def _verified(base: nn.Module, layout: Layout) -> Layout:
    """Only the places that pass the identity check.

    Raises:
        UnsupportedModelError: none does.
    """
    wrong = problems_of(base, layout)
    kept = tuple(place for place in layout.sublayers if place.key not in wrong)
    if not kept:
        raise UnsupportedModelError(
            f"None of the places found in {type(base).__name__} is where h + r goes on as it is: "
            f"{'; '.join(list(wrong.values())[:3])}.",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
            details={"problems": list(wrong.values())},
        )
    return replace(layout, sublayers=kept)


def _record(base: nn.Module) -> _Recording:
    recording = _Recording()
    handles = []
    lists = {
        f"{path}.{name}" if path else name
        for path, module in base.named_modules()
        if isinstance(module, nn.ModuleList)
        for name, _ in module.named_children()
    }
    for path, module in base.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(_reader(recording, path, path in lists), with_kwargs=True))
            handles.append(module.register_forward_hook(_writer(recording, path, path in lists)))
    try:
        with quiet(base):
            run_small(base, again=recording.clear)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(base).__name__} is of no known family, and could not be looked at: one small forward failed with "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return recording


def _reader(recording: _Recording, path: str, is_layer: bool) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        time = recording.tick()
        given = [(i, "hidden_states", value) for i, value in enumerate(args)]
        given += [(99, name, value) for name, value in kwargs.items()]
        tensors = [(i, name, value) for i, name, value in given if isinstance(value, Tensor) and value.dim() >= 2]
        for i, name, value in tensors:
            if value.is_floating_point():
                recording.reads.append(_Read(time, path, i, name, value.clone()))
        if is_layer:
            entry = next((value.clone() for _, _, value in tensors if value.is_floating_point()), None)
            recording.calls.setdefault(path, []).append(_Call(path, time, entry=entry))

    return hook


def _writer(recording: _Recording, path: str, is_layer: bool) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        value = first_tensor(output)
        time = recording.tick()
        if value is not None and value.dim() >= 2:
            recording.writes.append(_Written(time, path, value.clone()))
        if is_layer:
            call = recording.calls[path][-1]
            call.end = time
            call.exit = None if value is None else value.clone()

    return hook


def _towers(modules: dict[str, nn.Module], recording: _Recording, types: dict[str, str]) -> dict[str, list[str]]:
    """Lists of layers, outermost first: modules in a ModuleList that keep the shape of what they are given."""
    found: dict[str, list[str]] = {}
    for path, module in modules.items():
        if not isinstance(module, nn.ModuleList) or any(
            path.startswith(f"{layer}.") for rows in found.values() for layer in rows
        ):
            continue
        layers = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        fitting = [layer for layer in layers if _keeps_shape(recording.calls.get(layer, []))]
        if (
            fitting
            and not all(isinstance(modules[layer], nn.Linear | nn.LayerNorm | nn.Embedding) for layer in fitting)
            and any(
                _sublayers_of(recording, recording.calls[layer][0], types, _scales(modules[layer])) for layer in fitting
            )
        ):
            found[path] = fitting
    return found


def _keeps_shape(calls: list[_Call]) -> bool:
    return bool(calls) and all(
        call.entry is not None and call.exit is not None and call.entry.shape == call.exit.shape for call in calls
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
    recording: _Recording, call: _Call, types: dict[str, str], scales: Sequence[float] = (1.0,)
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
    final = _Read(call.end, "", 0, "", call.exit)
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
    streams: list[Tensor], between: list[_Written], read: _Read, reads: list[_Read], scales: Sequence[float]
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


def _ran_since(written: _Written, source: _Read, between: list[_Written]) -> bool:
    """Whether the module ran between the residual and this call: then the call cannot be told from the other."""
    return any(w.path == written.path and source.time < w.time < written.time for w in between)


def _distinct(written: list[_Written]) -> list[_Written]:
    """The last of each run of equal tensors."""
    kept: list[_Written] = []
    for item in written:
        same = next((k for k, old in enumerate(kept) if torch.equal(old.value, item.value)), None)
        if same is not None:
            kept.pop(same)
        kept.append(item)
    return kept


def _source(stream: Tensor, reads: list[_Read], before: int) -> _Read | None:
    """The last call, before the output appeared, of a module that was given the stream; each module called only once."""
    counts: dict[str, int] = {}
    times = {(read.path, read.time) for read in reads}
    for path, _ in times:
        counts[path] = counts.get(path, 0) + 1
    fitting = [r for r in reads if r.time < before and counts[r.path] == 1 and torch.equal(r.value, stream)]
    return min(fitting, key=lambda read: (read.path.count("."), -read.time), default=None)


def _found(written: _Written, source: _Read) -> _Found:
    return _Found(written.path, source.path, source.argument, source.keyword, None)


def _settled(found: list[_Found], call: _Call, reads: list[_Read], writes: list[_Written]) -> list[_Found]:
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
    layer: LayerPlace, found: list[_Found], recording: _Recording, modules: dict[str, nn.Module]
) -> Iterator[SublayerPlace]:
    kinds = [_kind(sublayer, layer, recording, modules) for sublayer in found]
    chosen: dict[str, int] = {}
    for number, kind in enumerate(kinds):
        if kind == "ffn" or kind not in chosen:  # of several feed-forward parts the last one
            chosen[kind] = number
    for number, sublayer in enumerate(found):
        if chosen.get(kinds[number]) != number:
            continue
        kind = kinds[number]
        yield SublayerPlace(
            key=f"{layer.key}.{kind}",
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


def _kind(sublayer: _Found, layer: LayerPlace, recording: _Recording, modules: dict[str, nn.Module]) -> str:
    """What a sublayer is by the names of the module that gives h and of its parents, then of all modules that ran for it."""
    inner = sublayer.output.removeprefix(layer.path).strip(".").split(".")
    parents = [f"{layer.path}.{'.'.join(inner[: i + 1])}" for i in range(len(inner))]
    kind = _kind_of(parents, layer, modules)
    if kind == "ffn" and sublayer.joint is None:
        ran = [read.path for read in recording.reads if sublayer.since < read.time < sublayer.until]
        return _kind_of([path for path in ran if path.startswith(f"{layer.path}.")], layer, modules)
    return kind


def _kind_of(paths: list[str], layer: LayerPlace, modules: dict[str, nn.Module]) -> str:
    names = [f"{path.removeprefix(layer.path)} {type(modules[path]).__name__}".lower() for path in paths]
    if any(word in name for name in names for word in _CROSS):
        return "cross_attention"
    return "attention" if any(word in name for name in names for word in _ATTENTION) else "ffn"


def _embedding(base: nn.Module, recording: _Recording, layers: list[LayerPlace]) -> EmbeddingPlace | None:
    """The module outside of layers that gives, once, what the first layer gets."""
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
    if not fitting or not hasattr(base, "get_input_embeddings"):
        return None
    last = fitting[-1]
    return EmbeddingPlace(f"{layers[0].tower}.embedding", last.path, int(last.value.shape[-1]))
