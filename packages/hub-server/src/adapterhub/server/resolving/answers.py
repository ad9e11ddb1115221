"""Answers to anonymous resolve requests, kept until something they depend on changes.

Every change of an adapter takes the hub's next serial and notes it on the adapter. When the serial has moved, the adapters
that moved with it tell which answers may be wrong now: those for their models and names, and every "not found".
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Hashable

from sqlalchemy import bindparam, select

from adapterhub.server.storage.database import Database
from adapterhub.server.storage.tables import adapters, organisations
from adapterhub.spec.errors import AdapterHubError

__all__ = ["Answer", "Answers"]

#: so many answers are kept, and so many bytes of them
_SIZE, _BYTES = 16_384, 64 << 20
_SAID = ("message", "hint", "candidates", "suggestions", "details")
_MANY = 500

_CHANGED = (
    select(adapters.c.model_name, adapters.c.key, organisations.c.key.label("namespace"))
    .join(organisations, organisations.c.id == adapters.c.organisation_id)
    .where(adapters.c.serial > bindparam("since"))
    .limit(_MANY + 1)
)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What resolve answered: a body, or the error it raised.

    Errors are kept as text, too: thousands of them as objects would have the garbage collector stop everything for long.

    Args:
        body: the answer, or what the error says, as JSON.
        error: the class of the error, or None.
        about: the base model the answer is for, or the folded `@namespace/name`.
    """

    body: bytes
    error: type[AdapterHubError] | None
    about: Hashable

    @classmethod
    def of_error(cls, error: AdapterHubError, about: Hashable) -> Answer:
        """The answer that raises `error` again."""
        return cls(json.dumps({name: getattr(error, name) for name in _SAID}).encode(), type(error), about)

    def raise_again(self) -> None:
        """Raise the error, if it is one."""
        if self.error is not None:
            raise self.error(**json.loads(self.body))


class Answers:
    """The answers of one process. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._serial = -1
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._about: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
        self._errors: set[Hashable] = set()
        self._bytes = 0
        self._lock = threading.Lock()

    def holds(self, key: Hashable) -> bool:
        """Whether there is an answer under `key`, perhaps one that no longer holds."""
        return key in self._kept

    def get(self, key: Hashable) -> tuple[Answer | None, int]:
        """The answer kept under `key`, if it still holds; and the serial to give to `put`."""
        serial = self._database.serial()
        with self._lock:
            if serial != self._serial:
                self._forget_changed(serial)
            answer = self._kept.get(key)
            if answer is not None:
                self._kept.move_to_end(key)
            return answer, serial

    def put(self, key: Hashable, answer: Answer, serial: int) -> None:
        """Keep an answer computed from a state that was at least as new as `serial`."""
        with self._lock:
            if serial != self._serial:
                return  # something changed while it was computed: the next request asks again
            self._forget(key)
            self._kept[key] = answer
            self._bytes += _bytes_of(key, answer)
            self._about[answer.about].add(key)
            if answer.error is not None:
                self._errors.add(key)
            while len(self._kept) > _SIZE or self._bytes > _BYTES:
                self._forget(next(iter(self._kept)))

    def _forget_changed(self, serial: int) -> None:
        if self._kept:
            with self._database.read() as connection:
                rows = connection.execute(_CHANGED, {"since": self._serial}).all()
            if len(rows) > _MANY or serial < self._serial:
                self._kept.clear()
                self._about.clear()
                self._errors.clear()
                self._bytes = 0
            else:
                stale = set(self._errors)
                for row in rows:
                    stale |= self._about.get(row.model_name, set()) | self._about.get((row.namespace, row.key), set())
                for key in stale:
                    self._forget(key)
        self._serial = serial

    def _forget(self, key: Hashable) -> None:
        answer = self._kept.pop(key, None)
        if answer is None:
            return
        self._bytes -= _bytes_of(key, answer)
        self._errors.discard(key)
        self._about[answer.about].discard(key)
        if not self._about[answer.about]:
            del self._about[answer.about]


def _bytes_of(key: Hashable, answer: Answer) -> int:
    return len(answer.body) + len(repr(key))
