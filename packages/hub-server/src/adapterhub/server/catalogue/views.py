"""What the catalogue answers with: plain values, written as JSON by the API and drawn by the pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["task", "language"]

#: The two shelves of the hub and the adapter type that stands on each.
TYPE_OF_KIND: dict[str, str] = {"task": "text_task", "language": "text_lang"}
KIND_OF_TYPE: dict[str, str] = {type_: kind for kind, type_ in TYPE_OF_KIND.items()}


class View:
    """Base of the answers: `to_json` gives JSON types only."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class AdapterSummary(View):
    """One adapter as it stands in a list; the fields of the client's `AdapterInfo`, and those a card shows."""

    namespace: str
    name: str
    version: str
    task: str
    subtask: str
    type: str
    model_name: str
    family: str
    method: str
    using: str | None
    config_id: str
    adapter_config: Mapping[str, Any]
    digest: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    description: str = ""
    size: int = 0
    hidden_size: int | None = None
    downloads: int = 0
    versions: int = 1
    created_at: str = ""
    updated_at: str = ""
    yanked: bool = False
    status: str = "available"
    sha1_checksum: str | None = None
    source: str = "ah"
    private: bool = False

    @property
    def adapter_id(self) -> str:
        return f"@{self.namespace}/{self.name}"

    @property
    def reference(self) -> str:
        return f"{self.task}/{self.subtask}@{self.namespace}" if self.task else self.adapter_id

    @property
    def page(self) -> str:
        return f"/@{self.namespace}/{self.name}"

    @property
    def kind(self) -> str:
        return KIND_OF_TYPE.get(self.type, "task")

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "languages": list(self.languages),
            "adapter_config": dict(self.adapter_config),
            "adapter_id": self.adapter_id,
            "reference": self.reference,
            "username": self.namespace,
            "language": self.languages[0] if self.languages else None,
            "page": self.page,
        }


@dataclass(frozen=True, slots=True)
class FileView(View):
    """A file of a version; `url` is where it can be fetched, None while the hub lacks its bytes."""

    path: str
    size: int | None
    digest: str | None
    media_type: str = ""
    url: str | None = None


@dataclass(frozen=True, slots=True)
class TensorView(View):
    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        total = 1
        for length in self.shape:
            total *= length
        return total


@dataclass(frozen=True, slots=True)
class MetricView(View):
    name: str
    value: float | int | str
    dataset: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class VersionView(View):
    """A line of the table of versions."""

    version: str
    digest: str | None
    created_at: str = ""
    size: int = 0
    yanked: bool = False
    yanked_reason: str | None = None
    status: str = "available"
    is_default: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class AdapterDetail(View):
    """Everything the page of one version of an adapter shows. `architecture` describes the preset, `changes` are the fields
    in which the config differs from it; `more_citations` are pairs of what is cited (the architecture, the data set) and
    the citation."""

    summary: AdapterSummary
    version: VersionView
    versions: tuple[VersionView, ...]
    files: tuple[FileView, ...] = ()
    tensors: tuple[TensorView, ...] = ()
    metrics: tuple[MetricView, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] | None = None
    has_head: bool = False
    base_model: Mapping[str, Any] = field(default_factory=dict)
    library: Mapping[str, Any] = field(default_factory=dict)
    authors: tuple[str, ...] = ()
    citation: str = ""
    datasets: tuple[str, ...] = ()
    dependencies: tuple[Mapping[str, Any], ...] = ()
    card: str = ""
    published_by: str = ""
    links: tuple[tuple[str, str], ...] = ()
    architecture: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    more_citations: tuple[tuple[str, str], ...] = ()
    legacy_config_id: str | None = None
    manifest: Mapping[str, Any] | None = None

    @property
    def parameters(self) -> int:
        return sum(tensor.parameters for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """The members of the summary and of the version, flat, and everything else beside them."""
        document = asdict(self)
        document.pop("summary")
        return {**self.summary.to_json(), **document, "version": self.version.version, "shown": asdict(self.version)}


@dataclass(frozen=True, slots=True)
class TaskView(View):
    """A task or a language of the vocabulary, with how many adapters stand under it. `more` data sets are not listed."""

    kind: str
    id: str
    name: str
    description: str = ""
    count: int = 0
    subtasks: tuple[SubtaskView, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class SubtaskView(View):
    """A data set or a domain of a task or a language."""

    kind: str
    task: str
    id: str
    name: str
    description: str = ""
    count: int = 0
    models: int = 0
    url: str = ""
    citation: str = ""
    language: str = ""
    metric: str = ""
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class Choice(View):
    """One value of a facet and how many adapters it leaves; never zero."""

    value: str
    count: int
    name: str = ""
    selected: bool = False


@dataclass(frozen=True, slots=True)
class Facet(View):
    """One thing to filter by. `field` is the query parameter. `exact` is false when counts were taken from the most
    popular matches only, and are therefore lower bounds."""

    field: str
    title: str
    choices: tuple[Choice, ...]
    exact: bool = True
    more: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "field": self.field,
            "title": self.title,
            "exact": self.exact,
            "more": self.more,
            "choices": [
                {"value": choice.value, "count": choice.count, "name": choice.name, "selected": choice.selected}
                for choice in self.choices
            ],
        }


@dataclass(frozen=True, slots=True)
class AdapterPage(View):
    """A page of a list. `total` counts all matches; with `total_exact` false it is a lower bound."""

    items: tuple[AdapterSummary, ...]
    next: str | None
    total: int
    total_exact: bool = True
    facets: tuple[Facet, ...] = ()
    suggestions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "items": [item.to_json() for item in self.items],
            "next": self.next,
            "total": self.total,
            "total_exact": self.total_exact,
            "facets": {facet.field: facet.to_json() for facet in self.facets},
            "suggestions": list(self.suggestions),
        }


@dataclass(frozen=True, slots=True)
class HubCounts(View):
    """How many of everything the hub shows."""

    adapters: int = 0
    tasks: int = 0
    datasets: int = 0
    languages: int = 0
    models: int = 0
    namespaces: int = 0
    methods: tuple[Choice, ...] = ()
