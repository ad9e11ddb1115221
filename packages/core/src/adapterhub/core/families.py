"""Which sites a model has: a family file of the spec laid over the model's modules, or structural discovery."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from adapterhub.core.checking import quiet
from adapterhub.core.discovery import discover
from adapterhub.core.dummy import run_small
from adapterhub.core.layout import EmbeddingPlace, LayerPlace, Layout, SublayerPlace
from adapterhub.spec.errors import UnsupportedModelError
from adapterhub.spec.family import ModelFamily, SublayerSpec, TowerSpec, families_of, load_family

__all__ = ["discovered", "lay_out"]


def lay_out(model: nn.Module, family: ModelFamily | str | None = None) -> tuple[nn.Module, Layout]:
    """The bare transformer inside `model` and its places.

    Args:
        model: a transformers model, with or without head.
        family: a family, its name, or None to look it up by `config.model_type`; where no file fits, the places are
            discovered.

    Raises:
        UnsupportedModelError: no family fits; the message says what was looked for.
    """
    config = getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", type(model).__name__))
    if isinstance(family, str):
        family = load_family(family)
    candidates = [family] if family else [known for known in families_of(model_type) if _holds(known, config)]
    missing: list[str] = []
    for candidate in candidates:
        for base in bare_candidates(model):
            try:
                return base, _over(base, candidate, config)
            except _MissingError as error:
                missing.append(f"{candidate.family}: {error}")
    if family is None:
        composite = None if candidates else _composite(model)
        return (model, composite) if composite is not None else discovered(model, missing)
    raise UnsupportedModelError(
        f"The family {family.family!r} does not fit {type(model).__name__}: {'; '.join(dict.fromkeys(missing))}.",
        hint="Write one that does (spec/families has examples) and pass it: init(model, family=ModelFamily.from_file(path)).",
        details={"model_type": model_type},
    )


def discovered(model: nn.Module, reasons: Sequence[str] = ()) -> tuple[nn.Module, Layout]:
    """The bare transformer inside `model` and the places structural discovery finds in it.

    Args:
        reasons: why no family file was used, for the message.

    Raises:
        UnsupportedModelError: nothing was found, or no small forward could be run.
    """
    base = _called(model, next(bare_candidates(model)))
    try:
        return base, discover(base)
    except UnsupportedModelError as error:
        if base is not model:  # the inner module may not run on its own
            with suppress(UnsupportedModelError):
                return model, discover(model)
        if reasons:
            error.message = f"No family file fits ({'; '.join(dict.fromkeys(reasons))}). {error.message}"
        raise


def _called(model: nn.Module, base: nn.Module) -> nn.Module:
    """The module inside `model` that it calls: `base`, or the first part of it that is called where `base` is passed over, as
    OPT's head for language modelling does."""
    if base is model:
        return base
    seen: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(lambda module, args: seen.append(module))
        for module in (base, *base.children())
        if not isinstance(module, nn.ModuleList)
    ]
    try:
        with quiet(model):
            run_small(model)
    except Exception:  # noqa: BLE001 - whatever a model of another library raises
        return base
    finally:
        for handle in handles:
            handle.remove()
    return base if base in seen or len(set(seen)) != 1 else seen[0]


def _composite(model: nn.Module) -> Layout | None:
    """The places of a model made of two transformers of known families, `encoder` and `decoder`; None if it is not."""
    halves: list[tuple[str, Layout]] = []
    for name in ("encoder", "decoder"):
        half = getattr(model, name, None)
        kind = getattr(getattr(half, "config", None), "model_type", None)
        if not isinstance(half, nn.Module) or kind is None or not families_of(str(kind)):
            return None
        base, layout = lay_out(half)
        path = next(path for path, module in model.named_modules() if module is base)
        halves.append((name, _moved(layout, name, path)))
    return Layout(
        "+".join(layout.family for _, layout in halves),
        tuple(place for _, layout in halves for place in layout.sublayers),
        tuple(layer for _, layout in halves for layer in layout.layers),
        halves[0][1].embedding,
        {path: kind for _, layout in halves for path, kind in layout.shaped.items()},
    )


def _moved(layout: Layout, tower: str, path: str) -> Layout:
    """The places of a part, seen from the whole: paths under `path`, keys under `tower`. Configs count the layers of each
    part from 0, as `adapters` does."""
    layers = {
        layer.key: replace(
            layer,
            key=f"{tower}.{layer.position}",
            tower=tower,
            path=_join(path, layer.path),
            legacy_path=_join(path, layer.legacy_path),
        )
        for layer in layout.layers
    }
    sublayers = [
        replace(
            place,
            key=f"{layers[place.layer.key].key}.{place.kind}",
            layer=layers[place.layer.key],
            output=_join(path, place.output),
            residual=_join(path, place.residual),
            norm=None if place.norm is None else _join(path, place.norm),
            host=None if place.host is None else _join(path, place.host),
            chained=None if place.chained is None else _join(path, place.chained),
        )
        for place in layout.sublayers
    ]
    embedding = layout.embedding
    if embedding is not None:
        host = _join(path, embedding.host) if embedding.host else path
        embedding = replace(embedding, key=f"{tower}.embedding", path=_join(path, embedding.path), host=host)
    shaped = {_join(path, name): kind for name, kind in layout.shaped.items()}
    return Layout(layout.family, tuple(sublayers), tuple(layers.values()), embedding, shaped)


def bare_candidates(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that may be the bare transformer: what the model itself calls its base, then its inner modules."""
    seen: set[int] = set()
    base = getattr(model, "base_model", None)
    waiting = [base, model] if isinstance(base, nn.Module) else [model]
    for _ in range(3):
        inner: list[nn.Module] = []
        for module in waiting:
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                inner.extend(module.children())
        waiting = inner


class _MissingError(LookupError):
    """A module the family names is not there."""


def _holds(family: ModelFamily, config: Any) -> bool:
    return all(_attribute(config, name) == value for name, value in family.when.items())


def _over(base: nn.Module, family: ModelFamily, config: Any) -> Layout:
    modules = dict(base.named_modules(remove_duplicate=False))
    config = getattr(base, "config", config)
    layers: list[LayerPlace] = []
    sublayers: list[SublayerPlace] = []
    for tower in family.towers:
        paths = _layer_paths(modules, tower)
        width = _width(config, (tower.width,))
        start = len(layers) if tower.first_index is None else tower.first_index
        for position, path in enumerate(paths):
            layer = _layer(modules, tower, path, start + position, position, width)
            layers.append(layer)
            sublayers.extend(_sublayers(modules, tower, layer))
    if not sublayers:
        raise _MissingError("no layer has a sublayer")
    return Layout(family.family, tuple(sublayers), tuple(layers), _embedding(modules, family, config))


def _layer_paths(modules: dict[str, nn.Module], tower: TowerSpec) -> list[str]:
    for pattern in tower.layers:
        lists = [
            path for path in modules if fnmatch.fnmatchcase(path, pattern) and pattern.count(".") == path.count(".")
        ]
        paths = [f"{path}.{name}" for path in lists for name, child in modules[path].named_children() if name.isdigit()]
        if paths:
            return paths
    raise _MissingError(f"there is no list of layers at {' or '.join(tower.layers)}")


def _layer(
    modules: dict[str, nn.Module], tower: TowerSpec, path: str, index: int, position: int, width: int
) -> LayerPlace:
    legacy = path
    if tower.legacy_layers is not None:
        legacy = f"{tower.legacy_layers}.{path.rsplit('.', 1)[1]}"
    return LayerPlace(
        key=f"{tower.name}.{position}",
        tower=tower.name,
        index=index,
        position=position,
        path=path,
        legacy_path=legacy,
        width=width,
        linears=_present(modules, path, tower.linears),
        legacy_linears=tower.legacy_linears,
        row_arguments=tower.row_arguments,
        attention={kind: name for kind, name in tower.attention.items() if f"{path}.{name}" in modules},
    )


def _present(modules: dict[str, nn.Module], path: str, linears: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """The linear maps that are there, each at the first of its paths."""
    found: dict[str, str] = {}
    for role, names in linears.items():
        for name in (names,) if isinstance(names, str) else names:
            if f"{path}.{name}" in modules:
                found.setdefault(role, name)
    return found


def _sublayers(modules: dict[str, nn.Module], tower: TowerSpec, layer: LayerPlace) -> Iterator[SublayerPlace]:
    before: str | None = None
    for kind, spec in tower.sublayers.items():
        absent = [name for name in _names(spec) if name and f"{layer.path}.{name}" not in modules]
        if absent and kind in tower.optional:
            continue
        if absent:
            raise _MissingError(f"layer {layer.path} has no {', '.join(absent)}")
        yield SublayerPlace(
            key=f"{layer.key}.{kind}",
            kind=kind,
            layer=layer,
            output=_join(layer.path, spec.output),
            residual=_join(layer.path, spec.residual.module),
            argument=spec.residual.argument,
            keyword=spec.residual.keyword,
            norm=None if spec.norm is None else _join(layer.path, spec.norm),
            switch=spec.switch(kind),
            joint=spec.joint,
            host=None if spec.host is None else _join(layer.legacy_path, spec.host),
            chained=before if spec.joint == "chain" else None,
            shared=spec.shared,
        )
        before = _join(layer.path, spec.output)


def _names(spec: SublayerSpec) -> list[str]:
    return [spec.output, spec.residual.module, *([spec.norm] if spec.norm else [])]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if name else path


def _embedding(modules: dict[str, nn.Module], family: ModelFamily, config: Any) -> EmbeddingPlace | None:
    spec = family.embedding
    if spec is None:
        return None
    if spec.module not in modules:
        raise _MissingError(f"there is no embedding at {spec.module}")
    return EmbeddingPlace(f"{spec.tower}.embedding", spec.module, _width(config, spec.width), spec.argument, spec.host)


def _width(config: Any, names: tuple[str, ...]) -> int:
    for name in names:
        value = _attribute(config, name)
        if isinstance(value, int):
            return value
    raise _MissingError(f"the config has no {' or '.join(names)}")


def _attribute(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part, None)
    return config
