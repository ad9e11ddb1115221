"""A checkpoint in memory, whatever format it came from, and the report of what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from adapterhub.spec.config import AdapterConfig
from adapterhub.spec.heads import HeadConfig

__all__ = ["AdapterCheckpoint", "BaseModel", "FusionCheckpoint", "HeadCheckpoint", "LoadReport"]


@dataclass(slots=True)
class BaseModel:
    """The model a checkpoint was trained on, as far as the folder knows it.

    Args:
        name: its id on its hub.
        revision: commit or tag there.
        family: name of the model family (`bert`), or None.
        model_type: `model_type` of its transformers config, where the format keeps it.
        hidden_size: width of its layers.
    """

    name: str | None = None
    revision: str | None = None
    family: str | None = None
    model_type: str | None = None
    hidden_size: int | None = None


@dataclass(slots=True)
class HeadCheckpoint:
    """A prediction head: its config, and its tensors under our keys (flexible) or its class's (static)."""

    config: HeadConfig
    tensors: dict[str, Tensor]
    name: str | None = None


@dataclass(slots=True)
class AdapterCheckpoint:
    """An adapter as read from a folder.

    Args:
        name: what it was called when it was saved.
        config: its config.
        tensors: neutral key → tensor.
        type: `text_task`, `text_lang`, …
        format: `native`, `adapters` or `peft`.
        unexpected: keys of the file that fit no place of the model.
        notes: what reading it had to decide, for the report.
        record: further members of the folder's config (task, languages, …).
    """

    name: str
    config: AdapterConfig
    tensors: dict[str, Tensor]
    type: str = "text_task"
    format: str = "native"
    base_model: BaseModel = field(default_factory=BaseModel)
    head: HeadCheckpoint | None = None
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class FusionCheckpoint:
    """A fusion layer as read from a folder: over which adapters, its config, neutral key → tensor."""

    name: str
    adapters: tuple[str, ...]
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    format: str = "native"
    base_model: BaseModel = field(default_factory=BaseModel)
    head: HeadCheckpoint | None = None
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LoadReport:
    """What happened to the tensors of a checkpoint.

    Args:
        name: the name it is loaded under.
        folder: where it was read from.
        format: `native`, `adapters` or `peft`.
        used: keys that went into the model.
        missing: keys the model needs and the checkpoint lacks; those were newly initialised.
        unexpected: keys of the checkpoint that fit nowhere.
        head: name of the head that came with it, or None.
        notes: decisions made on the way, in sentences.
    """

    name: str
    folder: str
    format: str
    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    head: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and nothing was left over."""
        return not self.missing and not self.unexpected

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.used)} tensors from {self.folder} ({self.format} format)"]
        lines += [
            f"  {what}: {shorten(keys)}"
            for what, keys in (("missing", self.missing), ("unexpected", self.unexpected))
            if keys
        ]
        lines += [f"  head: {self.head}"] if self.head else []
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def shorten(keys: Iterable[str], count: int = 5) -> str:
    """The first keys, and how many more there are."""
    listed = list(keys)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


__all__ += ["shorten"]
