"""Index files: one JSON line per published version, and where a line is found by name, by task and by word.

    /index/config.json                    what the hub is and where its bytes are
    /index/aliases.json                   the hub's alias table
    /index/ns/<ab>/<ns>/<name>.jsonl      every version of @ns/name, oldest first
    /index/k/<hhhh>.jsonl                 the versions for the (model, task, subtask) that hash to hhhh, with the default
                                          pointers, and other spellings of tasks and subtasks (aliases, segment prefixes)
    /index/w/<hhhh>.jsonl                 for the (model, word) that hash to hhhh: the tasks and subtasks the word finds
    /index/k/<hhhh>/<ns>.jsonl            of what is too much for one file: the lines of one namespace; also under w
    /index/a/<hhhh>.jsonl                 every line of a k file that is split
    /index/m/<hhhh>.json                  for the models that hash to hhhh: all their tasks and subtasks
    /index/list.json, /index/list/….jsonl every adapter with its default version: in static copies, which cannot search

A line never changes but for `yanked`, `yanked_reason`, `default_version` and `status`. This module reads lines and knows the
paths; `index_files` makes the files of a catalogue, `lookup` resolves references over them. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias

from adapterhub.spec.errors import InvalidManifestError
from adapterhub.spec.reference import fold

__all__ = [
    "INDEX_VERSION",
    "Defaults",
    "IndexEntry",
    "IndexFile",
    "WordLine",
    "all_path",
    "bucket_of",
    "bucket_path",
    "list_path",
    "model_bucket_of",
    "model_path",
    "namespace_path",
    "page_path",
    "parse_bucket",
    "parse_file",
    "read_lines",
    "segment_prefixes",
    "word_bucket_of",
    "word_path",
    "write_lines",
]

#: Version of the line format. Readers skip lines of a later version.
INDEX_VERSION = 1

#: Default pointers: (model name, task, subtask) → "@namespace/name". Task and subtask are compared folded.
Defaults: TypeAlias = Mapping[tuple[str, str, str], str]

_STATUSES = ("available", "unavailable")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One published version of one adapter, as far as finding and choosing it needs.

    Attributes:
        namespace: the publisher, as spelt by the hub.
        name: the adapter's name, unique (folded) within the namespace.
        version: immutable once published; compared exactly.
        model_name: the base model it was made for; compared exactly.
        task: first half of its path; empty for an adapter that only its name finds.
        subtask: second half of its path, or empty.
        digest: `sha256:…` of the manifest; None while the hub has no manifest for it.
        type: `text_task`, `text_lang`, ….
        method: `bottleneck`, `lora`, ….
        using: the preset or architecture it names, or None.
        config: the expanded config.
        config_id: `sha256:…` of the config.
        legacy_config_id: 16 hex digits of the 2020 hub, or None.
        default_version: the version its owner set as default; None means the newest that is not yanked.
        hidden_size: of the base model.
        license: SPDX expression.
        language: BCP 47 tag.
        size: bytes of all files together.
        created_at: RFC 3339 time.
        yanked: hidden from references that pin neither version nor digest.
        yanked_reason: why.
        files: downloads recorded by the 2020 hub: url, sha1, sha256, score.
        status: `available`, or `unavailable` while the bytes are missing.
    """

    namespace: str
    name: str
    version: str
    model_name: str
    task: str
    subtask: str
    digest: str | None = None
    type: str = "text_task"
    method: str = "bottleneck"
    using: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    config_id: str | None = None
    legacy_config_id: str | None = None
    default_version: str | None = None
    hidden_size: int | None = None
    license: str | None = None
    language: str | None = None
    size: int | None = None
    created_at: str | None = None
    yanked: bool = False
    yanked_reason: str | None = None
    files: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    status: str = "available"

    @property
    def id(self) -> str:
        """`task/subtask@namespace`, or `@namespace/name` where there is no task."""
        return f"{self.task}/{self.subtask}@{self.namespace}" if self.task else self.adapter

    @property
    def adapter(self) -> str:
        """`@namespace/name`."""
        return f"@{self.namespace}/{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The entry as a JSON object; members that have their default value are left out."""
        document: dict[str, Any] = {"v": INDEX_VERSION}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if default is _REQUIRED or value != default:
                document[name] = value
        if "config" in document:
            document["config"] = dict(self.config)
        if "files" in document:
            document["files"] = [dict(file) for file in self.files]
        return document

    def to_json_line(self) -> str:
        """The entry as one line of JSON, without the line end."""
        return json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> IndexEntry:
        """The entry a JSON object stands for. Unknown members are ignored, so that the format can grow.

        Raises:
            InvalidManifestError: a required member is missing, or one has the wrong type.
        """
        if not isinstance(document, Mapping):
            raise InvalidManifestError(f"An index entry is a JSON object, not {type(document).__name__}.")
        values: dict[str, Any] = {}
        for name, value in document.items():
            kind = _TYPES.get(name)
            if kind is None or value is None:
                continue
            if not isinstance(value, kind) or (value is True or value is False) is not (kind is bool):
                raise InvalidManifestError(
                    f"{name!r} of the index entry {_name_of(document)} is {type(value).__name__}, not {_KIND[kind]}."
                )
            values[name] = value
        missing = [name for name in _REQUIRED_NAMES if name not in values]
        if missing:
            raise InvalidManifestError(f"The index entry {_name_of(document)} has no {missing[0]!r}.")
        if values.get("status", "available") not in _STATUSES:
            raise InvalidManifestError(
                f"'status' of the index entry {_name_of(document)} is {values['status']!r}, not one of {', '.join(_STATUSES)}."
            )
        for name in ("digest", "config_id"):
            if name in values and not _DIGEST.fullmatch(values[name]):
                raise InvalidManifestError(
                    f"{name!r} of the index entry {_name_of(document)} is not sha256: and 64 hex digits in lower case."
                )
        if "files" in values:
            if not all(isinstance(file, Mapping) for file in values["files"]):
                raise InvalidManifestError(f"'files' of the index entry {_name_of(document)} is no list of objects.")
            values["files"] = tuple(values["files"])
        return cls(**values)


_REQUIRED = object()
_DEFAULTS: dict[str, Any] = {
    item.name: _REQUIRED
    if item.name in ("namespace", "name", "version", "model_name", "task", "subtask", "type", "method")
    else item.default
    for item in fields(IndexEntry)
}
_DEFAULTS["config"] = {}
_REQUIRED_NAMES = tuple(name for name, default in _DEFAULTS.items() if default is _REQUIRED)
_TYPES: dict[str, type] = dict.fromkeys(_DEFAULTS, str) | {
    "config": dict,
    "hidden_size": int,
    "size": int,
    "yanked": bool,
    "files": list,
}
_KIND = {str: "text", dict: "an object", int: "a whole number", bool: "true or false", list: "a list"}


def bucket_of(model: str, task: str, subtask: str) -> str:
    """Four hex digits: the bucket of (model, task, subtask), from the sha256 of the folded three joined by line feeds."""
    return _hash(model, task, subtask)


def word_bucket_of(model: str, word: str) -> str:
    """Four hex digits: the bucket of (model, word)."""
    return _hash(model, word)


def model_bucket_of(model: str) -> str:
    """Four hex digits: the bucket of a model."""
    return _hash(model)


def namespace_path(namespace: str, name: str) -> str:
    """Path of the lines of `@namespace/name`. The parts are folded; the caller percent-encodes `+` in a URL."""
    key = fold(namespace)
    return f"/index/ns/{key[:2]}/{key}/{fold(name)}.jsonl"


def bucket_path(model: str, task: str, subtask: str) -> str:
    """Path of the bucket file that holds the lines of (model, task, subtask)."""
    return f"/index/k/{bucket_of(model, task, subtask)}.jsonl"


def word_path(model: str, word: str) -> str:
    """Path of the file that holds what `word` finds for `model`."""
    return f"/index/w/{word_bucket_of(model, word)}.jsonl"


def model_path(model: str) -> str:
    """Path of the file that holds all tasks and subtasks of `model`."""
    return f"/index/m/{model_bucket_of(model)}.json"


def all_path(model: str, task: str, subtask: str) -> str:
    """Path of the file that holds every line of the bucket of (model, task, subtask), where its bucket file is split."""
    return f"/index/a/{bucket_of(model, task, subtask)}.jsonl"


def list_path(namespace: str, name: str, digits: int) -> str:
    """Path of the file that lists `@namespace/name`, where the list is in 16^digits parts."""
    return f"/index/list/{_hash(namespace, name)[:digits] or 'all'}.jsonl"


def page_path(path: str, namespace: str) -> str:
    """Path of the lines of one namespace in a bucket file or word file that is split."""
    return f"{path.removesuffix('.jsonl')}/{fold(namespace)}.jsonl"


def segment_prefixes(key: str) -> list[str]:
    """The folded key and each of its leading runs of segments: `exam-maths-1` gives `exam-maths-1`, `exam-maths`, `exam`."""
    key = fold(key)
    return [key, *(key[:at] for at in range(len(key) - 1, 0, -1) if key[at] == "-")]


def write_lines(entries: Iterable[IndexEntry]) -> str:
    """The entries as JSON lines, in the order given."""
    return "".join(f"{entry.to_json_line()}\n" for entry in entries)


def read_lines(text: str) -> list[IndexEntry]:
    """The entries of a JSON-lines file. Lines of a later format version and default pointers are skipped.

    Raises:
        InvalidManifestError: a line is no JSON object or no entry; the message has its number.
    """
    return parse_bucket(text)[0]


class WordLine(NamedTuple):
    """What a word, or a spelling `task/subtask`, finds for a model.

    Attributes:
        pairs: [task, subtask, type] it finds by equality, alias or segment prefix.
        yanked: those of which there are only yanked versions.
        aliases: what the hub's alias table makes of it, in the order to try, as far as there is anything of it.
        split: whether the file has a page for each namespace.
    """

    pairs: list[tuple[str, str, str]]
    yanked: list[tuple[str, str, str]]
    aliases: list[str]
    split: bool


class IndexFile:
    """The lines of an index file.

    Attributes:
        entries: the versions, in the order of the file.
        defaults: default pointers, (model, task, subtask) → "@namespace/name".
        counts: (model, folded task, folded subtask) → type → (adapters with a version that is not yanked, all adapters), for
            those of whose lines the file holds a part.
        words: (model, folded word or `task/subtask`) → what it finds.
    """

    __slots__ = ("counts", "defaults", "entries", "words")

    def __init__(self) -> None:
        self.entries: list[IndexEntry] = []
        self.defaults: dict[tuple[str, str, str], str] = {}
        self.counts: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = {}
        self.words: dict[tuple[str, str], WordLine] = {}


def parse_file(data: bytes | str | None) -> IndexFile:
    """The lines of an index file; None (there is no such file) gives nothing. Lines of a later format version are skipped.

    Raises:
        InvalidManifestError: a line is no JSON object or none of an index file; the message has its number.
    """
    found = IndexFile()
    for number, document in _objects(data if isinstance(data, str) else _text(data)):
        try:
            if "word" in document:
                model, word = _texts(document, "model_name", "word")
                found.words[model, word] = WordLine(
                    _triples(document.get("pairs")),
                    _triples(document.get("yanked")),
                    [str(target) for target in document.get("aliases") or ()],
                    document.get("split") is True,
                )
            elif "counts" in document:
                model, task, subtask = _texts(document, "model_name", "task", "subtask")
                found.counts[model, fold(task), fold(subtask)] = _counts(document["counts"])
            elif document.get("default") is not None:
                model, task, subtask, pointer = _texts(document, "model_name", "task", "subtask", "default")
                found.defaults[model, task, subtask] = pointer
            else:
                found.entries.append(IndexEntry.from_json(document))
        except InvalidManifestError as error:
            raise InvalidManifestError(f"Line {number}: {error.message}") from error
    return found


def parse_bucket(text: str) -> tuple[list[IndexEntry], dict[tuple[str, str, str], str]]:
    """The entries and default pointers of a bucket file (or of any file of index lines).

    Raises:
        InvalidManifestError: a line is no JSON object or no entry; the message has its number.
    """
    found = parse_file(text)
    return found.entries, found.defaults


def _texts(document: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    values = tuple(document.get(name) for name in names)
    if not all(isinstance(value, str) for value in values):
        raise InvalidManifestError(f"{', '.join(names)} are not all text.")
    return values  # type: ignore[return-value]


def _triples(pairs: Any) -> list[tuple[str, str, str]]:
    found = []
    for pair in pairs or ():
        if not (isinstance(pair, list) and len(pair) >= 3 and all(isinstance(part, str) for part in pair[:3])):
            raise InvalidManifestError("A word lists [task, subtask, type].")
        found.append((pair[0], pair[1], pair[2]))
    return found


def _counts(counts: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(counts, Mapping) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        for pair in counts.values()
    ):
        raise InvalidManifestError("'counts' is an object from types to two whole numbers.")
    return {kind: (pair[0], pair[1]) for kind, pair in counts.items()}


def _objects(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidManifestError(f"Line {number} of the index file is no JSON: {error}.") from error
        if not isinstance(document, dict):
            raise InvalidManifestError(f"Line {number} of the index file is no JSON object.")
        version = document.get("v", INDEX_VERSION)
        if isinstance(version, int) and version <= INDEX_VERSION:
            yield number, document


def _text(data: bytes | None) -> str:
    try:
        return (data or b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidManifestError(f"The index file is not UTF-8: {error}.") from error


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(fold(part) for part in parts).encode("utf-8", "surrogatepass")).hexdigest()[:4]


def _dump(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _name_of(document: Mapping[str, Any]) -> str:
    return f"@{document.get('namespace', '?')}/{document.get('name', '?')}:{document.get('version', '?')}"
