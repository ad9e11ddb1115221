"""Index entries arranged for resolution: by name, and per model by task, subtask and every word that finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from adapterhub.spec.index import IndexEntry, segment_prefixes
from adapterhub.spec.reference import fold

__all__ = ["Adapter", "Defaults", "EntryIndex", "Pair", "Pairs", "default_entry", "default_pointers", "newest_entry"]

#: Default pointers: (model name, task, subtask) → "@namespace/name"; or records with model_name, task, subtask, adapter.
Defaults: TypeAlias = Mapping[tuple[str, str, str], str] | Iterable[Mapping[str, str]]

Pair: TypeAlias = tuple[str, str]  # folded (task, subtask)


class Adapter:
    """The versions of one adapter for one model, task, subtask and type, in the order they came."""

    __slots__ = ("_default", "_live", "key", "name_key", "namespace", "type", "versions")

    def __init__(self, name_key: tuple[str, str], key: Pair, type: str) -> None:
        self.name_key = name_key
        self.namespace = name_key[0]
        self.key = key
        self.type = type
        self.versions: dict[str, IndexEntry] = {}
        self._default: IndexEntry | None = None
        self._live = False

    def add(self, entry: IndexEntry) -> None:
        self.versions[entry.version] = entry
        self._default = None

    def remove(self, entry: IndexEntry) -> None:
        self.versions.pop(entry.version, None)
        self._default = None

    @property
    def default(self) -> IndexEntry:
        """The version a reference without one means; for an adapter that is yanked altogether, its newest."""
        if self._default is None:
            chosen = default_entry(self.versions.values())
            self._live = chosen is not None
            self._default = chosen if chosen is not None else newest_entry(self.versions.values())
        return self._default

    @property
    def live(self) -> bool:
        """Whether any version is not yanked."""
        _ = self.default
        return self._live

    @property
    def candidate(self) -> dict[str, str]:
        return {"id": self.default.id, "adapter": self.default.adapter}


@dataclass(slots=True)
class Pairs:
    """(task, subtask) pairs by each leading run of segments of either half."""

    tasks: dict[str, dict[Pair, None]] = field(default_factory=dict)
    subtasks: dict[str, dict[Pair, None]] = field(default_factory=dict)
    adapters: dict[Pair, dict[tuple[tuple[str, str], str], Adapter]] = field(default_factory=dict)

    def add(self, key: Pair) -> dict[tuple[tuple[str, str], str], Adapter]:
        """The adapters of a pair, by (folded namespace and name, type)."""
        here = self.adapters.get(key)
        if here is None:
            here = self.adapters[key] = {}
            for part, table in zip(key, (self.tasks, self.subtasks), strict=True):
                for run in segment_prefixes(part):
                    table.setdefault(run, {})[key] = None
        return here

    def find(self, path: str, *, prefix: bool) -> Iterator[Pair]:
        """The pairs a folded path (`task/subtask` or a word) equals, or is a segment prefix of."""
        task, slash, subtask = path.partition("/")
        if slash and not prefix:
            if (task, subtask) in self.adapters:
                yield task, subtask
        elif slash:
            right = self.subtasks.get(subtask, {})
            yield from (key for key in self.tasks.get(task, {}) if key in right)
        else:
            left = self.tasks.get(task, {})
            for key in {**left, **self.subtasks.get(task, {})}:
                if prefix or task in key:
                    yield key


class EntryIndex:
    """Index entries arranged for resolution: build it once, resolve any number of times.

    Args:
        entries: versions in the order they were published; an entry that comes again replaces the earlier one.
        defaults: default pointers, used by `resolve` unless it is given others.
    """

    def __init__(self, entries: Iterable[IndexEntry] = (), defaults: Defaults | None = None) -> None:
        #: model name → its tasks and subtasks
        self.models: dict[str, Pairs] = {}
        #: (folded namespace, folded name) → version → entry
        self.names: dict[tuple[str, str], dict[str, IndexEntry]] = {}
        self._folded: dict[str, str] = {}
        self._count = 0
        self.defaults = default_pointers(defaults)
        for entry in entries:
            self.add(entry)

    def add(self, entry: IndexEntry) -> None:
        """Take in one version; one of the same name and version is replaced, in its place."""
        namespace, name, task, subtask = map(self._fold, (entry.namespace, entry.name, entry.task, entry.subtask))
        versions = self.names.setdefault((namespace, name), {})
        old = versions.get(entry.version)
        if old is None:
            self._count += 1
        else:
            pair = (self._fold(old.task), self._fold(old.subtask))
            if (old.model_name, pair, old.type) != (entry.model_name, (task, subtask), entry.type):
                self.models[old.model_name].adapters[pair][(namespace, name), old.type].remove(old)
        versions[entry.version] = entry
        table = self.models.get(entry.model_name)
        if table is None:
            table = self.models[entry.model_name] = Pairs()
        here = table.add((task, subtask))
        key = ((namespace, name), entry.type)
        found = here.get(key)
        if found is None:
            found = here[key] = Adapter(key[0], (task, subtask), entry.type)
        found.add(entry)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[IndexEntry]:
        return (entry for versions in self.names.values() for entry in versions.values())

    @property
    def model_names(self) -> list[str]:
        """All base models, sorted."""
        return sorted(self.models)

    def _fold(self, text: str) -> str:
        found = self._folded.get(text)
        if found is None:
            found = self._folded[text] = fold(text)
        return found


def default_entry(versions: Iterable[IndexEntry]) -> IndexEntry | None:
    """The version a reference without one means: the one its owner set, else the newest; never a yanked one.

    Args:
        versions: all versions of one adapter, in the order they were published.
    """
    versions = list(versions)
    live = {entry.version: entry for entry in versions if not entry.yanked}
    wanted = next((entry.default_version for entry in reversed(versions) if entry.default_version is not None), None)
    if wanted in live:
        return live[wanted]
    return newest_entry(live.values()) if live else None


def default_pointers(defaults: Defaults | None) -> dict[tuple[str, str, str], str]:
    if defaults is None:
        return {}
    if isinstance(defaults, Mapping):
        rows = [(*key, adapter) for key, adapter in defaults.items()]
    else:
        rows = [(row["model_name"], row["task"], row["subtask"], row["adapter"]) for row in defaults]
    return {(model, fold(task), fold(subtask)): fold(adapter) for model, task, subtask, adapter in rows}


def newest_entry(entries: Iterable[IndexEntry]) -> IndexEntry:
    """By time of creation; those without one count as oldest, and of equals the later in order is newer."""
    listed = list(entries)
    if len(listed) == 1:
        return listed[0]
    return max(enumerate(listed), key=lambda numbered: (_instant(numbered[1].created_at), numbered[0]))[1]


def _instant(time: str | None) -> float:
    if time is None:
        return float("-inf")
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return float("-inf")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
