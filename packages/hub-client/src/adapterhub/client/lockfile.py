"""`adapterhub.lock`: which bytes each reference stands for, so that a training script stays reproducible.

A JSON file to commit beside the code:

    {"version": 1, "adapters": {
       "sentiment/sst-2@ukp": [{"model_name": "bert-base-uncased", "hub": "ah", "adapter": "@ukp/…", "version": "1",
                                "digest": "sha256:…"}]}}

The key is the reference as it is written in the script. Further members of the context (config, version, type) stand in
the record when the call gave them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.client.files import alone_in, storage_errors, write_atomically
from adapterhub.spec.errors import AdapterHubError, PolicyError

__all__ = ["LOCKFILE", "Locked", "Lockfile", "context_key"]

LOCKFILE = "adapterhub.lock"
_VERSION = 1
_CONTEXT = ("model_name", "config", "version_asked", "type", "source")


class Locked(NamedTuple):
    """One locked reference.

    Attributes:
        reference: as written.
        hub: name of the hub it comes from.
        hub_url: its address when it was locked.
        adapter: `@namespace/name`.
        version: the version.
        digest: `sha256:…` of its manifest.
        entry: the index entry, so that nothing has to be asked.
        tier, decided_by: how the reference was resolved.
        context: model_name, config, version and type it was resolved with.
    """

    reference: str
    hub: str
    hub_url: str
    adapter: str
    version: str
    digest: str
    entry: Mapping[str, Any]
    tier: str
    decided_by: str
    context: Mapping[str, Any]


def context_key(reference: str, context: Mapping[str, Any]) -> str:
    """Two calls with equal keys mean the same adapter."""
    given = {key: context[key] for key in _CONTEXT if context.get(key) is not None}
    return json.dumps([reference, given], sort_keys=True, default=str)


class Lockfile:
    """The lock file at `path`; an absent file is an empty one."""

    def __init__(self, path: str | Path = LOCKFILE) -> None:
        self.path = Path(path)
        self._locked = self._read()
        self._put: dict[str, Locked] = {}

    def __len__(self) -> int:
        return len(self._locked)

    def items(self) -> list[Locked]:
        """Everything locked, sorted."""
        return sorted(
            self._locked.values(), key=lambda item: (item.reference, json.dumps(dict(item.context), default=str))
        )

    def get(self, reference: str, context: Mapping[str, Any]) -> Locked | None:
        """What `reference` is locked to in this context."""
        return self._locked.get(context_key(reference, context))

    def require(self, reference: str, context: Mapping[str, Any]) -> Locked:
        """As `get`.

        Raises:
            PolicyError: it is not locked.
        """
        found = self.get(reference, context)
        if found is None:
            raise PolicyError(
                f"{reference} is not in {self.path}, and only locked adapters are allowed.",
                hint=f"Run: adapterhub lock {reference}" + _model_option(context),
            )
        return found

    def put(self, item: Locked) -> None:
        """Lock a reference, replacing what it was locked to. `write` makes it last."""
        key = context_key(item.reference, item.context)
        self._locked[key] = self._put[key] = item

    def write(self) -> None:
        """Replace the file atomically; what another process locked since it was read stays locked."""
        path, otherwise = self.path.absolute(), "Give another place for the lock file with --lockfile."
        with storage_errors(path, otherwise):
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone_in(path.parent):
                self._locked = {**self._read(), **self._put}
                write_atomically(path, self._document(), otherwise=otherwise)
        self._put = {}

    def _document(self) -> bytes:
        adapters: dict[str, list[dict[str, Any]]] = {}
        for item in self.items():
            record = {
                **{key: value for key, value in item.context.items() if value is not None},
                "hub": item.hub,
                "hub_url": item.hub_url,
                "adapter": item.adapter,
                "version": item.version,
                "digest": item.digest,
                "tier": item.tier,
                "decided_by": item.decided_by,
                "entry": dict(item.entry),
            }
            adapters.setdefault(item.reference, []).append(record)
        document = {"version": _VERSION, "adapters": adapters}
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()

    def _read(self) -> dict[str, Locked]:
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise AdapterHubError(
                f"{self.path} cannot be read: {error}.", hint="Restore it from version control, or lock again."
            ) from error
        try:
            if document["version"] != _VERSION:
                raise AdapterHubError(
                    f"{self.path} has version {document['version']!r}; this client reads version {_VERSION}.",
                    hint="Upgrade adapterhub-client, or lock again.",
                )
            locked = [
                Locked(
                    reference=reference,
                    hub=str(record["hub"]),
                    hub_url=str(record["hub_url"]),
                    adapter=str(record["adapter"]),
                    version=str(record["version"]),
                    digest=str(record["digest"]),
                    entry=dict(record["entry"]),
                    tier=str(record["tier"]),
                    decided_by=str(record["decided_by"]),
                    context={key: record[key] for key in _CONTEXT if key in record},
                )
                for reference, records in document["adapters"].items()
                for record in records
            ]
            return {context_key(item.reference, item.context): item for item in locked}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise AdapterHubError(
                f"{self.path} is no lock file: {type(error).__name__} {error}.",
                hint="Restore it from version control, or lock again.",
            ) from error


def _model_option(context: Mapping[str, Any]) -> str:
    return f" --model {context['model_name']}" if context.get("model_name") else ""
