"""Catalogue records: tasks, subtasks, languages, architectures, organisations, adapters, and what was repaired on import.

A catalogue is what a hub knows besides the bytes: the vocabulary people browse by, and one record per adapter with the
text a page shows. Manifests stay the truth about each version; these records may be edited later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from adapterhub.spec.index import IndexEntry
from adapterhub.spec.lazy_model import LazyModel

__all__ = [
    "AdapterRecord",
    "AdapterTypeRecord",
    "Architecture",
    "Catalogue",
    "Dependency",
    "Language",
    "Metric",
    "Organisation",
    "Repair",
    "Subtask",
    "Task",
    "VersionRecord",
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=128)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=64)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AdapterType = Literal["text_task", "text_lang", "image_task", "audio_task", "multimodal_task"]


class Record(LazyModel):
    """Base of the catalogue's records: immutable, unknown members refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class AdapterTypeRecord(Record):
    """A kind of adapter, the first level of browsing."""

    id: Name
    display_name: str = ""
    description: str = ""


class Task(Record):
    """What an adapter is for; the first half of a path. For language adapters the task is the language."""

    task: Name
    type: AdapterType = "text_task"
    display_name: str = ""
    description: str = ""
    language: Tag | None = Field(None, description="BCP 47 tag, where the task is a language")
    unused: bool = Field(False, description="no adapter has it")


class Metric(Record):
    """How results on a data set are measured."""

    name: str
    higher_is_better: bool = True


class Subtask(Record):
    """A data set or domain of a task; the second half of a path."""

    task: Name
    subtask: Name
    type: AdapterType = "text_task"
    display_name: str = ""
    description: str = ""
    url: str | None = None
    citation: str | None = None
    languages: tuple[Tag, ...] = Field((), description="BCP 47 tags")
    hf_dataset: str | None = Field(None, description="its id in the data set collection of the same name")
    metric: Metric | None = None
    unused: bool = Field(False, description="no adapter has it")

    @property
    def path(self) -> str:
        """`task/subtask`."""
        return f"{self.task}/{self.subtask}"


class Language(Record):
    """A language some adapter is for."""

    tag: Tag = Field(description="BCP 47 tag")
    name: str = ""
    task: Name | None = Field(None, description="the task that stands for it in paths, e.g. zh_yue for yue")


class Architecture(Record):
    """A named adapter config."""

    name: Name
    display_name: str = ""
    description: str = ""
    citation: str | None = None
    config: dict[str, Any] = Field(description="the config, expanded")
    config_id: str


class Organisation(Record):
    """A publisher: the owner of a namespace."""

    namespace: Name
    display_name: str = ""
    description: str = ""
    url: str | None = None
    adapters: int = Field(0, ge=0, description="how many adapters it has published")


class Dependency(Record):
    """Another adapter that one was trained with or on top of."""

    adapter: str = Field(description="@namespace/name")
    id: str = Field(description="task/subtask@namespace")
    version: str | None = None
    sha256: Sha256 | None = Field(None, description="of the recorded file of that version")
    description: str = ""


class VersionRecord(Record):
    """One version as the 2020 hub recorded it."""

    version: Name
    url: str
    sha1: str | None = None
    sha256: Sha256 | None = None
    description: str = ""
    score: float | None = Field(None, description="as recorded; the metric is that of the subtask, if any")


class AdapterRecord(Record):
    """One adapter with the text its page shows."""

    namespace: Name
    name: Name
    type: AdapterType
    task: Name
    subtask: Name
    model_name: str
    model_type: str | None = None
    model_class: str | None = None
    prediction_head: bool | None = None
    hidden_size: int | None = None
    using: str | None = None
    config: dict[str, Any] = Field(description="the config, expanded")
    config_id: str
    legacy_config_id: str | None = None
    config_complete: bool = Field(
        True, description="false where the recorded config is known to leave something out; the files have the whole"
    )
    default_version: str
    versions: tuple[VersionRecord, ...]
    author: str = ""
    contact_legacy: str | None = Field(None, description="as recorded; kept, never published as an address")
    url: str | None = None
    github: str | None = Field(None, description="handle")
    twitter: str | None = Field(None, description="handle, without @")
    citation: str | None = None
    description: str = ""
    language: Tag | None = None
    dependencies: tuple[Dependency, ...] = ()
    status: Literal["available", "unavailable"] = "unavailable"

    @property
    def id(self) -> str:
        """`task/subtask@namespace`."""
        return f"{self.task}/{self.subtask}@{self.namespace}"

    @property
    def adapter(self) -> str:
        """`@namespace/name`."""
        return f"@{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing an import changed, or kept although it is doubtful.

    Attributes:
        kind: which repair; `adapterhub.spec.legacy.REPAIR_KINDS` says what each means.
        where: the file and member, as `adapters/ukp/x.yaml#/email`.
        before: as it was.
        after: as it is now; None where it was dropped.
    """

    kind: str
    where: str
    before: Any
    after: Any = None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "where": self.where, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything a hub knows besides the bytes.

    Attributes:
        entries: one index entry per version; what `resolve` works on.
        adapters: one record per adapter.
        defaults: default pointers, (model, task, subtask) → "@namespace/name".
        repairs: what the import changed.
    """

    entries: list[IndexEntry] = field(default_factory=list)
    adapters: list[AdapterRecord] = field(default_factory=list)
    types: list[AdapterTypeRecord] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    subtasks: list[Subtask] = field(default_factory=list)
    languages: list[Language] = field(default_factory=list)
    architectures: list[Architecture] = field(default_factory=list)
    organisations: list[Organisation] = field(default_factory=list)
    defaults: dict[tuple[str, str, str], str] = field(default_factory=dict)
    repairs: list[Repair] = field(default_factory=list)

    @property
    def architecture_configs(self) -> Mapping[str, Mapping[str, Any]]:
        """Architecture name → config, as `resolve(architectures=…)` takes it."""
        return {architecture.name: architecture.config for architecture in self.architectures}

    @property
    def repair_counts(self) -> dict[str, int]:
        """How many repairs of each kind, most frequent first."""
        return dict(Counter(repair.kind for repair in self.repairs).most_common())
