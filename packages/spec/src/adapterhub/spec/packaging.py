"""From a native adapter folder to its manifest: files hashed, tensors listed, names and metadata put in place."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from adapterhub.spec.config import AdapterConfig, parse_config
from adapterhub.spec.errors import InvalidConfigError, InvalidManifestError, ValidationFailedError
from adapterhub.spec.manifest import Dependency, FileRecord, Manifest, Metric, TensorRecord
from adapterhub.spec.reference import parse_reference
from adapterhub.spec.safetensors_header import read_header
from adapterhub.spec.validation.adapter_folder import (
    HEAD_CONFIG_FILE,
    MAX_JSON_BYTES,
    AdapterRecord,
    files_in,
    folder_problems,
    head_problems,
    read_record,
)
from adapterhub.spec.validation.problem import has_errors
from adapterhub.spec.validation.strict_json import read_json
from adapterhub.spec.validation.strict_yaml import YAMLSyntaxError, read_yaml

__all__ = ["build_manifest", "default_name", "folder_metadata", "media_type_of", "preset_of"]

_MEDIA_TYPES = {
    ".safetensors": "application/vnd.safetensors",
    ".json": "application/json",
    ".md": "text/markdown",
    ".txt": "text/plain",
}
#: Fields that may differ from a preset's without making it another preset.
_HYPER_PARAMETERS = frozenset(
    [
        "reduction_factor",
        "bottleneck_size",
        "non_linearity",
        "dropout",
        "stochastic_depth",
        "init_weights",
        "init_weights_seed",
        "leave_out",
        "inv_adapter_reduction_factor",
        "r",
        "alpha",
        "attn_matrices",
        "targets",
        "rank_pattern",
        "alpha_pattern",
        "prefix_length",
        "prompt_length",
        "prompt_init",
        "prompt_init_text",
        "random_uniform_scale",
        "layers",
        "prefix_positions",
        "suffix_positions",
        "phm_dim",
        "phm_rank",
    ]
)


_HEAD = re.compile(r"---\r?\n(.*?\r?\n)---\r?\n", re.DOTALL)
#: member of the head of README.md → member of the manifest
_HEAD_MEMBERS = {
    "license": "license",
    "language": "languages",
    "languages": "languages",
    "datasets": "datasets",
    "authors": "authors",
    "description": "description",
    "citation": "citation",
}


def build_manifest(
    folder: str | os.PathLike[str],
    *,
    reference: str | None = None,
    namespace: str | None = None,
    name: str | None = None,
    version: str | None = None,
    task: str | None = None,
    subtask: str | None = None,
    type: str | None = None,
    model_name: str | None = None,
    model_revision: str | None = None,
    license: str | None = None,
    languages: Iterable[str] | None = None,
    datasets: Iterable[str] | None = None,
    metrics: Iterable[Metric | Mapping[str, Any]] | None = None,
    description: str | None = None,
    citation: str | None = None,
    authors: Iterable[str] | None = None,
    dependencies: Iterable[Dependency | Mapping[str, Any] | str] = (),
    created_at: str | datetime.datetime | None = None,
) -> Manifest:
    """The manifest of a native adapter folder.

    What is not given is taken from the folder: licence, languages, data sets, authors and description from the head of its
    README.md (`license`, `language`, `datasets`, `authors`, `description`), metrics and data from its training.json.

    Args:
        folder: what `save_adapter` wrote: adapter_config.json, adapter.safetensors, maybe a head and a README.md.
        reference: `task/subtask@namespace[:version]` or `@namespace/name[:version]`; the parts may be given one by one.
        namespace: who publishes.
        name: the adapter's own name; by default made of model, task, subtask and preset.
        version: by default the reference's, else `1`.
        task: by default the reference's, else what the folder says.
        subtask: likewise.
        type: `text_task`, `text_lang`, …; by default what the folder says.
        model_name: the base model's id, where the folder does not know it or knows a local path.
        model_revision: the commit or tag of the base model.
        license: SPDX expression.
        languages: BCP 47 tags.
        datasets: names of the training data.
        metrics: `{"name", "value", "dataset", "split"}` each.
        description: a few plain sentences.
        citation: BibTeX or plain.
        authors: one string each.
        dependencies: references of adapters this one was trained on top of.
        created_at: when the version was made; now by default.

    Raises:
        ValidationFailedError: the folder has problems; `problems` lists them all.
        InvalidManifestError: a name or a piece of metadata breaks the schema, or is missing.
        InvalidReferenceError: `reference` is none.
    """
    root = Path(folder)
    problems = folder_problems(root, numbers=True)
    if has_errors(problems):
        first = next(problem for problem in problems if problem.severity == "error")
        raise ValidationFailedError(
            f"{root} is not a publishable adapter folder ({len(problems)} problems): {first}",
            problems=[problem.to_json() for problem in problems],
        )
    record = read_record(root)
    config = parse_config(record.config)
    parts = parse_reference(reference) if reference is not None else None
    task = task or (parts.task if parts else None) or record.task
    subtask = subtask or (parts.subtask if parts else None) or record.subtask
    namespace = namespace or (parts.namespace if parts else None)
    model = model_name or record.base_model.name
    using = preset_of(config, record.using)
    if not namespace:
        raise InvalidManifestError("It is not said who publishes.", hint="Add @namespace to the reference.")
    if (task is None) != (subtask is None):
        raise InvalidManifestError(
            "It is half said what the adapter is for.", hint="Give task and subtask, such as sentiment/sst-2."
        )
    if parts is not None and parts.word is not None:
        raise InvalidManifestError(
            f"{reference!r} is a word; a version is published under task/subtask@namespace or @namespace/name.",
            hint="Write both task and subtask.",
        )
    if not model:
        raise InvalidManifestError("The folder does not say for which base model it is.", hint="Give model_name.")
    path = (record.name,) if task is None or subtask is None else (task, subtask)
    files = tuple(_file(found, root) for found in files_in(root))
    told = folder_metadata(root)
    return Manifest.from_json(
        {
            "spec_version": "1.0",
            "namespace": namespace,
            "name": name or (parts.name if parts else None) or default_name(model, path, using or config.method),
            "version": version or (parts.version if parts else None) or "1",
            "task": task,
            "subtask": subtask,
            "type": type or record.type,
            "base_model": _base_model(record, model, model_revision),
            "method": config.method,
            "using": using,
            "config": config.expand(),
            "config_id": config.config_id,
            "head": _head(root),
            "files": [item.model_dump(mode="json") for item in files],
            "tensors": [item.model_dump(mode="json") for item in _tensors(root, files)],
            "license": told.get("license") if license is None else license,
            "languages": list(languages if languages is not None else record.languages or told.get("languages", ())),
            "datasets": list(told.get("datasets", ()) if datasets is None else datasets),
            "metrics": [_as_json(Metric, item) for item in (told.get("metrics", ()) if metrics is None else metrics)],
            "description": told.get("description", "") if description is None else description,
            "citation": told.get("citation", "") if citation is None else citation,
            "authors": list(told.get("authors", ()) if authors is None else authors),
            "dependencies": [
                _as_json(Dependency, {"reference": item} if isinstance(item, str) else item) for item in dependencies
            ],
            "library": record.library.model_dump() if record.library else None,
            "created_at": _instant(created_at or record.created_at),
        }
    )


def folder_metadata(folder: Path) -> dict[str, Any]:
    """What a validated folder says of itself for people, under the names of manifest members; nothing where it does not.

    Read are the YAML head of `README.md` (between lines of `---`) and `training.json` (`data`, `metrics` by name). A head
    that is no strict YAML says nothing.
    """
    told: dict[str, Any] = {}
    training = folder / "training.json"
    if training.is_file():
        record = read_json(training.read_bytes(), max_bytes=MAX_JSON_BYTES)
        if isinstance(record, dict):
            data = record.get("data")
            known = data if isinstance(data, str) and data else None
            measured = record.get("metrics")
            told["metrics"] = [
                {"name": name, "value": value, "dataset": known, "split": "validation"}
                for name, value in (measured.items() if isinstance(measured, dict) else ())
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            ]
            told["datasets"] = [known] if known else []
    readme = folder / "README.md"
    head = _HEAD.match(readme.read_text(encoding="utf-8")) if readme.is_file() else None
    if head is None:
        return told
    try:
        value, _ = read_yaml(head[1].encode(), max_bytes=MAX_JSON_BYTES)
    except YAMLSyntaxError:
        return told
    if isinstance(value, dict):
        for name, member in _HEAD_MEMBERS.items():
            found = value.get(name)
            if member in ("license", "description", "citation"):
                if isinstance(found, str) and found:
                    told[member] = found
            elif isinstance(found, (str, list)) and found:
                items = [found] if isinstance(found, str) else found
                told[member] = [item for item in items if isinstance(item, str)]
    return told


def default_name(model: str, path: Sequence[str], using: str) -> str:
    """`<model>-<task>-<subtask>-<config>`, folded to the grammar of names: what an adapter is called unless told otherwise.

    Args:
        model: the base model's id; its owner is left out.
        path: task and subtask, or the adapter's own name where there are none.
        using: preset or method.
    """
    text = "-".join((model.rpartition("/")[2], *path, using)).lower()
    return re.sub(r"[^a-z0-9._+-]+", "-", text).strip("-._+")[:128].rstrip("-._")


def media_type_of(path: str) -> str:
    """The media type of a file of an adapter."""
    return _MEDIA_TYPES.get(Path(path).suffix, "text/plain")


def preset_of(config: AdapterConfig, named: str | None = None) -> str | None:
    """The preset `config` is, or is made from by other hyper-parameters; None where there is none.

    Args:
        config: any config.
        named: the name its owner says it is made from; kept if that is so.
    """
    from adapterhub.spec.presets import load_preset

    kind, config_id = _kind(config), config.config_id
    known = _preset_kinds()
    if named is not None:
        try:
            if _kind(load_preset(named)) == kind:
                return named
        except InvalidConfigError:
            pass  # no such preset: what it is instead is told below
    exact = next((preset for preset, (other, _) in known.items() if other == config_id), None)
    return exact or next((preset for preset, (_, other) in known.items() if other == kind), None)


@cache
def _preset_kinds() -> dict[str, tuple[str, Any]]:
    """Preset → its config id, and what of it hyper-parameters leave."""
    from adapterhub.spec.presets import load_preset, preset_names

    return {name: ((preset := load_preset(name)).config_id, _kind(preset)) for name in preset_names()}


def _kind(config: AdapterConfig) -> Any:
    fields = config.expand()
    if fields["method"] == "union":
        return [_strip(member) for member in fields["configs"]]
    return _strip(fields)


def _strip(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in _HYPER_PARAMETERS}


def _base_model(record: AdapterRecord, name: str, revision: str | None) -> dict[str, Any]:
    known = record.base_model
    same = known.name in (None, name)
    return {
        "name": name,
        "revision": revision or (known.revision if same else None),
        "family": known.family,
        "hidden_size": known.hidden_size,
    }


def _head(root: Path) -> dict[str, Any] | None:
    path = root / HEAD_CONFIG_FILE
    if not path.is_file():
        return None
    _, head = head_problems(path.read_bytes())
    return head.expand() if head is not None else None


def _file(path: Path, root: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    shown = path.relative_to(root).as_posix()
    return FileRecord(path=shown, size=size, digest=f"sha256:{digest}", media_type=media_type_of(shown))


def _tensors(root: Path, files: Sequence[FileRecord]) -> list[TensorRecord]:
    return [
        TensorRecord(file=record.path, name=tensor.name, dtype=tensor.dtype, shape=tensor.shape)
        for record in files
        if record.path.endswith(".safetensors")
        for tensor in sorted(read_header(root / record.path).tensors, key=lambda item: item.name)
    ]


def _as_json(kind: type[Metric] | type[Dependency], item: Any) -> Any:
    return item.model_dump(mode="json") if isinstance(item, kind) else dict(item)


def _instant(value: str | datetime.datetime | None) -> str:
    if isinstance(value, str):
        return value
    moment = value or datetime.datetime.now(datetime.UTC)
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
