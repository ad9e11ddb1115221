"""Resolution over the database: fetch only the entries a reference can mean, then let the spec's pure function decide."""

from __future__ import annotations

import functools
import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, false, func, or_, select, true, tuple_

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.resolving.crowds import Place, deciding_entries, is_crowded, others, own_and_others
from adapterhub.server.storage.records import entry_of
from adapterhub.server.storage.tables import adapters, organisations, pair_defaults, pair_words, pairs, versions
from adapterhub.spec.errors import AdapterNotFoundError
from adapterhub.spec.index import Defaults, IndexEntry
from adapterhub.spec.reference import AdapterReference, fold, parse_reference
from adapterhub.spec.resolution import (
    EntryIndex,
    FoldedAliases,
    Resolution,
    alias_targets,
    load_aliases,
    match_pairs,
    resolve,
)

__all__ = ["alias_table", "default_pointers", "entries_of_adapter", "entries_of_pairs", "resolve_reference"]

_MAX_MODELS = 200  # other models looked at when a name is not found
_MAX_NAMES = 300  # names compared for suggestions
_CLOSE_PAIRS = 8  # candidates for suggestions
_SUGGESTED = 5
_SIMILAR_SECONDS = 30.0
_SIMILAR_MODELS = 64
_CACHED_PAIRS = 256
_FEW_PAIRS = 8  # up to so many pairs are asked for one by one, and kept


@functools.cache
def alias_table() -> FoldedAliases:
    """The alias table of the spec."""
    return FoldedAliases(load_aliases())


def resolve_reference(
    connection: Connection,
    reference: str | AdapterReference,
    viewer: Viewer,
    *,
    model_name: str | None = None,
    config: Any = None,
    version: str | None = None,
    type: str | None = None,
) -> Resolution:
    """What `reference` means on this hub for this viewer; arguments and errors are those of `spec.resolve`."""
    parsed = parse_reference(reference)
    aliases = alias_table()
    context: dict[str, Any] = {
        "model_name": model_name,
        "config": config,
        "version": version,
        "type": type,
        "aliases": aliases,
    }
    index: EntryIndex | list[IndexEntry]
    defaults: Defaults = {}
    if parsed.is_direct:
        index = entries_of_adapter(connection, parsed.namespace or "", parsed.name or "", viewer)
    elif model_name is None:
        return resolve(parsed, [], **context)  # raises, saying what is missing
    else:
        pinned = parsed.is_pinned or version is not None
        keys = _matching_pairs(connection, parsed, viewer, model_name, pinned, type, aliases)
        place = Place(model_name, tuple(keys), type, pinned)
        index, defaults = _entries_of_path(connection, parsed, place, viewer, config)
    try:
        return resolve(parsed, index, defaults=defaults, **context)
    except AdapterNotFoundError:
        if not parsed.is_direct and parsed.namespace is not None and place.keys:  # what others have is suggested
            index = own_and_others(connection, place, parsed.namespace, viewer, limit=_SUGGESTED)
        wider = [*index, *_more_entries(connection, parsed, viewer, model_name, aliases, config)]
        return resolve(parsed, wider, defaults=defaults, **context)


def _entries_of_path(
    connection: Connection, reference: AdapterReference, place: Place, viewer: Viewer, config: Any
) -> tuple[EntryIndex | list[IndexEntry], Defaults]:
    """The entries that tell what a path means, as few as do, and the default pointers that may decide.

    Raises:
        AmbiguousAdapterError: where that is clear already.
    """
    keys = place.keys
    if not keys:
        return [], {}
    if reference.namespace is not None:
        found, namespace = own_and_others(connection, place, reference.namespace, viewer), fold(reference.namespace)
        several = len({entry.name for entry in found if fold(entry.namespace) == namespace}) > 1
        return found, default_pointers(connection, place.model_name, keys) if several else {}
    defaults = default_pointers(connection, place.model_name, keys)
    if config is None and (len(keys) > 1 or is_crowded(connection, place)):
        return deciding_entries(connection, reference, place, viewer, defaults), defaults
    if len(keys) > _FEW_PAIRS:
        return _some_entries(connection, place.model_name, keys, viewer), defaults
    return entries_of_pairs(connection, place.model_name, keys, viewer), defaults


def entries_of_adapter(connection: Connection, namespace: str, name: str, viewer: Viewer) -> list[IndexEntry]:
    """All published versions of `@namespace/name`, oldest first; empty for what the viewer may not see."""
    if viewer.sees_private:
        query = _lines().where(
            organisations.c.key == fold(namespace), adapters.c.key == fold(name), viewer.sees(adapters)
        )
        rows = connection.execute(query.order_by(versions.c.serial))
    else:
        rows = connection.execute(_ADAPTER_LINES, {"namespace": fold(namespace), "name": fold(name)})
    return [entry_of(row.line) for row in rows]


def entries_of_pairs(
    connection: Connection, model_name: str, keys: Sequence[tuple[str, str]], viewer: Viewer
) -> EntryIndex | list[IndexEntry]:
    """All published versions for a model and these folded (task, subtask), in the order they were published."""
    if not keys:
        return []
    stamps = _stamps(connection, model_name, keys)
    public = [_cache.get(connection, model_name, key, stamps.get(key, 0)) for key in keys]
    private = _private_entries(connection, model_name, keys, viewer)
    if len(public) == 1 and not private:
        return public[0]
    return [*(entry for index in public for entry in index), *private]


def default_pointers(
    connection: Connection, model_name: str, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str, str], str]:
    """The explicit defaults of a model's pairs, as the spec's functions take them."""
    keys = list(keys)
    if len(keys) > _FEW_PAIRS:
        wanted = set(keys)
        rows = connection.execute(_POINTERS, {"model": model_name})
        return {
            (model_name, row.task_key, row.subtask_key): f"@{row.ns}/{row.name}"
            for row in rows
            if (row.task_key, row.subtask_key) in wanted
        }
    found: dict[tuple[str, str, str], str] = {}
    for task, subtask in keys:
        row = connection.execute(_POINTER, {"model": model_name, "task": task, "subtask": subtask}).first()
        if row is not None:
            found[model_name, task, subtask] = f"@{row.ns}/{row.name}"
    return found


def _some_entries(
    connection: Connection, model_name: str, keys: Sequence[tuple[str, str]], viewer: Viewer
) -> list[IndexEntry]:
    found: list[IndexEntry] = []
    for start in range(0, len(keys), 400):
        some = tuple_(adapters.c.task_key, adapters.c.subtask_key).in_(list(keys[start : start + 400]))
        query = _lines().where(adapters.c.model_name == model_name, some, viewer.sees(adapters))
        found += [entry_of(row.line) for row in connection.execute(query.order_by(versions.c.serial))]
    return found


class _PairCache:
    """Public entries by (model, task, subtask), arranged for resolution, as long as nothing in there changed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[tuple[str, str, str, str], tuple[int, EntryIndex]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, connection: Connection, model_name: str, pair: tuple[str, str], stamp: int) -> EntryIndex:
        key = (str(connection.engine.url), model_name, *pair)
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found[0] == stamp:
                self._kept.move_to_end(key)
                return found[1]
        rows = connection.execute(_PAIR_LINES, {"model": model_name, "task": pair[0], "subtask": pair[1]})
        index = EntryIndex(entry_of(row.line) for row in rows)
        with self._lock:
            self._kept[key] = (stamp, index)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return index


_cache = _PairCache(_CACHED_PAIRS)


def _lines() -> Any:
    return (
        select(versions.c.line)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(versions.c.state == "published")
    )


def _of_pair() -> Any:
    return and_(
        adapters.c.model_name == bindparam("model"),
        adapters.c.task_key == bindparam("task"),
        adapters.c.subtask_key == bindparam("subtask"),
    )


# Statements of the hot path, built once.
_STAMP = select(func.max(adapters.c.serial)).where(_of_pair())
_PAIR_LINES = _lines().where(_of_pair(), adapters.c.private == false()).order_by(versions.c.serial)
_ADAPTER_LINES = (
    _lines()
    .where(
        organisations.c.key == bindparam("namespace"),
        adapters.c.key == bindparam("name"),
        adapters.c.private == false(),
    )
    .order_by(versions.c.serial)
)
_POINTERS = (
    select(organisations.c.name.label("ns"), adapters.c.name, pair_defaults.c.task_key, pair_defaults.c.subtask_key)
    .select_from(pair_defaults)
    .join(adapters, adapters.c.id == pair_defaults.c.adapter_id)
    .join(organisations, organisations.c.id == adapters.c.organisation_id)
    .where(pair_defaults.c.model_name == bindparam("model"))
)
_POINTER = _POINTERS.where(
    pair_defaults.c.task_key == bindparam("task"), pair_defaults.c.subtask_key == bindparam("subtask")
)
_WORDS = (
    select(pair_words.c.task, pair_words.c.subtask, pair_words.c.type, pairs.c.live)
    .join(
        pairs,
        and_(
            pairs.c.model_name == pair_words.c.model_name,
            pairs.c.task == pair_words.c.task,
            pairs.c.subtask == pair_words.c.subtask,
            pairs.c.type == pair_words.c.type,
        ),
    )
    .where(
        pair_words.c.model_name == bindparam("model"),
        pair_words.c.word.in_(bindparam("words", expanding=True)),
    )
)


_SPELT_SO = select(pairs.c.type, pairs.c.live).where(
    pairs.c.model_name == bindparam("model"),
    pairs.c.task == bindparam("task"),
    pairs.c.subtask == bindparam("subtask"),
)
_WORDS_ANYWHERE = (
    select(pair_words.c.model_name, pair_words.c.task, pair_words.c.subtask)
    .where(pair_words.c.word.in_(bindparam("words", expanding=True)))
    .distinct()
    .limit(20 * _MAX_MODELS)
)


def _stamps(connection: Connection, model_name: str, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The newest serial among the adapters of each pair: it moves whenever one of them changes."""
    found: dict[tuple[str, str], int] = {}
    for task, subtask in keys:
        newest = connection.execute(_STAMP, {"model": model_name, "task": task, "subtask": subtask}).scalar_one()
        found[task, subtask] = int(newest or 0)
    return found


def _private_entries(
    connection: Connection, model_name: str, keys: Sequence[tuple[str, str]], viewer: Viewer
) -> list[IndexEntry]:
    if not viewer.sees_private:
        return []
    rows = connection.execute(
        _lines()
        .where(
            adapters.c.private == true(),
            adapters.c.model_name == model_name,
            viewer.sees(adapters),
            or_(*(and_(adapters.c.task_key == task, adapters.c.subtask_key == subtask) for task, subtask in keys)),
        )
        .order_by(versions.c.serial)
    )
    return [entry_of(row.line) for row in rows]


def _matching_pairs(
    connection: Connection,
    reference: AdapterReference,
    viewer: Viewer,
    model_name: str,
    pinned: bool,
    type: str | None,
    aliases: dict[str, str],
) -> list[tuple[str, str]]:
    """The folded (task, subtask) pairs of the first tier that gives any."""
    if reference.task is not None:  # mostly spelt as it was published: then nothing else can be meant
        spelt = {"model": model_name, "task": reference.task, "subtask": reference.subtask}
        if any((pinned or row.live) and type in (None, row.type) for row in connection.execute(_SPELT_SO, spelt)):
            return [(fold(reference.task), fold(reference.subtask or ""))]
    rows = connection.execute(_WORDS, {"model": model_name, "words": _words(reference, aliases)})
    found = {(row.task, row.subtask) for row in rows if (pinned or row.live) and type in (None, row.type)}
    if viewer.sees_private:
        found.update(_private_pairs(connection, viewer, model_name, type))
    _, chosen = match_pairs(reference, sorted(found), aliases)
    return list(dict.fromkeys((fold(task), fold(subtask)) for task, subtask in chosen))


def _private_pairs(connection: Connection, viewer: Viewer, model_name: str, type: str | None) -> list[tuple[str, str]]:
    query = (
        select(adapters.c.task, adapters.c.subtask)
        .distinct()
        .where(
            adapters.c.private == true(),
            adapters.c.listed == true(),
            adapters.c.model_name == model_name,
            viewer.sees(adapters),
        )
    )
    if type is not None:
        query = query.where(adapters.c.type == type)
    return [(row.task, row.subtask) for row in connection.execute(query)]


def _words(reference: AdapterReference, aliases: dict[str, str]) -> list[str]:
    """The folded words under which `pair_words` has everything the reference may match, in any tier."""
    words = [fold(reference.word or reference.subtask or "")]
    words += [target.rpartition("/")[2] for target in alias_targets(reference, aliases)]
    return list(dict.fromkeys(words))


def _more_entries(
    connection: Connection,
    reference: AdapterReference,
    viewer: Viewer,
    model_name: str | None,
    aliases: dict[str, str],
    config: Any,
) -> list[IndexEntry]:
    """Entries that make a good answer of "not found": other models that have it, and names that are close."""
    if reference.is_direct:
        return _close_adapters(connection, reference, viewer)
    words = _words(reference, aliases)
    rows = connection.execute(_WORDS_ANYWHERE, {"words": words})
    by_model: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        by_model.setdefault(row.model_name, []).append((row.task, row.subtask))
    found: list[IndexEntry] = []
    for other in sorted(by_model)[:_MAX_MODELS]:
        _, chosen = match_pairs(reference, by_model[other], aliases)
        keys = list(dict.fromkeys((fold(task), fold(subtask)) for task, subtask in chosen))
        if not keys or other == model_name:
            continue
        place = Place(other, tuple(keys[:20]), None, True)
        if reference.namespace is not None:
            found += own_and_others(connection, place, reference.namespace, viewer)
        elif config is None:
            found += others(connection, place, viewer, limit=2)
        else:
            found += entries_of_pairs(connection, other, keys[:20], viewer)
    if model_name is not None:
        close = _close_pairs(connection, reference, model_name)
        for key in close:
            found += others(connection, Place(model_name, (key,), None, False), viewer)
    return found


def _close_pairs(connection: Connection, reference: AdapterReference, model_name: str) -> list[tuple[str, str]]:
    """Pairs of the model that share the most letter pairs with what was asked for."""
    return _similar.get(connection, model_name).closest(fold(reference.path or ""), whole=reference.task is not None)


class _SimilarPairs:
    """The pairs of one model with the letter pairs in them."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self._pairs = [_pair_with_grams(task, subtask) for task, subtask in dict.fromkeys(rows)]

    def closest(self, path: str, *, whole: bool) -> list[tuple[str, str]]:
        """The best folded pairs for `task/subtask` (`whole`) or for a word."""
        grams = _grams(path)
        scored: list[tuple[float, int]] = []
        for number, (_, _, both, least) in enumerate(self._pairs):
            shared = len(grams & both)
            if shared:
                scored.append((-shared / max(len(grams), len(both) if whole else least), number))
        best = heapq.nsmallest(_CLOSE_PAIRS, scored)
        return list(dict.fromkeys(self._pairs[number][:2] for _, number in best))


class _SimilarCache:
    """`_SimilarPairs` of the models last asked about. Suggestions may be half a minute old."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[float, _SimilarPairs]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, connection: Connection, model_name: str) -> _SimilarPairs:
        key, clock = (str(connection.engine.url), model_name), time.monotonic()
        with self._lock:
            found = self._kept.get(key)
            if found is not None and clock - found[0] < _SIMILAR_SECONDS:
                self._kept.move_to_end(key)
                return found[1]
        rows = connection.execute(select(pairs.c.task, pairs.c.subtask).where(pairs.c.model_name == model_name))
        made = _SimilarPairs((row[0], row[1]) for row in rows)
        with self._lock:
            self._kept[key] = (clock, made)
            while len(self._kept) > _SIMILAR_MODELS:
                self._kept.popitem(last=False)
        return made


_similar = _SimilarCache()


@functools.lru_cache(maxsize=4096)
def _pair_with_grams(task: str, subtask: str) -> tuple[str, str, frozenset[str], int]:
    """The folded pair, the letter pairs of both together, and how many the one has that has fewer. Many models have the
    same pairs, and share them."""
    left, right = _grams(fold(task)), _grams(fold(subtask))
    return fold(task), fold(subtask), frozenset(left | right), min(len(left), len(right))


def _grams(text: str) -> set[str]:
    return {text[at : at + 2] for at in range(len(text) - 1)} or {text}


def _close_adapters(connection: Connection, reference: AdapterReference, viewer: Viewer) -> list[IndexEntry]:
    namespace, name = fold(reference.namespace or ""), fold(reference.name or "")
    query = (
        select(adapters.c.id, adapters.c.key)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(adapters.c.listed == true(), viewer.sees(adapters))
        .limit(5000)
    )
    rows = connection.execute(query.where(organisations.c.key == namespace)).all()
    if not rows:
        rows = connection.execute(query.where(adapters.c.key.startswith(name[:3], autoescape=True))).all()
    grams = _grams(name)
    best = sorted(rows, key=lambda row: (-len(grams & _grams(row.key)), row.key))[:30]
    if not best:
        return []
    lines = connection.execute(_lines().where(adapters.c.id.in_([row.id for row in best])).order_by(versions.c.serial))
    return [entry_of(row.line) for row in lines.fetchmany(_MAX_NAMES)]
