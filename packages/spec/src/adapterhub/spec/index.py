"""Index files: one JSON line per published version, and where a line is found by name, by task and by word.

    /index/config.json                    what the hub is and where its bytes are
    /index/ns/<ab>/<ns>/<name>.jsonl      every version of @ns/name, oldest first
    /index/k/<hhhh>.jsonl                 every version for the (model, task, subtask) that hash to hhhh, with the default pointers
    /index/w/<hhhh>.jsonl                 for the (model, word) that hash to hhhh: the tasks and subtasks the word finds
    /index/m/<hhhh>.json                  for the models that hash to hhhh: all their tasks and subtasks
    /index/aliases.json                   the hub's alias table

A line never changes but for `yanked`, `yanked_reason`, `default_version` and `status`. `build_index` makes all files of a
catalogue; `lookup` says which ones a reference needs, so that clients of any transport ask for the same. Standard library
only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from adapterhub.spec.errors import InvalidManifestError
from adapterhub.spec.reference import AdapterReference, fold

__all__ = [
    "INDEX_VERSION",
    "Defaults",
    "IndexEntry",
    "bucket_of",
    "bucket_path",
    "build_index",
    "lookup",
    "model_bucket_of",
    "model_path",
    "namespace_path",
    "parse_bucket",
    "read_lines",
    "segment_prefixes",
    "word_bucket_of",
    "word_path",
    "write_bucket",
    "write_lines",
    "write_models",
    "write_words",
]

#: Version of the line format. Readers skip lines of a later version.
INDEX_VERSION = 1

#: Default pointers: (model name, task, subtask) → "@namespace/name". Task and subtask are compared folded.
Defaults: TypeAlias = Mapping[tuple[str, str, str], str]

_STATUSES = ("available", "unavailable")


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


def write_bucket(entries: Iterable[IndexEntry], defaults: Defaults | None = None) -> str:
    """A bucket file: the default pointers of the entries' (model, task, subtask) first, then the entries."""
    entries = list(entries)
    keys = {(entry.model_name, fold(entry.task), fold(entry.subtask)) for entry in entries}
    pointers = sorted(
        (model, task, subtask, adapter)
        for (model, task, subtask), adapter in (defaults or {}).items()
        if (model, fold(task), fold(subtask)) in keys
    )
    lines = [
        _dump({"v": INDEX_VERSION, "default": adapter, "model_name": model, "task": task, "subtask": subtask})
        for model, task, subtask, adapter in pointers
    ]
    return "".join(f"{line}\n" for line in lines) + write_lines(entries)


def parse_bucket(text: str) -> tuple[list[IndexEntry], dict[tuple[str, str, str], str]]:
    """The entries and default pointers of a bucket file (or of any file of index lines).

    Raises:
        InvalidManifestError: a line is no JSON object or no entry; the message has its number.
    """
    entries: list[IndexEntry] = []
    defaults: dict[tuple[str, str, str], str] = {}
    for number, document in _objects(text):
        pointer = document.get("default")
        try:
            if pointer is None:
                entries.append(IndexEntry.from_json(document))
            else:
                key = (document.get("model_name"), document.get("task"), document.get("subtask"))
                if not isinstance(pointer, str) or not all(isinstance(part, str) for part in key):
                    raise InvalidManifestError("The default pointer is not made of text.")
                defaults[key] = pointer  # type: ignore[index]
        except InvalidManifestError as error:
            raise InvalidManifestError(f"Line {number}: {error.message}") from error
    return entries, defaults


def write_words(entries: Iterable[IndexEntry], *, bucket: str | None = None) -> str:
    """A word file: one line per (model, word) with the [task, subtask, type] it finds, by equality or segment prefix.

    Args:
        entries: the versions of the models concerned; more do no harm.
        bucket: only the words that hash to these four hex digits; None writes all.
    """
    found: dict[tuple[str, str], dict[tuple[str, str, str], bool]] = {}
    for entry in entries:
        pair = (entry.task, entry.subtask, entry.type)
        for word in {*segment_prefixes(entry.task), *segment_prefixes(entry.subtask)} - {""}:
            if bucket is None or word_bucket_of(entry.model_name, word) == bucket:
                pairs = found.setdefault((entry.model_name, word), {})
                pairs[pair] = pairs.get(pair, False) or not entry.yanked
    return "".join(
        f"{_dump({'v': INDEX_VERSION, 'model_name': model, 'word': word, **_pair_lists(found[model, word])})}\n"
        for model, word in sorted(found)
    )


def write_models(entries: Iterable[IndexEntry], *, bucket: str | None = None) -> str:
    """A model file: for each model its [task, subtask, type], those with nothing but yanked versions apart."""
    found: dict[str, dict[tuple[str, str, str], bool]] = {}
    for entry in entries:
        if entry.task and (bucket is None or model_bucket_of(entry.model_name) == bucket):
            pairs = found.setdefault(entry.model_name, {})
            pair = (entry.task, entry.subtask, entry.type)
            pairs[pair] = pairs.get(pair, False) or not entry.yanked
    return _dump({"v": INDEX_VERSION, "models": {model: _pair_lists(found[model]) for model in sorted(found)}}) + "\n"


def build_index(
    entries: Iterable[IndexEntry],
    defaults: Defaults | None = None,
    *,
    aliases: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Every index file of a catalogue as (path, bytes), for a static export and for tests.

    Args:
        entries: all versions, in the order they were published; one that comes again replaces the earlier one.
        defaults: the default pointers.
        aliases: written to `/index/aliases.json`.
        config: written to `/index/config.json`, with `index_version` added.
    """
    entries = list({(fold(one.namespace), fold(one.name), one.version): one for one in entries}.values())
    yield "/index/config.json", f"{_dump({**(config or {}), 'index_version': INDEX_VERSION})}\n".encode()
    yield "/index/aliases.json", f"{_dump(dict(aliases or {}))}\n".encode()
    by_path: dict[str, list[IndexEntry]] = {}
    by_word: dict[str, list[str]] = {}
    by_model: dict[str, list[IndexEntry]] = {}
    for entry in entries:
        by_path.setdefault(namespace_path(entry.namespace, entry.name), []).append(entry)
        by_path.setdefault(bucket_path(entry.model_name, entry.task, entry.subtask), []).append(entry)
        by_model.setdefault(model_path(entry.model_name), []).append(entry)
    for path, lines in by_path.items():
        yield path, (write_bucket(lines, defaults) if path.startswith("/index/k/") else write_lines(lines)).encode()
    for path, lines in by_model.items():
        yield path, write_models(lines).encode()
    for line in write_words(entries).splitlines():
        document = json.loads(line)
        by_word.setdefault(word_path(document["model_name"], document["word"]), []).append(line)
    for path, texts in by_word.items():
        yield path, "".join(f"{line}\n" for line in texts).encode()


def lookup(
    reference: AdapterReference,
    *,
    model_name: str | None,
    version: str | None = None,
    type: str | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Generator[list[str], Mapping[str, bytes | None], tuple[list[IndexEntry], dict[tuple[str, str, str], str]]]:
    """Which index files a reference needs. Yields lists of paths and is sent their bytes (None where the hub has no such
    file); returns the entries and default pointers to hand to `resolve` together with the same arguments.

    `@ns/name` and `task/subtask` that match exactly take one file; a word takes its word file and one bucket per task and
    subtask found.
    """
    from adapterhub.spec.resolution import alias_targets, match_pairs

    entries: list[IndexEntry] = []
    defaults: dict[tuple[str, str, str], str] = {}
    pinned = reference.is_pinned or version is not None
    if reference.name is not None:
        path = namespace_path(reference.namespace or "", reference.name)
        return read_lines(_text((yield [path]).get(path))), defaults
    if model_name is None:
        return entries, defaults
    if reference.task is not None and reference.subtask is not None:
        path = bucket_path(model_name, reference.task, reference.subtask)
        found, pointers = parse_bucket(_text((yield [path]).get(path)))
        here = [
            entry
            for entry in found
            if entry.model_name == model_name
            and (fold(entry.task), fold(entry.subtask)) == (fold(reference.task), fold(reference.subtask))
            and (type is None or entry.type == type)
        ]
        if any(pinned or not entry.yanked for entry in here):
            return here, pointers
    words = [reference.word or reference.subtask or ""]
    words += [target.rpartition("/")[2] for target in alias_targets(reference, aliases or {})]
    paths = list(dict.fromkeys(word_path(model_name, word) for word in words))
    contents = yield paths
    pairs: set[tuple[str, str]] = set()
    for path in paths:
        for _, document in _objects(_text(contents.get(path))):
            if document.get("model_name") == model_name:
                lists = [document.get("pairs"), document.get("yanked") if pinned else ()]
                pairs.update((task, subtask) for task, subtask, kind in _triples(lists) if type in (None, kind))
    _, chosen = match_pairs(reference, pairs, aliases or {})
    keys = {(fold(task), fold(subtask)) for task, subtask in chosen}
    paths = sorted({bucket_path(model_name, task, subtask) for task, subtask in chosen})
    contents = (yield paths) if paths else {}
    for path in paths:
        found, pointers = parse_bucket(_text(contents.get(path)))
        defaults.update(pointers)
        for entry in found:
            if entry.model_name == model_name and (fold(entry.task), fold(entry.subtask)) in keys:
                entries.append(entry)
    return entries, defaults


def _triples(lists: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    for pairs in lists:
        for pair in pairs if isinstance(pairs, (list, tuple)) else ():
            if not (isinstance(pair, list) and len(pair) >= 3 and all(isinstance(part, str) for part in pair[:3])):
                raise InvalidManifestError("A word file lists [task, subtask, type].")
            yield pair[0], pair[1], pair[2]


def _pair_lists(pairs: Mapping[tuple[str, str, str], bool]) -> dict[str, list[list[str]]]:
    lists = {"pairs": [list(pair) for pair in sorted(pairs) if pairs[pair]]}
    yanked = [list(pair) for pair in sorted(pairs) if not pairs[pair]]
    return lists | ({"yanked": yanked} if yanked else {})


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
