"""Resolution over the database: fetch only the entries a reference can mean, then let the spec's pure function decide."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, true

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.records import entry_of
from adapterhub.server.storage.tables import adapters, organisations, pair_defaults, pair_words, pairs, versions
from adapterhub.spec.errors import AdapterNotFoundError
from adapterhub.spec.index import Defaults, IndexEntry
from adapterhub.spec.reference import AdapterReference, fold, parse_reference
from adapterhub.spec.resolution import EntryIndex, Resolution, alias_targets, load_aliases, match_pairs, resolve

__all__ = ["alias_table", "default_pointers", "entries_of_adapter", "entries_of_pairs", "resolve_reference"]

_MAX_MODELS = 200  # other models looked at when a name is not found
_MAX_NAMES = 300  # names compared for suggestions
_CACHED_PAIRS = 512


@functools.cache
def alias_table() -> dict[str, str]:
    """The alias table of the spec."""
    return load_aliases()


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
        keys = _matching_pairs(connection, parsed, viewer, model_name, version is not None, type, aliases)
        index = entries_of_pairs(connection, model_name, keys, viewer)
        defaults = default_pointers(connection, model_name, keys) if keys else {}
    try:
        return resolve(parsed, index, defaults=defaults, **context)
    except AdapterNotFoundError:
        wider = [*index, *_more_entries(connection, parsed, viewer, model_name, aliases)]
        return resolve(parsed, wider, defaults=defaults, **context)


def entries_of_adapter(connection: Connection, namespace: str, name: str, viewer: Viewer) -> list[IndexEntry]:
    """All published versions of `@namespace/name`, oldest first; empty for what the viewer may not see."""
    rows = connection.execute(
        _lines()
        .where(organisations.c.key == fold(namespace), adapters.c.key == fold(name), viewer.sees(adapters))
        .order_by(versions.c.serial)
    )
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
    rows = connection.execute(
        select(pair_defaults.c.task_key, pair_defaults.c.subtask_key, organisations.c.name.label("ns"), adapters.c.name)
        .join(adapters, adapters.c.id == pair_defaults.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(
            pair_defaults.c.model_name == model_name,
            or_(*(and_(pair_defaults.c.task_key == t, pair_defaults.c.subtask_key == s) for t, s in keys)),
        )
    )
    return {(model_name, row.task_key, row.subtask_key): f"@{row.ns}/{row.name}" for row in rows}


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
        rows = connection.execute(
            _lines()
            .where(
                adapters.c.model_name == model_name,
                adapters.c.task_key == pair[0],
                adapters.c.subtask_key == pair[1],
                Viewer().sees(adapters),
            )
            .order_by(versions.c.serial)
        )
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


def _stamps(connection: Connection, model_name: str, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The newest serial among the adapters of each pair: it moves whenever one of them changes."""
    found: dict[tuple[str, str], int] = {}
    for task, subtask in keys:
        newest = connection.execute(
            select(func.max(adapters.c.serial)).where(
                adapters.c.model_name == model_name, adapters.c.task_key == task, adapters.c.subtask_key == subtask
            )
        ).scalar_one_or_none()
        found[task, subtask] = int(newest or 0)
    return found


def _sees_private(viewer: Viewer) -> bool:
    return viewer.token_id is not None and bool(viewer.scopes)


def _private_entries(
    connection: Connection, model_name: str, keys: Sequence[tuple[str, str]], viewer: Viewer
) -> list[IndexEntry]:
    if not _sees_private(viewer):
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
    version_given: bool,
    type: str | None,
    aliases: dict[str, str],
) -> list[tuple[str, str]]:
    """The folded (task, subtask) pairs of the first tier that gives any."""
    found: set[tuple[str, str]] = set()
    words = _words(reference, aliases)
    query = select(pair_words.c.task, pair_words.c.subtask).where(
        pair_words.c.model_name == model_name, pair_words.c.word.in_(words)
    )
    live = select(pairs.c.task).where(
        pairs.c.model_name == pair_words.c.model_name,
        pairs.c.task == pair_words.c.task,
        pairs.c.subtask == pair_words.c.subtask,
        pairs.c.type == pair_words.c.type,
        pairs.c.live == true(),
    )
    if not (reference.is_pinned or version_given):
        query = query.where(live.exists())
    if type is not None:
        query = query.where(pair_words.c.type == type)
    found.update((row.task, row.subtask) for row in connection.execute(query))
    if _sees_private(viewer):
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
) -> list[IndexEntry]:
    """Entries that make a good answer of "not found": other models that have it, and names that are close."""
    if reference.is_direct:
        return _close_adapters(connection, reference, viewer)
    words = _words(reference, aliases)
    rows = connection.execute(
        select(pair_words.c.model_name, pair_words.c.task, pair_words.c.subtask)
        .where(pair_words.c.word.in_(words))
        .distinct()
        .limit(20 * _MAX_MODELS)
    )
    by_model: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        by_model.setdefault(row.model_name, []).append((row.task, row.subtask))
    found: list[IndexEntry] = []
    for other in sorted(by_model)[:_MAX_MODELS]:
        _, chosen = match_pairs(reference, by_model[other], aliases)
        keys = list(dict.fromkeys((fold(task), fold(subtask)) for task, subtask in chosen))
        if keys and other != model_name:
            found += entries_of_pairs(connection, other, keys[:20], viewer)
    if model_name is not None:
        close = _close_pairs(connection, reference, model_name)
        for key in close:
            one = connection.execute(
                _lines()
                .where(
                    adapters.c.model_name == model_name,
                    adapters.c.task_key == key[0],
                    adapters.c.subtask_key == key[1],
                    viewer.sees(adapters),
                )
                .limit(1)
            ).first()
            if one is not None:
                found.append(entry_of(one.line))
    return found


def _close_pairs(connection: Connection, reference: AdapterReference, model_name: str) -> list[tuple[str, str]]:
    path = fold(reference.path or "")
    grams = _grams(path)
    scored: list[tuple[float, tuple[str, str]]] = []
    for row in connection.execute(select(pairs.c.task, pairs.c.subtask).where(pairs.c.model_name == model_name)):
        key = (fold(row.task), fold(row.subtask))
        texts = ["/".join(key)] if reference.task is not None else list(key)
        score = max(len(grams & _grams(text)) / (len(grams | _grams(text)) or 1) for text in texts)
        if score > 0:
            scored.append((-score, key))
    scored.sort()
    return list(dict.fromkeys(key for _, key in scored[:40]))[:30]


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
