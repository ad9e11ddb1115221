"""The sparse index of one hub, kept in the cache: fresh for its max-age, then asked for conditionally, used stale when
the hub does not answer.

An index file only ever grows: a version once seen keeps its digest and does not vanish. A newer answer that breaks this is
a rollback or a rewrite of history; it is refused, and the copy seen before stays.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from adapterhub.client.cache import Cache
from adapterhub.client.files import write_atomically
from adapterhub.client.settings import Hub
from adapterhub.spec.errors import (
    HubConnectionError,
    IntegrityError,
    InvalidManifestError,
    OfflineError,
    PolicyError,
    QuotaExceededError,
    StorageError,
)
from adapterhub.spec.reference import fold

__all__ = ["IndexAnswer", "IndexFiles", "StaleIndexWarning"]

#: seconds an index file counts as fresh where the hub does not say
MAX_AGE = 300
_LONGEST = 24 * 3600
_SAFE = re.compile(r"/index/[a-z0-9][a-z0-9.+_/-]*\Z")
#: seconds after which a version can no longer be deleted, only yanked
_DELETABLE = 72 * 3600


class StaleIndexWarning(UserWarning):
    """The hub did not answer; names were resolved with an older copy of its index."""


class IndexAnswer(NamedTuple):
    """What a source says about an index file.

    Attributes:
        state: `found`, `unchanged` (the copy with the given ETag is current) or `absent`.
        body: the file, if found.
        etag: for the next conditional request.
        max_age: seconds it may be used unasked; None where the source does not say.
        serial: a number of the hub's that only grows; None where it has none.
        hub_id: what the hub calls itself, for ever; None where it does not say.
    """

    state: str
    body: bytes = b""
    etag: str | None = None
    max_age: int | None = None
    serial: int | None = None
    hub_id: str | None = None


class IndexSource(Protocol):
    """Where index files come from."""

    hub: Hub

    def index_file(self, path: str, etag: str | None, *, patient: bool) -> IndexAnswer:
        """The index file at `path`; `patient` says whether to retry."""
        ...


class _Copy(NamedTuple):
    body: bytes | None
    etag: str | None
    fetched_at: float
    max_age: int
    serial: int | None


class IndexFiles:
    """Index files of one hub, through the cache.

    Args:
        cache: holds the copies; its read-only layers are looked at as well.
        hub: whose they are.
        source: gives who is asked when a copy is missing or too old.
        offline: never ask.
        reader: the token in use: who sees private adapters sees another index, which is kept apart.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        cache: Cache,
        hub: Hub,
        source: Callable[[], IndexSource],
        *,
        offline: bool = False,
        reader: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cache, self.hub, self.source, self.offline, self.clock = cache, hub, source, offline, clock
        key = hashlib.sha256(f"{hub.url} {reader}".strip().encode()).hexdigest()[:16]
        self._folder = f"{re.sub('[^a-z0-9.-]', '-', hub.name)}-{key}"
        self._outdated = cache.root / "index" / self._folder / "outdated"
        self._hub_id: str | None = None
        self._warned = False
        self._down = False

    def read(
        self,
        paths: Iterable[str],
        *,
        accept_stale: bool = False,
        refresh: bool = False,
        unasked: set[str] | None = None,
    ) -> dict[str, bytes | None]:
        """Bytes of each file, None for those the hub does not have.

        Args:
            accept_stale: a copy of any age will do (the caller wants something that never changes).
            refresh: ask even where the copy is fresh.
            unasked: gets the paths whose copy was used without asking the hub.
        """
        noted = set() if unasked is None else unasked
        wanted = list(dict.fromkeys(paths))
        if len(wanted) < 2 or self.offline:
            return {path: self.get(path, accept_stale=accept_stale, refresh=refresh, unasked=noted) for path in wanted}
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(8, len(wanted))) as pool:
            found = pool.map(
                lambda path: self.get(path, accept_stale=accept_stale, refresh=refresh, unasked=noted), wanted
            )
            return dict(zip(wanted, found, strict=True))

    def get(
        self, path: str, *, accept_stale: bool = False, refresh: bool = False, unasked: set[str] | None = None
    ) -> bytes | None:
        """Bytes of one file, None if the hub does not have it.

        Raises:
            OfflineError: offline, and no copy.
            HubConnectionError: no answer, and no copy.
            PolicyError, IntegrityError: the hub's answer is older than what was seen before, or rewrites it.
        """
        if not _SAFE.match(path) or ".." in path:
            raise PolicyError(f"{path!r} is no index file.")
        copy = self._load(path)
        if copy is not None:
            age = self.clock() - copy.fetched_at
            # a clock set back makes every copy old
            fresh = 0 <= age < copy.max_age and copy.fetched_at > self._outdated_at()
            if self.offline or accept_stale or (fresh and not refresh):
                if unasked is not None:
                    unasked.add(path)
                return copy.body
        elif self.offline:
            raise OfflineError(
                f"Offline mode is on, and {path} of the hub {self.hub.name!r} is not in the cache ({self.cache.root}).",
                hint="Resolve the reference once while online, or unset ADAPTERHUB_OFFLINE.",
            )
        try:
            etag = copy.etag if copy is not None and not refresh else None  # what failed is not asked for conditionally
            answer = self._ask(path, etag, patient=copy is None and not self._down)
        except (HubConnectionError, QuotaExceededError) as error:
            self._down = True
            if copy is None:
                raise
            self._warn(error)
            return copy.body
        self._down = False
        self._refuse_another_hub(answer.hub_id)
        if answer.state == "unchanged" and copy is not None:
            answer = answer._replace(
                body=copy.body or b"", etag=answer.etag or copy.etag, state="absent" if copy.body is None else "found"
            )
        body = None if answer.state == "absent" else answer.body
        if copy is not None:
            self._refuse_rollback(path, copy, body, answer.serial)
        max_age = MAX_AGE if answer.max_age is None else max(0, min(answer.max_age, _LONGEST))
        self._save(path, _Copy(body, answer.etag, self.clock(), max_age, answer.serial))
        return body

    def _ask(self, path: str, etag: str | None, *, patient: bool) -> IndexAnswer:
        """An answer that is an index file; one that is none is asked for once more."""
        for attempt in range(2):
            answer = self.source().index_file(path, etag, patient=patient)
            try:
                if answer.state == "found":
                    _check_lines(path, answer.body)
            except InvalidManifestError:
                if attempt:
                    raise
                continue
            return answer
        raise AssertionError("not reached")

    def forget(self) -> None:
        """Make every copy count as old, after something was published or withdrawn: the next look asks the hub."""
        try:
            self.cache.make_folder(self._outdated.parent)
            write_atomically(self._outdated, repr(self.clock()).encode(), durable=False)
        except (StorageError, OSError):
            pass  # copies that could not be noted as old would not have been kept either

    def _outdated_at(self) -> float:
        try:
            return float(self._outdated.read_bytes())
        except (OSError, ValueError):
            return 0.0

    # -- the copies ---------------------------------------------------------------------------------------------------

    def _path(self, path: str, root: Path) -> Path:
        return root / "index" / self._folder / path.removeprefix("/index/")

    def _load(self, path: str) -> _Copy | None:
        for root in (self.cache.root, *self.cache.shared):
            try:
                data = self._path(path, root).read_bytes()
                head, _, body = data.partition(b"\n")
                about = json.loads(head)
                if about["sha256"] != hashlib.sha256(body).hexdigest():
                    continue
                return _Copy(
                    body=None if about["absent"] else body,
                    etag=about["etag"],
                    fetched_at=float(about["fetched_at"]),
                    max_age=int(about["max_age"]),
                    serial=about.get("serial"),
                )
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return None

    def _save(self, path: str, copy: _Copy) -> None:
        body = copy.body or b""
        about = {
            "absent": copy.body is None,
            "etag": copy.etag,
            "fetched_at": copy.fetched_at,
            "max_age": copy.max_age,
            "serial": copy.serial,
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        target = self._path(path, self.cache.root)
        try:
            self.cache.make_folder(target.parent)
            write_atomically(target, json.dumps(about).encode() + b"\n" + body, durable=False)
        except (StorageError, OSError):
            pass  # without a copy the next call asks again; resolving still works

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"The hub {self.hub.name!r} does not answer; using the copy of its index in the cache.",
            StaleIndexWarning,
            stacklevel=2,
        )

    # -- trust on first use -------------------------------------------------------------------------------------------

    def _refuse_another_hub(self, hub_id: str | None) -> None:
        """The names of one hub mean nothing on another: remember which one it was at first, and stay with it.

        Raises:
            PolicyError: the address answers as another hub than before.
        """
        if hub_id is None or hub_id == self._hub_id:
            return
        place = self.cache.root / "index" / f"hub-{hashlib.sha256(self.hub.url.encode()).hexdigest()[:16]}.json"
        try:
            known = json.loads(place.read_bytes())["hub_id"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            try:
                self.cache.make_folder(place.parent)
                write_atomically(place, json.dumps({"hub_id": hub_id}).encode(), durable=False)
            except (StorageError, OSError):
                pass  # asked again next time
            known = hub_id
        if known != hub_id:
            raise PolicyError(
                f"{self.hub.url} answers as another hub than before ({hub_id[:64]} instead of {str(known)[:64]}); "
                "the same names may be other people's there.",
                hint="The answer was not used. If the hub was replaced on purpose: adapterhub cache rm --index",
            )
        self._hub_id = hub_id

    # -- rollback -----------------------------------------------------------------------------------------------------

    def _refuse_rollback(self, path: str, copy: _Copy, body: bytes | None, serial: int | None) -> None:
        hint = "The answer was not used. If the hub was restored from a backup on purpose: adapterhub cache rm --index"
        if serial is not None and copy.serial is not None and serial < copy.serial:
            raise PolicyError(
                f"The hub {self.hub.name!r} shows an index older than one seen before (serial {serial} after {copy.serial}).",
                hint=hint,
            )
        if copy.body is None or not path.endswith(".jsonl") or copy.body == body:
            return
        # a hub that numbers its changes may take a version out (quarantine); it answers for it with a higher number
        vouched = serial is not None and copy.serial is not None and serial > copy.serial
        before, after = _versions(copy.body), _versions(body or b"")
        partly = _split_pairs(body or b"")
        for key, (digest, created, pair) in before.items():
            name = f"@{key[0]}/{key[1]}:{key[2]}"
            if key in after:
                if digest and after[key][0] and after[key][0] != digest:
                    raise IntegrityError(
                        f"The hub {self.hub.name!r} shows other content for {name} than before "
                        f"({after[key][0]} instead of {digest}); a published version never changes.",
                        hint=hint,
                    )
            elif digest and not vouched and pair not in partly and not _young(created, self.clock()):
                raise PolicyError(
                    f"The hub {self.hub.name!r} shows an index older than one seen before: {name} is gone from it.",
                    hint=hint,
                )


def _check_lines(path: str, body: bytes) -> None:
    """Refuse what is no index file at all, before it is kept.

    Raises:
        InvalidManifestError: not UTF-8, or not JSON objects.
    """
    try:
        text = body.decode()
        documents = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if path.endswith("l")
            else [json.loads(text)]
        )
        sound = all(isinstance(document, dict) for document in documents)
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise InvalidManifestError(
            f"The hub's answer for {path} is no index file.",
            hint="Nothing was kept. Try again; check the hub's address.",
        )


def _split_pairs(body: bytes) -> set[tuple[str, ...]]:
    """The (model, task, subtask) of which the file shows a part: what it shows may change."""
    if b'"counts"' not in body:
        return set()
    from adapterhub.spec.index import parse_file

    return set(parse_file(body).counts)


def _versions(body: bytes) -> dict[tuple[str, str, str], tuple[str | None, str | None, tuple[str, ...]]]:
    """(namespace, name, version) → (digest, created_at, folded place) of every line that states a version."""
    found: dict[tuple[str, str, str], tuple[str | None, str | None, tuple[str, ...]]] = {}
    for line in body.splitlines():
        try:
            entry: Mapping[str, Any] = json.loads(line)
            found[str(entry["namespace"]), str(entry["name"]), str(entry["version"])] = (
                entry.get("digest"),
                entry.get("created_at"),
                (str(entry.get("model_name")), fold(str(entry.get("task"))), fold(str(entry.get("subtask")))),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _young(created: Any, now: float) -> bool:
    """Whether a version made at `created` may still have been deleted by its owner."""
    from datetime import datetime

    try:
        return now - datetime.fromisoformat(str(created).replace("Z", "+00:00")).timestamp() < _DELETABLE
    except ValueError:
        return False
