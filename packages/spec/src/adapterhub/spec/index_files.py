"""The index files of a catalogue: what goes into which file, and what is split off when a file would be too big.

For a (model, task, subtask) with more than `SPLIT_ABOVE` adapters the bucket file holds how many there are and some of them:
the default's and a few of each config, enough to tell that more than one fits. The rest is in a page for each namespace, and
everything in the `a` file. The lines of a word that finds several tasks or subtasks have pages for each namespace as well.
Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from adapterhub.spec.entry_index import Adapter, EntryIndex, Pair, default_entry, default_pointers
from adapterhub.spec.index import (
    INDEX_VERSION,
    Defaults,
    IndexEntry,
    all_path,
    bucket_of,
    bucket_path,
    list_path,
    model_bucket_of,
    model_path,
    namespace_path,
    page_path,
    segment_prefixes,
    word_bucket_of,
    word_path,
    write_lines,
)
from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import FoldedAliases, path_targets

__all__ = [
    "SPLIT_ABOVE",
    "Spellings",
    "Witness",
    "build_index",
    "count_line",
    "list_digits",
    "pointer_line",
    "spelling_bucket_of",
    "witnesses",
    "write_bucket",
    "write_list",
    "write_models",
    "write_words",
]

#: adapters of one (model, task, subtask) up to which they are all in the bucket file
SPLIT_ABOVE = 40
_WITNESSES = 24


class Spellings:
    """The words and paths by which a (task, subtask) is found besides its own path: each half, each leading run of their
    segments, and what the alias table says. Give the same table to everything that writes an index."""

    def __init__(self, aliases: Mapping[str, str] | None = None) -> None:
        self.aliases = aliases if isinstance(aliases, FoldedAliases) else FoldedAliases(aliases or {})
        self._words: dict[str, list[str]] = {}
        self._paths: dict[str, list[str]] = {}
        for key, target in self.aliases.items():
            (self._paths if "/" in key else self._words).setdefault(target, []).append(key)

    def words(self, task: str, subtask: str) -> set[str]:
        """The words: folded, without `/`."""
        task, subtask = fold(task), fold(subtask)
        found = {*segment_prefixes(task), *segment_prefixes(subtask)} - {""}
        for target in (task, subtask, f"{task}/{subtask}") if task or subtask else ():
            found.update(self._words.get(target, ()))
        return found

    def paths(self, task: str, subtask: str) -> set[str]:
        """The paths other than its own: folded, each with one `/`."""
        task, subtask = fold(task), fold(subtask)
        if not (task and subtask):
            return set()
        own = f"{task}/{subtask}"
        found = {f"{left}/{right}" for left in segment_prefixes(task) for right in segment_prefixes(subtask)}
        for target in (task, subtask, own):
            found.update(self._paths.get(target, ()))
        if self._words:
            lefts, rights = [task, *self._words.get(task, ())], [subtask, *self._words.get(subtask, ())]
            found.update(
                path
                for path in (f"{left}/{right}" for left in lefts for right in rights)
                if own in path_targets(path, self.aliases)
            )
        return found - {own}

    def targets(self, spelling: str, pairs: Iterable[tuple[str, str, str]]) -> list[str]:
        """What the alias table makes of a word or path, in the order to try, as far as one of `pairs` is meant by it."""
        if not self.aliases:
            return []
        exact = {name for task, subtask, _ in pairs for name in _names(fold(task), fold(subtask))}
        return [target for target in path_targets(spelling, self.aliases) if target in exact]


class Witness(NamedTuple):
    """An adapter of a crowded (model, task, subtask), as far as choosing which to show needs."""

    key: Hashable
    namespace: str
    type: str
    config: str
    live: bool


def witnesses(adapters: Iterable[Witness], pointer: Hashable = None) -> list[Hashable]:
    """Which adapters of a crowded (model, task, subtask) its bucket file holds: the one the default pointer names, and of the
    most frequent configs of each type two of different namespaces, so that a reader sees at once that several fit."""
    groups: dict[tuple[str, str], list[Witness]] = {}
    chosen: dict[Hashable, None] = {}
    for one in adapters:
        groups.setdefault((one.type, one.config), []).append(one)
        if pointer is not None and one.key == pointer:
            chosen[one.key] = None
    for group in sorted(groups.values(), key=len, reverse=True):
        if len(chosen) >= _WITNESSES:
            break
        group = [one for one in group if one.live] or group
        first = group[0]
        second = next((one for one in group if one.namespace != first.namespace), None)
        chosen.update({one.key: None for one in (first, second) if one is not None})
    return list(chosen)


def spelling_bucket_of(model: str, path: str) -> str:
    """Four hex digits: the bucket where another spelling `task/subtask` is told of: that of a pair of this name."""
    task, _, subtask = path.partition("/")
    return bucket_of(model, task, subtask)


def pointer_line(model: str, task: str, subtask: str, adapter: str) -> str:
    """The line of a default pointer; `adapter` is "@namespace/name"."""
    return _dump({"v": INDEX_VERSION, "default": adapter, "model_name": model, "task": task, "subtask": subtask})


def count_line(
    model: str, task: str, subtask: str, counts: Mapping[str, tuple[int, int]], *, most: int | None = None
) -> str:
    """The line that says how many adapters there are of each type: those with a version that is not yanked, and all; numbers
    above `most` are told as that."""
    listed = {kind: [n if most is None else min(n, most) for n in counts[kind]] for kind in sorted(counts)}
    return _dump(
        {"v": INDEX_VERSION, "counts": listed, "model_name": model, "task": fold(task), "subtask": fold(subtask)}
    )


def write_bucket(entries: Iterable[IndexEntry], defaults: Defaults | None = None) -> str:
    """A bucket file without anything split off: the default pointers of the entries' (model, task, subtask), the entries."""
    entries = list(entries)
    keys = {(entry.model_name, fold(entry.task), fold(entry.subtask)) for entry in entries}
    return "".join(f"{line}\n" for line in _pointers(keys, defaults)) + write_lines(entries)


def write_words(
    entries: Iterable[IndexEntry],
    *,
    bucket: str | None = None,
    spellings: Spellings | None = None,
    crowded: Container[tuple[str, str, str]] = (),
    paths: bool = False,
) -> str:
    """The lines of words: one per (model, word) with the [task, subtask, type] it finds.

    Args:
        entries: the versions of the models concerned; more do no harm.
        bucket: only what hashes to these four hex digits; None writes all.
        spellings: the alias table's words as well.
        crowded: the (model, folded task, folded subtask) that are split.
        paths: the lines of other spellings `task/subtask` instead, which go into bucket files.
    """
    spellings = spellings or Spellings()
    found: dict[tuple[str, str], dict[tuple[str, str, str], bool]] = {}
    for entry in entries:
        pair = (entry.task, entry.subtask, entry.type)
        for word in (spellings.paths if paths else spellings.words)(entry.task, entry.subtask):
            hashed = spelling_bucket_of if paths else word_bucket_of
            if bucket is None or hashed(entry.model_name, word) == bucket:
                pairs = found.setdefault((entry.model_name, word), {})
                pairs[pair] = pairs.get(pair, False) or not entry.yanked
    lines = []
    for model, word in sorted(found):
        line = {"v": INDEX_VERSION, "model_name": model, "word": word, **_pair_lists(found[model, word])}
        if targets := spellings.targets(word, found[model, word]):
            line["aliases"] = targets
        keys = {(fold(task), fold(subtask)) for task, subtask, _ in found[model, word]}
        if len(keys) > 1 or any((model, *key) in crowded for key in keys):
            line["split"] = True
        lines.append(_dump(line))
    return "".join(f"{line}\n" for line in lines)


def write_models(entries: Iterable[IndexEntry], *, bucket: str | None = None) -> str:
    """A model file: for each model its [task, subtask, type], those with nothing but yanked versions apart."""
    found: dict[str, dict[tuple[str, str, str], bool]] = {}
    for entry in entries:
        if entry.task and (bucket is None or model_bucket_of(entry.model_name) == bucket):
            pairs = found.setdefault(entry.model_name, {})
            pair = (entry.task, entry.subtask, entry.type)
            pairs[pair] = pairs.get(pair, False) or not entry.yanked
    return _dump({"v": INDEX_VERSION, "models": {model: _pair_lists(found[model]) for model in sorted(found)}}) + "\n"


def list_digits(adapters: int) -> int:
    """By how many hex digits the list of so many adapters is cut into parts of a thousand or two."""
    digits = 0
    while adapters > 2000 * 16**digits and digits < 4:
        digits += 1
    return digits


def write_list(adapters: int) -> str:
    """`/index/list.json`: that there is a list of all adapters, and in how many parts."""
    return _dump({"v": INDEX_VERSION, "adapters": adapters, "digits": list_digits(adapters)}) + "\n"


def build_index(
    entries: Iterable[IndexEntry],
    defaults: Defaults | None = None,
    *,
    aliases: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    split_above: int = SPLIT_ABOVE,
) -> Iterator[tuple[str, bytes]]:
    """Every index file of a catalogue as (path, bytes), for a static export and for tests.

    Args:
        entries: all versions, in the order they were published; one that comes again replaces the earlier one.
        defaults: the default pointers.
        aliases: written to `/index/aliases.json` and into the lines of words.
        config: written to `/index/config.json`, with `index_version` added.
        split_above: adapters of one (model, task, subtask) up to which they stay together.
    """
    entries = list({(fold(one.namespace), fold(one.name), one.version): one for one in entries}.values())
    yield "/index/config.json", f"{_dump({**(config or {}), 'index_version': INDEX_VERSION})}\n".encode()
    yield "/index/aliases.json", f"{_dump(dict(aliases or {}))}\n".encode()
    by_name: dict[str, list[IndexEntry]] = {}
    by_bucket: dict[str, list[IndexEntry]] = {}
    by_model: dict[str, list[IndexEntry]] = {}
    for entry in entries:
        by_name.setdefault(namespace_path(entry.namespace, entry.name), []).append(entry)
        by_bucket.setdefault(bucket_path(entry.model_name, entry.task, entry.subtask), []).append(entry)
        by_model.setdefault(model_path(entry.model_name), []).append(entry)
    for path, lines in by_name.items():
        yield path, write_lines(lines).encode()
    for path, lines in by_model.items():
        yield path, write_models(lines).encode()
    chosen = [entry for entry in map(default_entry, by_name.values()) if entry is not None]
    listed: dict[str, list[IndexEntry]] = {}
    for entry in chosen:
        listed.setdefault(list_path(entry.namespace, entry.name, list_digits(len(chosen))), []).append(entry)
    yield "/index/list.json", write_list(len(chosen)).encode()
    for path, lines in listed.items():
        yield path, write_lines(lines).encode()
    index, spellings = EntryIndex(entries), Spellings(aliases)
    crowded = {
        (model, *pair): None
        for model, table in index.models.items()
        for pair, adapters in table.adapters.items()
        if len(adapters) > split_above
    }
    words = [json.loads(line) for line in write_words(entries, spellings=spellings, crowded=crowded).splitlines()]
    others = write_words(entries, spellings=spellings, crowded=crowded, paths=True).splitlines()
    found: dict[str, list[str]] = {}
    split: dict[str, dict[tuple[str, str, str], None]] = {}
    for line in words:
        path = word_path(line["model_name"], line["word"])
        found.setdefault(path, []).append(_dump(line))
        _note_split(split, path, line)
    for line in map(json.loads, others):
        path = bucket_path(line["model_name"], *line["word"].split("/"))
        found.setdefault(path, []).append(_dump(line))
        _note_split(split, path, line)
    for path, texts in found.items():
        if path.startswith("/index/w/"):
            yield path, "".join(f"{line}\n" for line in texts).encode()
    pointers = default_pointers(defaults)
    for path in sorted({*by_bucket, *(path for path in found if path.startswith("/index/k/"))}):
        lines = by_bucket.get(path, [])
        here = {(entry.model_name, fold(entry.task), fold(entry.subtask)) for entry in lines}
        full = sorted(here & crowded.keys())
        kept = lines
        if full:
            yield all_path(*full[0]), write_bucket(lines, defaults).encode()
            split.setdefault(path, {}).update(dict.fromkeys(full))
            shown = {
                key for pair in full for key in _shown(index.models[pair[0]].adapters[pair[1:]], pointers.get(pair))
            }
            kept = [
                entry
                for entry in lines
                if (entry.model_name, fold(entry.task), fold(entry.subtask)) not in crowded
                or (fold(entry.namespace), fold(entry.name)) in shown
            ]
        counts = [count_line(*pair, _count(index.models[pair[0]].adapters[pair[1:]].values())) for pair in full]
        texts = [*_pointers(here, defaults), *found.get(path, []), *counts]
        yield path, ("".join(f"{line}\n" for line in texts) + write_lines(kept)).encode()
    for path, pairs in split.items():
        for namespace in {
            adapter.namespace for pair in pairs for adapter in index.models[pair[0]].adapters[pair[1:]].values()
        }:
            yield page_path(path, namespace), _page(index, pairs, namespace, defaults).encode()


def _page(index: EntryIndex, pairs: Iterable[tuple[str, str, str]], namespace: str, defaults: Defaults | None) -> str:
    """The lines of one namespace in these (model, task, subtask), and whether there are others."""
    lines: list[IndexEntry] = []
    counts, keys = [], set()
    for pair in sorted(pairs):
        adapters = index.models[pair[0]].adapters[pair[1:]]
        own = [adapter for adapter in adapters.values() if adapter.namespace == namespace]
        if own:
            keys.add(pair)
            counts.append(count_line(*pair, _count(adapters.values()), most=2))
            lines += [entry for adapter in own for entry in adapter.versions.values()]
    return "".join(f"{line}\n" for line in (*_pointers(keys, defaults), *counts)) + write_lines(lines)


def _note_split(split: dict[str, dict[tuple[str, str, str], None]], path: str, line: Mapping[str, Any]) -> None:
    if line.get("split"):
        pairs = {(fold(task), fold(subtask)): None for task, subtask, _ in [*line["pairs"], *line.get("yanked", ())]}
        split.setdefault(path, {}).update({(line["model_name"], *pair): None for pair in pairs})


def _shown(adapters: Mapping[tuple[Pair, str], Adapter], pointer: str | None) -> list[Hashable]:
    listed = [
        Witness(one.name_key, one.namespace, one.type, one.default.config_id or one.default.using or "", one.live)
        for one in adapters.values()
    ]
    wanted = tuple(pointer[1:].split("/", 1)) if pointer else None
    return witnesses(listed, wanted)


def _count(adapters: Iterable[Adapter]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for adapter in adapters:
        if adapter.versions:
            live, every = found.get(adapter.type, (0, 0))
            found[adapter.type] = live + adapter.live, every + 1
    return found


def _pointers(keys: Iterable[tuple[str, str, str]], defaults: Defaults | None) -> list[str]:
    wanted = set(keys)
    found = {
        (model, fold(task), fold(subtask)): (model, task, subtask, adapter)
        for (model, task, subtask), adapter in (defaults or {}).items()
        if (model, fold(task), fold(subtask)) in wanted
    }
    return [pointer_line(*pointer) for pointer in sorted(found.values())]


def _names(task: str, subtask: str) -> tuple[str, ...]:
    return tuple(name for name in (task, subtask, f"{task}/{subtask}" if task else "") if name)


def _pair_lists(pairs: Mapping[tuple[str, str, str], bool]) -> dict[str, list[list[str]]]:
    lists = {"pairs": [list(pair) for pair in sorted(pairs) if pairs[pair]]}
    yanked = [list(pair) for pair in sorted(pairs) if not pairs[pair]]
    return lists | ({"yanked": yanked} if yanked else {})


def _dump(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
