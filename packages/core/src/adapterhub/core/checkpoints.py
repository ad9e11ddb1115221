"""Saving adapters, heads and fusions of a model to folders, and loading them back, in any of the formats.

Every save is all or nothing (`files.write_folder`), every load says what it did with each tensor (`load_report`), and a
tensor that is missing or left over is an error unless `strict=False`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from sys import intern
from typing import Any

import torch
from torch import nn

from adapterhub.core.base_models import base_model_of, check_base_model, check_layers, hub_name_of, legacy_places
from adapterhub.core.card import card
from adapterhub.core.compatibility import COMPAT, check_compat, check_reproducible, follow, tell_writing
from adapterhub.core.formats import adapters_v1_folders, detect, detect_fusion, native
from adapterhub.core.formats.checkpoint import (
    AdapterCheckpoint,
    FusionCheckpoint,
    HeadCheckpoint,
    LoadReport,
)
from adapterhub.core.formats.files import write_folder
from adapterhub.core.heads.attached import heads_of
from adapterhub.core.heads.static import StaticHeads
from adapterhub.core.pool import Adapter, Pool, pool_of
from adapterhub.core.resolvers import resolve_to_folder
from adapterhub.spec.errors import CheckpointError, InvalidConfigError
from adapterhub.spec.fusion import parse_fusion

__all__ = [
    "load_adapter",
    "load_adapter_fusion",
    "load_report",
    "read_adapter",
    "save_adapter",
    "save_adapter_fusion",
    "write_checkpoint",
]

_last: list[LoadReport] = []
_REPORTS = "_adapterhub_reports"


def load_report(model: nn.Module | None = None, name: str | None = None) -> LoadReport | None:
    """What became of the tensors of a load.

    Args:
        model: the model loaded into; None for the last load in this process.
        name: the adapter or fusion; None for the last one of the model.

    Returns:
        the report, or None where nothing was loaded yet.
    """
    if model is None:
        return _last[-1] if _last else None
    reports: dict[str, LoadReport] = pool_of(model).__dict__.get(_REPORTS, {})
    if name is not None:
        return reports.get(name)
    return next(reversed(reports.values()), None)


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    name: str,
    *,
    with_head: bool = True,
    format: str = "native",
    dtype: torch.dtype | None = None,
    **record: Any,
) -> Path:
    """Writes one adapter to `folder`: config, weights, its head and a model card.

    Args:
        folder: made if need be; what an earlier save left there is replaced, other files stay.
        name: the adapter.
        with_head: whether the head of that name goes with it.
        format: `native`, `adapters` or `peft`.
        dtype: cast floating tensors to this; None keeps theirs.
        record: `task`, `subtask`, `languages`, `created_at`: kept in the config of the native format.

    Raises:
        AdapterNotFoundError: no such adapter.
        InvalidConfigError, CheckpointError: the other format cannot express it.
    """
    pool = pool_of(model)
    adapter = pool.get(name)
    unknown = sorted(set(record) - {"task", "subtask", "languages", "created_at", "using"})
    if unknown:
        raise InvalidConfigError(f"save_adapter has no argument {', '.join(unknown)}.")
    _check_dora(adapter, pool, format)
    if format == "adapters":
        tell_writing(adapter, pool)
    head = heads_of(model).save(name) if with_head else None
    if head is not None:
        head = HeadCheckpoint(head.config, native.tensors_on(head.tensors, dtype), head.name)
    checkpoint = AdapterCheckpoint(
        name=name,
        config=adapter.config,
        tensors=native.tensors_on(adapter.values(), dtype),
        type=adapter.type or "text_task",
        base_model=base_model_of(pool),
        head=head,
        record={key: value for key, value in record.items() if value is not None},
    )
    return write_checkpoint(folder, checkpoint, pool, format)


def write_checkpoint(
    folder: str | os.PathLike[str],
    checkpoint: AdapterCheckpoint,
    pool: Pool,
    format: str = "native",
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes a checkpoint with the neutral keys of the pool's model, in any format, with its card; all or nothing."""
    if dtype is not None:
        checkpoint.tensors = native.tensors_on(checkpoint.tensors, dtype)
        if checkpoint.head is not None:
            checkpoint.head.tensors = native.tensors_on(checkpoint.head.tensors, dtype)
    writer = _writer(format)
    with write_folder(folder, owned=_owned(writer.files)) as target:
        writer.write(target, checkpoint, pool)
        (target / "README.md").write_text(card(checkpoint), encoding="utf-8")
    return Path(folder)


def load_adapter(
    model: nn.Module,
    reference: str | os.PathLike[str],
    *,
    load_as: str | None = None,
    with_head: bool = True,
    set_active: bool = False,
    strict: bool = True,
    overwrite_ok: bool = False,
    config: Any = None,
    version: str | None = None,
    model_name: str | None = None,
    source: str | None = None,
    leave_out: Iterable[int] = (),
    dtype: torch.dtype | None = None,
    compat: str | None = None,
    **resolving: Any,
) -> str:
    """Puts a saved adapter on the model and returns its name there.

    Args:
        reference: a folder, or a reference such as `sentiment/sst-2@ukp` (needs adapterhub-client).
        load_as: the name to give it; by default the one it was saved under.
        with_head: whether the head saved with it is loaded too, where this model can have it.
        set_active: whether it becomes the active setup.
        strict: whether missing or left-over tensors are an error.
        overwrite_ok: whether an adapter of that name may be replaced.
        config: wanted architecture, for resolving a reference.
        version: wanted version, for resolving a reference.
        model_name: the base model's id on its hub; by default what `init` was told, or the model's own name.
        source: `ah` or `hf`, for resolving a reference.
        leave_out: layers whose modules are not loaded.
        dtype: of the loaded parameters; None keeps those of the checkpoint.
        compat: `adapters-1.3` computes DoRA as that release did (norm without the scale, bias rescaled too).
        resolving: further keywords for the resolver.

    Raises:
        AdapterNotFoundError and other errors of resolving.
        ModelMismatchError: it was made for another kind of model.
        CheckpointError: files or tensors that do not fit.
        InvalidConfigError: the name is taken.
    """
    check_compat(compat)
    pool = pool_of(model)
    folder = resolve_to_folder(
        reference,
        model_name=model_name or hub_name_of(pool),
        config=config,
        version=version,
        source=source,
        **resolving,
    )
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"There is no adapter_config.json in {folder}.", hint="Give the folder of an adapter.")
    checkpoint = read_adapter(folder, pool, with_head)
    check_base_model(checkpoint.base_model, pool, folder, strict)
    check_reproducible(checkpoint, pool, strict)
    name = load_as or checkpoint.name
    if name in pool.adapters and not overwrite_ok:
        raise InvalidConfigError(
            f"The model already has an adapter {name!r}.",
            hint="Pass load_as= to give this one another name, or overwrite_ok=True to replace it.",
        )
    dropped = _leave_out(checkpoint, pool, leave_out)
    check_layers(checkpoint, pool, folder)
    head_keys, notes = _load_head(model, name, checkpoint.head, strict)
    try:
        adapter = pool.add(
            name,
            checkpoint.config,
            type=checkpoint.type,
            tensors=checkpoint.tensors,
            strict=strict and not checkpoint.unexpected,
            overwrite=overwrite_ok,
            dtype=dtype,
        )
        if strict and checkpoint.unexpected:
            pool.delete(name)
            raise CheckpointError(
                f"{folder} holds {len(checkpoint.unexpected)} tensors this model has no place for: "
                f"{', '.join(checkpoint.unexpected[:4])}.",
                hint="Is it an adapter of this kind of model? strict=False leaves them out.",
                details={"unexpected": checkpoint.unexpected},
            )
    except Exception:
        if head_keys:
            heads_of(model).delete(name)
        raise
    notes += follow(checkpoint, adapter, pool, compat)
    _note(pool, _report(name, folder, checkpoint, adapter, head_keys, [*checkpoint.notes, *notes, *dropped]))
    if set_active:
        _activate(model, name)
    return name


def save_adapter_fusion(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapters: Any,
    *,
    with_head: str | bool | None = None,
    format: str = "native",
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes a fusion layer (not the adapters it fuses) to `folder`.

    Args:
        adapters: a `Fuse` block, the list of adapters, or the fusion's name.
        with_head: the head to save beside it: a name, or True for the one named like the fusion.
    """
    from adapterhub.spec.composition import Fuse

    pool = pool_of(model)
    if isinstance(adapters, str) and adapters in pool.fusions:
        fusion = pool.fusions[adapters]
    else:
        names = adapters.split(",") if isinstance(adapters, str) else adapters
        fusion = pool.fusion_of(adapters if isinstance(adapters, Fuse) else Fuse(*names))
    head = heads_of(model).save(fusion.name if with_head is True else with_head) if with_head else None
    if with_head and head is None:
        raise InvalidConfigError(f"There is no head {fusion.name if with_head is True else with_head!r} to save.")
    checkpoint = FusionCheckpoint(
        name=fusion.name,
        adapters=fusion.adapters,
        config=fusion.config.expand(),
        tensors=native.tensors_on(fusion.values(), dtype),
        base_model=base_model_of(pool),
        head=head,
    )
    last = "fusion_config.json" if format == "native" else "adapter_fusion_config.json"
    with write_folder(folder, owned={*native.FUSION_FILES, *adapters_v1_folders.FUSION_FILES}, last=last) as target:
        if format == "native":
            native.write_fusion(target, checkpoint)
        elif format == "adapters":
            adapters_v1_folders.write_fusion(target, checkpoint, legacy_places(pool))
        else:
            raise InvalidConfigError(f"Fusion layers have no {format!r} format.", hint="Use native or adapters.")
    return Path(folder)


def load_adapter_fusion(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    load_as: str | None = None,
    with_head: bool = True,
    set_active: bool = False,
    strict: bool = True,
    overwrite_ok: bool = False,
) -> str:
    """Puts a saved fusion layer on the model, which must have the adapters it fuses; returns its name.

    Raises:
        AdapterNotFoundError: an adapter it fuses is not on the model.
        CheckpointError: files or tensors that do not fit.
    """
    pool = pool_of(model)
    path = resolve_to_folder(folder)
    if detect_fusion(path) == "native":
        checkpoint = native.read_fusion(path, with_head)
    else:
        checkpoint = adapters_v1_folders.read_fusion(path, legacy_places(pool), with_head)
    check_base_model(checkpoint.base_model, pool, path, strict)
    if strict and checkpoint.unexpected:
        raise CheckpointError(
            f"{path} holds tensors this model has no place for: {', '.join(checkpoint.unexpected[:4])}.",
            hint="strict=False leaves them out.",
        )
    name = load_as or checkpoint.name
    head_keys, notes = _load_head(model, name, checkpoint.head, strict)
    fusion = pool.add_fusion(
        checkpoint.adapters,
        parse_fusion(checkpoint.config),
        name=name,
        tensors=checkpoint.tensors,
        strict=strict,
        overwrite=overwrite_ok,
    )
    report = LoadReport(
        name,
        str(path),
        checkpoint.format,
        used=[key for key in checkpoint.tensors if key not in fusion.unexpected],
        missing=list(fusion.missing),
        unexpected=[*checkpoint.unexpected, *fusion.unexpected],
        head=name if head_keys else None,
        notes=notes,
    )
    _note(pool, report)
    if set_active:
        from adapterhub.spec.composition import Fuse

        named = None if name == ",".join(checkpoint.adapters) else name
        _activate(model, Fuse(*checkpoint.adapters, name=named))
    return name


def read_adapter(folder: Path, pool: Pool, with_head: bool = True) -> AdapterCheckpoint:
    """The adapter in `folder`, whatever its format, with the neutral keys of this model."""
    found = detect(folder)
    if found == "native":
        return native.read_adapter(folder, with_head)
    if found == "adapters":
        return adapters_v1_folders.read_adapter(folder, legacy_places(pool), with_head)
    from adapterhub.core.formats import peft

    return peft.read_adapter(folder, pool, with_head)


class _Writer:
    """How one format is written."""

    def __init__(self, files: Iterable[str], write: Callable[[Path, AdapterCheckpoint, Pool], None]) -> None:
        self.files, self.write = tuple(files), write


def _writer(format: str) -> _Writer:
    if format == "native":
        return _Writer(native.ADAPTER_FILES, lambda folder, checkpoint, pool: native.write_adapter(folder, checkpoint))
    if format == "adapters":
        return _Writer(
            adapters_v1_folders.ADAPTER_FILES,
            lambda folder, checkpoint, pool: adapters_v1_folders.write_adapter(folder, checkpoint, legacy_places(pool)),
        )
    if format == "peft":
        from adapterhub.core.formats import peft

        return _Writer(peft.ADAPTER_FILES, peft.write_adapter)
    raise InvalidConfigError(f"There is no format {format!r}.", hint="Formats: native, adapters, peft.")


def _owned(files: Iterable[str]) -> set[str]:
    """Every file any of the formats writes: a folder holds one of them at a time."""
    return {
        *files,
        *native.ADAPTER_FILES,
        *adapters_v1_folders.ADAPTER_FILES,
        "adapter_model.safetensors",
        "pytorch_adapter.bin",
        "pytorch_model_head.bin",
    }


def _check_dora(adapter: Adapter, pool: Pool, format: str) -> None:
    """That an adapter with the numbers of a defect, or with DoRA, means the same in the format it is written in.

    Raises:
        CheckpointError: it does not.
    """
    from adapterhub.core.sites.linears import LinearSite

    if format != "adapters" and any(module.__dict__.get("as_there") for module in adapter.modules.values()):
        raise CheckpointError(
            f"{adapter.name!r} was loaded with compat={COMPAT!r}; only the format of adapters means the same by it.",
            hint='Use format="adapters".',
        )
    for key, module in adapter.modules.items():
        if getattr(module, "magnitude", None) is None:
            continue
        theirs = bool(getattr(module, "unscaled_norm", False))
        if theirs and format != "adapters":
            raise CheckpointError(
                f"{adapter.name!r} was loaded with compat={COMPAT!r}; only the format of adapters means the same by it.",
                hint='Use format="adapters".',
            )
        site = pool.by_key[key]
        assert isinstance(site, LinearSite)
        plain = float(getattr(module, "scale", 1.0)) == 1.0 and getattr(site.linear, "bias", None) is None
        if format == "adapters" and not theirs and (not plain or site.place.part is not None):
            raise CheckpointError(
                f"adapters 1.3 computes DoRA at {key} otherwise (norm without the scale, bias rescaled too).",
                hint='Use format="native" or format="peft".',
            )


def _load_head(model: nn.Module, name: str, head: HeadCheckpoint | None, strict: bool) -> tuple[list[str], list[str]]:
    """The keys of the head that were used, and notes."""
    if head is None:
        return [], []
    heads = heads_of(model)
    if not heads:
        if strict and isinstance(heads, StaticHeads):
            heads.check_tied(head)
        return [], [f"this model has no place for a head; the {head.config.head_type} head was not loaded"]
    return heads.load(name, head, strict), []


def _leave_out(checkpoint: AdapterCheckpoint, pool: Pool, layers: Iterable[int]) -> list[str]:
    wanted = set(layers)
    if not wanted:
        return []
    gone = {layer.key for layer in pool.layout.layers if layer.index in wanted}
    checkpoint.tensors = {
        key: value for key, value in checkpoint.tensors.items() if ".".join(key.split(".")[:2]) not in gone
    }
    kept = tuple(getattr(checkpoint.config, "leave_out", ()))
    checkpoint.config = checkpoint.config.replace(leave_out=sorted({*kept, *wanted}))
    return [f"layers {sorted(wanted)} were left out as asked"]


def _report(
    name: str, folder: Path, checkpoint: AdapterCheckpoint, adapter: Adapter, head_keys: list[str], notes: list[str]
) -> LoadReport:
    left = set(adapter.unexpected)
    return LoadReport(
        name,
        str(folder),
        checkpoint.format,
        used=[*(intern(key) for key in checkpoint.tensors if key not in left), *(f"head:{key}" for key in head_keys)],
        missing=list(adapter.missing),
        unexpected=[*checkpoint.unexpected, *adapter.unexpected],
        head=name if head_keys else None,
        notes=notes,
    )


def _note(pool: Pool, report: LoadReport) -> None:
    pool.__dict__.setdefault(_REPORTS, {})[report.name] = report
    _last[:] = [report]


def _activate(model: nn.Module, setup: Any) -> None:
    model.set_active_adapters(setup)  # type: ignore[operator]
