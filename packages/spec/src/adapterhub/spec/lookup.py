"""Resolution over index files: which ones a reference needs, whatever fetches them, and the answer of the whole index.

The answer is that of `resolve` over everything the hub has, for at most two files in nearly every case: a (model, task,
subtask) or a word with many adapters is split (see `index_files`), and what such a file shows is enough to tell which adapter
is meant, or that several are. Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeAlias

from adapterhub.spec.errors import AdapterHubError, AmbiguousAdapterError
from adapterhub.spec.index import (
    IndexEntry,
    IndexFile,
    WordLine,
    bucket_path,
    namespace_path,
    page_path,
    parse_file,
    word_path,
)
from adapterhub.spec.reference import AdapterReference, fold, parse_reference
from adapterhub.spec.resolution import Resolution, alias_targets, match_pairs, resolve

__all__ = ["Lookup", "PartlyListedError", "look_up"]

_NAMED = 10
_LOOKED_AT = 2

#: Yields the paths of index files, is sent their bytes (None where the hub has no such file), returns the answer.
Lookup: TypeAlias = Generator[list[str], Mapping[str, bytes | None], Resolution]

_Files: TypeAlias = Generator[list[str], Mapping[str, bytes | None], list[IndexFile]]
_Pair: TypeAlias = tuple[str, str]


class PartlyListedError(AmbiguousAdapterError):
    """Ambiguous for certain, told from a part of the index: `candidates` holds some of them. `look_up` with `complete=True`
    lists all."""


def look_up(
    ref: str | AdapterReference,
    *,
    model_name: str | None = None,
    config: Any = None,
    version: str | None = None,
    type: str | None = None,
    aliases: Mapping[str, str] | None = None,
    architectures: Mapping[str, Mapping[str, Any]] | None = None,
    complete: bool = False,
) -> Lookup:
    """Resolve a reference over index files. The other arguments are those of `resolve`.

    Args:
        aliases: instead of the hub's table, which its files know.
        complete: read everything a candidate may be in, so that an `AmbiguousAdapterError` lists all of them.

    Raises:
        PartlyListedError: ambiguous, and only some candidates are known.
        As `resolve`; suggestions and other models of an `AdapterNotFoundError` are those that were seen on the way.
    """
    parsed = parse_reference(ref)
    context = {"config": config, "version": version, "type": type, "architectures": architectures}
    if parsed.name is not None:
        [file] = yield from _read([namespace_path(parsed.namespace or "", parsed.name)])
        return resolve(parsed, file.entries, model_name=model_name, **context)
    if model_name is None:
        return resolve(parsed, [], **context)  # says what is missing
    query = _Query(parsed, model_name, context, aliases, complete)
    return (yield from query.run())


class _Query:
    """One path for one model."""

    def __init__(
        self,
        parsed: AdapterReference,
        model: str,
        context: dict[str, Any],
        aliases: Mapping[str, str] | None,
        complete: bool,
    ) -> None:
        self.parsed, self.model, self.context, self.complete = parsed, model, context, complete
        self.given = aliases
        self.pinned = parsed.is_pinned or context["version"] is not None
        self.namespace = fold(parsed.namespace) if parsed.namespace is not None else None
        self.heads: dict[str, IndexFile] = {}

    def run(self) -> Lookup:
        path, line, words = fold(self.parsed.path or ""), None, []
        if self.parsed.task is not None and self.parsed.subtask is not None:
            place = bucket_path(self.model, self.parsed.task, self.parsed.subtask)
            [head] = yield from self._heads([place])
            pair = fold(self.parsed.task), fold(self.parsed.subtask)
            if self._count(head, pair):
                return (yield from self._decide([pair], {}))
            line = head.words.get((self.model, path))
        else:
            place = word_path(self.model, path)
            words = [place]
        if self.given is not None:  # their words are not in the hub's lines
            parts = [target.rpartition("/")[2] for target in alias_targets(self.parsed, self.given)]
            words = list(dict.fromkeys([*words, *(word_path(self.model, part) for part in parts)]))
        files = yield from _read(words)
        if self.parsed.task is None:
            line = files[0].words.get((self.model, path))
        pairs = self._pairs([line]) | self._pairs(
            found for file in files for (model, _), found in file.words.items() if model == self.model
        )
        aliases, keys = self._match(path, line, pairs)
        if not keys:
            return self._resolve([], {}, aliases)  # says what is not there
        if self.namespace is not None and line is not None and line.split and self.given is None and not self.complete:
            [page] = yield from _read([page_path(place, self.namespace)])
            own = self._of(page, keys, self.namespace)
            if self._visible(own):
                return self._settle(own, page, keys, aliases)
            keys = keys[:_LOOKED_AT]  # it has none: a few files tell what there is instead
        return (yield from self._decide(keys, aliases))

    def _match(
        self, path: str, line: WordLine | None, pairs: set[tuple[str, str]]
    ) -> tuple[Mapping[str, str], list[_Pair]]:
        """The alias that counts, and the folded pairs of the first tier that gives any."""
        tables: list[Mapping[str, str]] = [{path: target} for target in line.aliases] if line is not None else []
        found: list[tuple[str, str]] = []
        table: Mapping[str, str] = {}
        for table in [self.given] if self.given is not None else [*tables, {}]:
            tier, found = match_pairs(self.parsed, sorted(pairs), table)
            if tier in ("exact", "alias"):
                break
        return table, sorted({(fold(task), fold(subtask)) for task, subtask in found})

    def _decide(self, keys: list[_Pair], aliases: Mapping[str, str]) -> Lookup:
        """Which adapter of these pairs it is, from their bucket files, which may be split."""
        config = self.context["config"]
        if self.complete:
            return self._resolve(*(yield from self._everything(keys)), aliases)
        if len(keys) > 1 and self.namespace is None and config is None:
            raise self._several_tasks(keys)
        paths = list(dict.fromkeys(bucket_path(self.model, *key) for key in keys))
        some = 2
        while self.namespace is None and some < len(keys):  # a few of them may tell already that it is ambiguous
            yield from self._heads([bucket_path(self.model, *key) for key in keys[:some]])
            self._refuse_ambiguous(keys[:some], aliases)
            some *= 2
        files = yield from self._heads(paths)
        entries = [entry for file in files for entry in self._of(file, keys)]
        defaults = {key: pointer for file in files for key, pointer in file.defaults.items()}
        partly = [key for key in keys if (self.model, *key) in self._head(key).counts]
        if not partly:
            return self._resolve(entries, defaults, aliases)
        if self.namespace is not None:
            split = dict.fromkeys(page_path(bucket_path(self.model, *key), self.namespace) for key in partly)
            for page in (yield from _read(list(split))):
                entries += self._of(page, partly)
                defaults.update(page.defaults)
            found = self._resolve(entries, defaults, aliases)
            several = sum(self._count(self._head(key), key) for key in keys) > 1
            return _renamed(found) if several else found
        if len(keys) == 1:
            try:
                found = self._resolve(entries, defaults, aliases)
                if found.decided_by == "default":
                    return found
            except AmbiguousAdapterError as error:
                self._refuse_if_certain(error, keys, entries, defaults)
            except AdapterHubError:
                pass
        else:
            self._refuse_ambiguous(keys, aliases)
        return self._resolve(*(yield from self._everything(keys)), aliases)

    def _refuse_ambiguous(self, keys: list[_Pair], aliases: Mapping[str, str]) -> None:
        """Raise if adapters of different pairs fit already."""
        files = [self._head(key) for key in keys]
        entries = [entry for file in {id(file): file for file in files}.values() for entry in self._of(file, keys)]
        try:
            self._resolve(entries, {}, aliases)
        except AmbiguousAdapterError as error:
            if len({fold(one["id"]).partition("@")[0] for one in error.candidates}) > 1:
                raise self._partly(error, None) from None
        except AdapterHubError:
            pass

    def _refuse_if_certain(
        self,
        error: AmbiguousAdapterError,
        keys: list[_Pair],
        entries: list[IndexEntry],
        defaults: Mapping[tuple[str, str, str], str],
    ) -> None:
        """Raise unless what was not read may still decide: the default pointer's adapter, or, for a config, adapters
        without overrides of one publisher."""
        pointers = {fold(pointer) for (model, *key), pointer in defaults.items() if self._is(model, key, keys)}
        if not pointers <= {fold(entry.adapter) for entry in entries}:
            return
        if self.context["config"] is None:
            raise self._partly(error, sum(self._count(self._head(key), key) for key in keys)) from None
        if len({fold(one["id"]) for one in error.candidates}) > 1:
            raise self._partly(error, None) from None

    def _settle(
        self, own: list[IndexEntry], page: IndexFile, keys: list[_Pair], aliases: Mapping[str, str]
    ) -> Resolution:
        """The answer from the lines of the namespace asked for, which are all here."""
        found = self._resolve(own, page.defaults, aliases)
        others = any((self.model, *key) not in page.counts or self._count(page, key) > 1 for key in keys)
        return _renamed(found) if len(keys) > 1 or others else found

    def _everything(
        self, keys: list[_Pair]
    ) -> Generator[list[str], Mapping[str, bytes | None], tuple[list[IndexEntry], Mapping[tuple[str, str, str], str]]]:
        files = yield from self._heads(list(dict.fromkeys(bucket_path(self.model, *key) for key in keys)))
        partly = {bucket_path(self.model, *key) for key in keys if (self.model, *key) in self._head(key).counts}
        whole = yield from _read([path.replace("/k/", "/a/", 1) for path in sorted(partly)])
        entries = [entry for file in [*whole, *files] for entry in self._of(file, keys)]
        defaults = {key: pointer for file in files for key, pointer in file.defaults.items()}
        return list({(e.namespace, e.name, e.version): e for e in entries}.values()), defaults

    # -- reading ------------------------------------------------------------------------------------------------------

    def _heads(self, paths: list[str]) -> _Files:
        missing = [path for path in dict.fromkeys(paths) if path not in self.heads]
        for path, file in zip(missing, (yield from _read(missing)), strict=True):
            self.heads[path] = file
        return [self.heads[path] for path in paths]

    def _head(self, key: _Pair) -> IndexFile:
        return self.heads[bucket_path(self.model, *key)]

    def _is(self, model: str, key: Iterable[str], keys: list[_Pair]) -> bool:
        return model == self.model and tuple(map(fold, key)) in keys

    def _of(self, file: IndexFile, keys: list[_Pair], namespace: str | None = None) -> list[IndexEntry]:
        return [
            entry
            for entry in file.entries
            if self._is(entry.model_name, (entry.task, entry.subtask), keys)
            and namespace in (None, fold(entry.namespace))
        ]

    def _visible(self, entries: list[IndexEntry]) -> bool:
        kind = self.context["type"]
        return any((self.pinned or not entry.yanked) and kind in (None, entry.type) for entry in entries)

    def _count(self, file: IndexFile, key: _Pair) -> int:
        """How many adapters of a pair count for this question, all that the hub has."""
        kind, counts = self.context["type"], file.counts.get((self.model, *key))
        if counts is not None:
            return sum(pair[self.pinned] for name, pair in counts.items() if kind in (None, name))
        here = [entry for entry in self._of(file, [key]) if self._visible([entry])]
        return len({(fold(entry.namespace), fold(entry.name)) for entry in here})

    def _pairs(self, lines: Iterable[WordLine | None]) -> set[tuple[str, str]]:
        kind = self.context["type"]
        return {
            (task, subtask)
            for line in lines
            if line is not None
            for task, subtask, of in [*line.pairs, *(line.yanked if self.pinned else ())]
            if kind in (None, of)
        }

    # -- answers ------------------------------------------------------------------------------------------------------

    def _resolve(
        self,
        entries: list[IndexEntry],
        defaults: Mapping[tuple[str, str, str], str],
        aliases: Mapping[str, str],
    ) -> Resolution:
        return resolve(self.parsed, entries, model_name=self.model, defaults=defaults, aliases=aliases, **self.context)

    def _several_tasks(self, keys: list[_Pair]) -> PartlyListedError:
        paths = ["/".join(key) for key in keys]
        listed = ", ".join(paths[:_NAMED]) + (f", and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
        return PartlyListedError(
            f"{str(self.parsed)!r} means {len(paths)} tasks for {self.model}: {listed}.",
            hint="Write one of them as task/subtask, or narrow it down by @namespace or config.",
            details={"tasks": paths},
        )

    def _partly(self, error: AmbiguousAdapterError, count: int | None) -> PartlyListedError:
        known = error.candidates
        listed = ", ".join(f"{one['adapter']} ({one['id']})" for one in known[:_NAMED])
        many = f"{count} adapters" if count is not None else f"more than {len(known) - 1} adapters"
        return PartlyListedError(
            f"{str(self.parsed)!r} means {many} for {self.model}, such as {listed}.",
            hint=error.hint,
            candidates=known,
        )


def _read(paths: list[str]) -> _Files:
    if not paths:
        return []
    contents = yield paths
    return [parse_file(contents.get(path)) for path in paths]


def _renamed(found: Resolution) -> Resolution:
    """One adapter of several that were not all read: the namespace decided."""
    return dataclasses.replace(found, decided_by="namespace") if found.decided_by == "unique" else found
