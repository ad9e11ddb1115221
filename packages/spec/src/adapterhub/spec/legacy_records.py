"""The YAML files of the 2020 hub as they are: which members each kind has, read strictly, every problem at once."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from adapterhub.spec.strict_yaml import StrictYamlError, load_yaml
from adapterhub.spec.validation.problem import Problem

__all__ = [
    "LegacyAdapter",
    "LegacyAdapterType",
    "LegacyArchitecture",
    "LegacyRecord",
    "LegacySubtask",
    "LegacyTask",
    "kind_of",
    "read_legacy_record",
]

# fmt: off
#: Members that stay text even where they look like a number.
_TEXT_KEYS = frozenset((
    "author", "citation", "default_version", "description", "displayname", "email", "filename", "github", "id", "key",
    "language", "model_class", "model_name", "model_type", "name", "sha1", "sha256", "subtask", "task", "twitter", "type",
    "url", "username", "using", "version",
))
# fmt: on


class LegacyRecord(BaseModel):
    """Base of the file kinds: unknown members are problems."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LegacyConfig(LegacyRecord):
    using: StrictStr
    non_linearity: StrictStr | None = None
    reduction_factor: StrictInt | float | None = Field(None, gt=0)


class LegacyFile(LegacyRecord):
    version: StrictStr
    url: StrictStr
    sha1: StrictStr | None = Field(None, pattern=r"^[0-9a-fA-F]{40}$")
    sha256: StrictStr | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    description: StrictStr | None = None
    score: StrictInt | float | None = None


class LegacyDependency(LegacyRecord):
    key: StrictStr
    description: StrictStr | None = None


class LegacyAdapter(LegacyRecord):
    """`adapters/<organisation>/<name>.yaml`; organisation and name are in the path only."""

    type: Literal["text_task", "text_lang"]
    task: StrictStr
    subtask: StrictStr
    model_type: StrictStr
    model_name: StrictStr = Field(min_length=1)
    model_class: StrictStr | None = None
    prediction_head: StrictBool | None = None
    config: LegacyConfig
    author: StrictStr
    default_version: StrictStr
    files: tuple[LegacyFile, ...] = Field(min_length=1)
    email: StrictStr | None = None
    url: StrictStr | None = None
    github: StrictStr | None = None
    twitter: StrictStr | None = None
    citation: StrictStr | None = None
    description: StrictStr | None = None
    hidden_size: StrictInt | None = Field(None, gt=0)
    name: StrictStr | None = None
    dependencies: tuple[LegacyDependency, ...] = ()


class LegacyTask(LegacyRecord):
    """`tasks/<type>/*.yaml`."""

    task: StrictStr = Field(min_length=1)
    displayname: StrictStr
    description: StrictStr


class LegacyMetric(LegacyRecord):
    name: StrictStr
    higher_is_better: StrictBool = True


class LegacySubtask(LegacyRecord):
    """`subtasks/<type>/*.yaml`."""

    task: StrictStr = Field(min_length=1)
    subtask: StrictStr = Field(min_length=1)
    description: StrictStr
    displayname: StrictStr | None = None
    hf_datasets_id: StrictStr | None = None
    url: StrictStr | None = None
    citation: StrictStr | None = None
    language: StrictStr | None = None
    metric: LegacyMetric | None = None


class LegacyArchitecture(LegacyRecord):
    """`architectures/*.yaml`."""

    name: StrictStr = Field(min_length=1)
    displayname: StrictStr
    description: StrictStr
    citation: StrictStr | None = None
    config: dict[str, Any]
    config_v1: dict[str, Any] | None = None


class LegacyAdapterType(LegacyRecord):
    """`adapter_types/*.yaml`."""

    id: StrictStr = Field(min_length=1)
    displayname: StrictStr
    description: StrictStr


_KINDS: dict[str, type[LegacyRecord]] = {
    "adapters": LegacyAdapter,
    "tasks": LegacyTask,
    "subtasks": LegacySubtask,
    "architectures": LegacyArchitecture,
    "adapter_types": LegacyAdapterType,
}


def kind_of(document: Any) -> type[LegacyRecord]:
    """Which kind of file a document is, by the members only that kind has; an adapter where nothing tells."""
    members = set(document) if isinstance(document, dict) else set()
    if members & {"files", "model_name", "default_version"}:
        return LegacyAdapter
    if "subtask" in members:
        return LegacySubtask
    if "task" in members:
        return LegacyTask
    if "name" in members and "config" in members:
        return LegacyArchitecture
    return LegacyAdapterType if "id" in members else LegacyAdapter


def read_legacy_record(
    data: bytes | str, *, file: str = "", kind: str | None = None
) -> tuple[LegacyRecord | None, list[Problem]]:
    """One YAML file of the 2020 hub.

    Args:
        data: its bytes.
        file: its path, for the problems.
        kind: `adapters`, `tasks`, `subtasks`, `architectures` or `adapter_types`; None finds out from the members.

    Returns:
        The record and no problems, or None and every problem there is.
    """
    try:
        document = load_yaml(data, text_keys=_TEXT_KEYS)
    except StrictYamlError as error:
        return None, [Problem("", error.message, "Write plain YAML.", file=file, line=error.line or None)]
    if not isinstance(document, dict):
        return None, [Problem("", "The file holds no mapping of members.", file=file)]
    model = _KINDS[kind] if kind is not None else kind_of(document)
    try:
        record = model.model_validate(document)
    except ValidationError as error:
        return None, [_problem(details, file) for details in error.errors(include_url=False)]
    return record, list(_inconsistencies(record, file))


def _inconsistencies(record: LegacyRecord, file: str) -> list[Problem]:
    if not isinstance(record, LegacyAdapter):
        return []
    versions = [item.version for item in record.files]
    problems = [
        Problem("/files", f"Version {version!r} comes twice.", file=file)
        for version in sorted({version for version in versions if versions.count(version) > 1})
    ]
    if record.default_version not in versions:
        problems.append(
            Problem(
                "/default_version",
                f"There is no version {record.default_version!r} among the files.",
                f"Name one of {', '.join(versions[:10])}.",
                file=file,
            )
        )
    problems += [
        Problem(f"/files/{position}", "Neither sha256 nor sha1 is given.", "Add the sha256 of the file.", file=file)
        for position, item in enumerate(record.files)
        if item.sha256 is None and item.sha1 is None
    ]
    return problems


def _problem(details: Any, file: str) -> Problem:
    steps = [
        str(step) for step in details["loc"] if not (isinstance(step, str) and step in ("int", "float", "is-instance"))
    ]
    pointer = "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)
    hints = {
        "extra_forbidden": "Remove it, or look for a typing error in its name.",
        "missing": "Add it.",
        "literal_error": "",
    }
    member = PurePosixPath(pointer).name or "the file"
    message = {
        "missing": f"{member!r} is missing.",
        "extra_forbidden": f"{member!r} is no member of this kind of file.",
    }.get(details["type"], f"{details['msg']}.")
    return Problem(pointer, message, hints.get(details["type"], ""), file=file)
