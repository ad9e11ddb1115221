"""What is known about one adapter without downloading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapterhub.spec.index import IndexEntry

__all__ = ["AdapterInfo"]


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One version of one adapter.

    Attributes:
        source: `ah` (a hub of our kind) or `hf`.
        adapter_id: `@namespace/name`; the repository on `hf`. `load_adapter` takes it (after `hub::`, if `hub` is given).
        model_name: the base model.
        task, subtask: its path.
        username: the publisher; the same as `namespace`.
        adapter_config: the config, expanded where it is known.
        sha1_checksum: of the download of 2020's hub, where there was one.
        namespace, name, version: what identifies it.
        digest: `sha256:…` of the manifest; None while the hub lacks the bytes.
        type: `text_task`, `text_lang`, ….
        method: `bottleneck`, `lora`, ….
        using: the preset or architecture it names.
        license: SPDX expression.
        language: BCP 47 tag.
        config_id: `sha256:…` of the config.
        downloads: completed downloads, as far as the source counts them.
        size: bytes of all files.
        created_at: RFC 3339.
        yanked: withdrawn; only reached by its version.
        status: `available` or `unavailable`.
        description: a few sentences.
        hub: name of the hub it is on, if a reference that does not name it would go to another.
    """

    source: str
    adapter_id: str
    model_name: str | None = None
    task: str | None = None
    subtask: str | None = None
    username: str | None = None
    adapter_config: Mapping[str, Any] | None = None
    sha1_checksum: str | None = None
    namespace: str | None = None
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    type: str | None = None
    method: str | None = None
    using: str | None = None
    license: str | None = None
    language: str | None = None
    config_id: str | None = None
    downloads: int | None = None
    size: int | None = None
    created_at: str | None = None
    yanked: bool = False
    status: str = "available"
    description: str = field(default="", repr=False)
    hub: str | None = None

    @property
    def reference(self) -> str:
        """A reference that finds it: `task/subtask@namespace` or `adapter_id`, after `hub::` where that is needed."""
        hub = f"{self.hub}::" if self.hub else ""
        if self.source == "hf" or not (self.task and self.subtask and self.namespace):
            return f"{hub}{self.adapter_id}"
        return f"{hub}{self.task}/{self.subtask}@{self.namespace}"

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON types."""
        return {**asdict(self), "reference": self.reference}

    @classmethod
    def from_entry(cls, entry: IndexEntry, *, source: str = "ah", **more: Any) -> AdapterInfo:
        """From an index entry."""
        sha1 = next((file["sha1"] for file in entry.files if isinstance(file.get("sha1"), str)), None)
        return cls(
            source=source,
            adapter_id=entry.adapter,
            model_name=entry.model_name,
            task=entry.task,
            subtask=entry.subtask,
            username=entry.namespace,
            adapter_config=entry.config,
            sha1_checksum=sha1,
            namespace=entry.namespace,
            name=entry.name,
            version=entry.version,
            digest=entry.digest,
            type=entry.type,
            method=entry.method,
            using=entry.using,
            license=entry.license,
            language=entry.language,
            config_id=entry.config_id,
            size=entry.size,
            created_at=entry.created_at,
            yanked=entry.yanked,
            status=entry.status,
            **more,
        )

    @classmethod
    def from_json(cls, item: Mapping[str, Any], *, source: str = "ah") -> AdapterInfo:
        """From a hub's list; members it does not know are ignored, those of the wrong type are left out."""
        values: dict[str, Any] = {"source": source}
        for name, kinds in _KINDS.items():
            value = item.get(name)
            if (
                name not in ("source", "hub")
                and value is not None
                and isinstance(value, kinds)
                and not _odd_bool(value, kinds)
            ):
                values[name] = value
        languages = item.get("languages")
        if "language" not in values and isinstance(languages, (list, tuple)) and languages:
            values["language"] = str(languages[0])
        namespace = values.get("namespace")
        values.setdefault("adapter_id", f"@{namespace}/{values.get('name')}")
        if namespace is not None:
            values.setdefault("username", namespace)
        return cls(**values)


_KINDS: dict[str, type] = {item.name: str for item in fields(AdapterInfo)} | {
    "adapter_config": dict,
    "downloads": int,
    "size": int,
    "yanked": bool,
}


def _odd_bool(value: Any, kind: type) -> bool:
    return isinstance(value, bool) and kind is not bool
