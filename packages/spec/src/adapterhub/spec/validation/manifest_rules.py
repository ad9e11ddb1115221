"""Rules between the members of a manifest: what no single member can tell (SPEC.md 12).

They work on the JSON document and pass over members of the wrong type, which the schema tells, so that all problems of a
manifest are found at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adapterhub.spec.canonical import canonical_json
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.validation.problem import Problem

if TYPE_CHECKING:
    from adapterhub.spec.config import AdapterConfig

__all__ = ["inconsistencies"]

MAX_TOLD = 20


def inconsistencies(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Every problem between the members of a manifest."""
    yield from _task(document)
    yield from _files(document)
    yield from _config(document)
    head = document.get("head")
    if isinstance(head, Mapping):
        from adapterhub.spec.heads import parse_head

        yield from _expanded(head, "/head", parse_head)


def _task(document: Mapping[str, Any]) -> Iterator[Problem]:
    absent = [name for name in ("task", "subtask") if document.get(name) is None]
    if len(absent) == 1:
        yield Problem(f"/{absent[0]}", "is missing: task and subtask are given both or not at all")


def _files(document: Mapping[str, Any]) -> Iterator[Problem]:
    files, tensors = (_objects(document.get(name)) for name in ("files", "tensors"))
    seen: dict[str, str] = {}
    for number, record in files:
        path = record.get("path")
        if isinstance(path, str):
            other = seen.setdefault(path.lower(), path)
            if other is not path:
                yield Problem(f"/files/{number}/path", f"is also that of {other!r} (upper and lower case count as one)")
    known = {record.get("path") for _, record in files if isinstance(record.get("path"), str)}
    listed: set[tuple[str, str]] = set()
    told = 0
    for number, record in tensors:
        file, name = record.get("file"), record.get("name")
        if not isinstance(file, str) or not isinstance(name, str) or told == MAX_TOLD:
            continue
        if file not in known:
            told += 1
            yield Problem(f"/tensors/{number}/file", f"{file!r} is not among the files")
        if (file, name) in listed:
            told += 1
            yield Problem(f"/tensors/{number}/name", f"{name!r} is listed twice")
        listed.add((file, name))


def _objects(value: Any) -> list[tuple[int, Mapping[str, Any]]]:
    items = value if isinstance(value, (list, tuple)) else ()
    return [(number, item) for number, item in enumerate(items) if isinstance(item, Mapping)]


def _config(document: Mapping[str, Any]) -> Iterator[Problem]:
    config = document.get("config")
    if not isinstance(config, Mapping):
        return
    if not isinstance(config.get("method"), str):
        yield Problem("/config/method", "is missing", "A manifest holds the expanded config.")
        return
    from adapterhub.spec.config import parse_config

    parsed: list[AdapterConfig] = []

    def kept(fields: Any) -> AdapterConfig:
        parsed.append(parse_config(fields))
        return parsed[0]

    yield from _expanded(config, "/config", kept)
    if "method" in document and document["method"] != config["method"]:
        yield Problem("/method", f"is {document['method']!r}, the config says {config['method']!r}")
    if parsed and "config_id" in document and document["config_id"] != parsed[0].config_id:
        yield Problem("/config_id", f"does not belong to the config, whose id is {parsed[0].config_id}")


def _expanded(fields: Mapping[str, Any], pointer: str, parse: Callable[[Any], Any]) -> Iterator[Problem]:
    try:
        parsed = parse(dict(fields))
    except InvalidConfigError as error:
        for item in error.details.get("problems") or [{"pointer": "", "message": error.message}]:
            yield Problem(f"{pointer}{str(item['pointer']).rstrip('/')}", str(item["message"]))
        return
    except (TypeError, ValueError) as error:
        yield Problem(pointer, str(error))
        return
    if canonical_json(parsed.expand()) != canonical_json(fields):
        missing = sorted(set(parsed.expand()) - set(fields))
        told = f": {', '.join(missing)} missing" if missing else ""
        yield Problem(pointer, f"is not in its expanded form{told}", "Write every field out, in its normal form.")
