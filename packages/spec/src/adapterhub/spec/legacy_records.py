"""The YAML files of the 2020 hub as typed records, after the repairs without which they would not be valid.

What is valid is decided by `validation.catalogue_records`, the same rules `validate` applies to one file.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from adapterhub.spec.catalogue import Repair
from adapterhub.spec.legacy_fields import task_id
from adapterhub.spec.validation.catalogue_records import MAX_RECORD_BYTES, record_problems
from adapterhub.spec.validation.problem import Problem
from adapterhub.spec.validation.strict_yaml import YAMLSyntaxError, read_yaml

__all__ = [
    "LegacyAdapter",
    "LegacyAdapterType",
    "LegacyArchitecture",
    "LegacyFile",
    "LegacyRecord",
    "LegacySubtask",
    "LegacyTask",
    "name_of",
    "read_legacy_record",
]


class LegacyRecord(BaseModel):
    """Base of the file kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LegacyConfig(LegacyRecord):
    using: str
    non_linearity: str | None = None
    reduction_factor: int | float | None = None


class LegacyFile(LegacyRecord):
    version: str
    url: str
    sha1: str | None = None
    sha256: str | None = None
    description: str | None = None
    score: int | float | None = None


class LegacyDependency(LegacyRecord):
    key: str
    description: str | None = None


class LegacyAdapter(LegacyRecord):
    """`adapters/<organisation>/<name>.yaml`; organisation and name are in the path only."""

    type: Literal["text_task", "text_lang"]
    task: str
    subtask: str
    model_type: str
    model_name: str
    config: LegacyConfig
    author: str
    default_version: str
    files: tuple[LegacyFile, ...]
    model_class: str | None = None
    prediction_head: bool | None = None
    email: str | None = None
    url: str | None = None
    github: str | None = None
    twitter: str | None = None
    citation: str | None = None
    description: str | None = None
    hidden_size: int | None = None
    name: str | None = None
    dependencies: tuple[LegacyDependency, ...] = ()


class LegacyTask(LegacyRecord):
    """`tasks/<type>/*.yaml`."""

    task: str
    displayname: str
    description: str


class LegacyMetric(LegacyRecord):
    name: str
    higher_is_better: bool = True


class LegacySubtask(LegacyRecord):
    """`subtasks/<type>/*.yaml`."""

    task: str
    subtask: str
    description: str
    displayname: str | None = None
    hf_datasets_id: str | None = None
    url: str | None = None
    citation: str | None = None
    language: str | None = None
    metric: LegacyMetric | None = None


class LegacyArchitecture(LegacyRecord):
    """`architectures/*.yaml`."""

    name: str
    displayname: str
    description: str
    citation: str | None = None
    config: dict[str, Any]
    config_v1: dict[str, Any] | None = None


class LegacyAdapterType(LegacyRecord):
    """`adapter_types/*.yaml`."""

    id: str
    displayname: str
    description: str


_RULES: dict[type[LegacyRecord], str] = {
    LegacyAdapter: "adapter",
    LegacyTask: "task",
    LegacySubtask: "subtask",
    LegacyArchitecture: "architecture",
    LegacyAdapterType: "adapter_type",
}


def read_legacy_record(
    data: bytes, model: type[LegacyRecord], file: str
) -> tuple[LegacyRecord | None, list[Problem], list[Repair]]:
    """One YAML file of the 2020 hub.

    Args:
        data: its bytes.
        model: what it should be.
        file: its path, for problems and repairs.

    Returns:
        The record (None if there are problems), every problem, and the repairs made.
    """
    try:
        document, lines = read_yaml(data, max_bytes=MAX_RECORD_BYTES)
    except YAMLSyntaxError as error:
        return None, [Problem(error.pointer, error.message, error.hint, file=file, line=error.line)], []
    repairs = list(_repaired(document, model, file)) if isinstance(document, dict) else []
    found = record_problems(document, _RULES[model])
    problems = [
        Problem(one.pointer, one.message, one.hint, one.severity, file, lines.get(one.pointer, one.line))
        for one in found
    ]
    return (None if problems else model.model_validate(document)), problems, repairs


def _repaired(document: dict[str, Any], model: type[LegacyRecord], file: str) -> list[Repair]:
    """Repairs `document` where it would not be valid otherwise: white space around an address, a character in a task id
    no reference can hold."""
    repairs: list[Repair] = []
    places: list[tuple[str, dict[str, Any]]] = [("", document)]
    files = document.get("files")
    for position, item in enumerate(files if isinstance(files, list) else ()):
        if isinstance(item, dict):
            places.append((f"/files/{position}", item))
    for pointer, place in places:
        url = place.get("url")
        if isinstance(url, str) and url != url.strip() and url.strip():
            place["url"] = url.strip()
            repairs.append(Repair("white-space", f"{file}#{pointer}/url", url, place["url"]))
    task = document.get("task")
    if model is LegacyTask and isinstance(task, str) and task_id(task) not in ("", task):
        document["task"] = task_id(task)
        repairs.append(Repair("task-id", f"{file}#/task", task, document["task"]))
    return repairs


def name_of(file: str) -> str:
    """The file's name without its suffix; only the last one goes, since names may hold dots."""
    return PurePosixPath(file).name.removesuffix(".yaml").removesuffix(".yml")
