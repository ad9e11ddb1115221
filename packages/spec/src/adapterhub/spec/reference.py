"""References: the short text that names an adapter, such as `sentiment/sst-2@ukp:1.0`, parsed and written.

    ref  := [ hub "::" ] ( "@" ns "/" name | path ) [ ":" version ] [ "@sha256:" hex64 ]
    path := task "/" subtask [ "@" ns ] | word [ "@" ns ]

Every part is ASCII letters, digits, `.`, `_`, `-` and `+`, starting with a letter or digit. Case does not matter outside
the version, and `-`, `_`, `.` are one key when names are compared (`fold`). The whole text must match. Standard library
only: the client imports this before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapterhub.spec.errors import InvalidReferenceError

__all__ = ["MAX_LENGTH", "AdapterReference", "fold", "format_reference", "parse_reference"]

#: A reference has at most this many characters.
MAX_LENGTH = 512

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME = _ALNUM | frozenset("._-+")
_HEX = frozenset("0123456789abcdef")
_LOWER: dict[int, int | str] = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_FOLD: dict[int, int | str] = {**_LOWER, ord("_"): "-", ord("."): "-"}
_DIGEST_MARK = "@sha256:"
_GRAMMAR = (
    "A reference looks like task/subtask, word, task/subtask@namespace or @namespace/name, with an optional :version."
)


@dataclass(frozen=True, slots=True)
class AdapterReference:
    """A parsed reference. Either `namespace` and `name` are set, or `task` and `subtask`, or `word`; a path may carry a
    `namespace` as well. Names are in ASCII lower case with their separators kept; `version` is verbatim.

    Attributes:
        hub: the hub alias before `::`.
        namespace: the publisher.
        name: the adapter's name within its namespace (`@namespace/name`).
        task: first half of a path.
        subtask: second half of a path.
        word: a path without `/`: a task or a subtask.
        version: the version asked for; compared exactly.
        digest: `sha256:` and 64 hex digits.
    """

    hub: str | None = None
    namespace: str | None = None
    name: str | None = None
    task: str | None = None
    subtask: str | None = None
    word: str | None = None
    version: str | None = None
    digest: str | None = None

    @property
    def is_direct(self) -> bool:
        """Whether it addresses one adapter as `@namespace/name`."""
        return self.name is not None

    @property
    def path(self) -> str | None:
        """`task/subtask` or the word; None for `@namespace/name`."""
        return f"{self.task}/{self.subtask}" if self.task is not None else self.word

    @property
    def is_pinned(self) -> bool:
        """Whether it names a version or a digest, so that it also reaches yanked versions."""
        return self.version is not None or self.digest is not None

    def __str__(self) -> str:
        return format_reference(self)


def fold(text: str) -> str:
    """The key under which names are compared: ASCII lower case, and `_` and `.` become `-`. Character by character, so
    repeated separators stay; `+` stays; characters outside ASCII stay as they are."""
    return text.translate(_FOLD)


def parse_reference(text: str | AdapterReference) -> AdapterReference:
    """`text` as a reference. A reference already parsed is returned as it is.

    Raises:
        InvalidReferenceError: the whole text does not match the grammar; the message says which part does not.
    """
    if isinstance(text, AdapterReference):
        return text
    if not isinstance(text, str):
        raise InvalidReferenceError(f"A reference is text, not {type(text).__name__}.", hint=_GRAMMAR)
    if len(text) > MAX_LENGTH:
        raise InvalidReferenceError(
            f"A reference has at most {MAX_LENGTH} characters; this one has {len(text)}.", hint=_GRAMMAR
        )
    rest = text
    hub: str | None = None
    head, double_colon, tail = rest.partition("::")
    if double_colon:
        hub, rest = _part(head, "hub", text), tail
    rest, digest = _split_digest(rest, text)
    if rest.startswith("@"):
        head, _, version = rest[1:].partition(":")
        namespace, slash, name = head.partition("/")
        if not slash:
            raise _invalid(text, "'@' at the start is followed by namespace/name")
        return AdapterReference(
            hub=hub,
            namespace=_namespace(namespace, text),
            name=_part(name, "name", text),
            version=_version(rest, version, text),
            digest=digest,
        )
    head, _, version = rest.partition(":")
    path, at, namespace = head.partition("@")
    task, slash, subtask = path.partition("/")
    return AdapterReference(
        hub=hub,
        namespace=_namespace(namespace, text) if at else None,
        task=_part(task, "task", text) if slash else None,
        subtask=_part(subtask, "subtask", text) if slash else None,
        word=None if slash else _part(task, "word", text),
        version=_version(rest, version, text),
        digest=digest,
    )


def format_reference(reference: AdapterReference) -> str:
    """The text of `reference`; `parse_reference` gives the same reference back.

    Raises:
        InvalidReferenceError: the parts together are no reference (no path and no name, a task without a subtask, a part
            outside the alphabet).
    """
    parts = [f"{reference.hub}::"] if reference.hub is not None else []
    if reference.name is not None:
        parts.append(f"@{reference.namespace or ''}/{reference.name}")
    else:
        parts.append(reference.path or "")
        if reference.namespace is not None:
            parts.append(f"@{reference.namespace}")
    if reference.version is not None:
        parts.append(f":{reference.version}")
    if reference.digest is not None:
        parts.append(f"@{reference.digest}")
    text = "".join(parts)
    again = parse_reference(text)
    if again != reference and _lowered(reference) != again:
        raise InvalidReferenceError(f"The parts {reference!r} do not make one reference ({text!r}).", hint=_GRAMMAR)
    return format_reference(again) if again != reference else text


def _lowered(reference: AdapterReference) -> AdapterReference:
    def low(text: str | None) -> str | None:
        return text.translate(_LOWER) if text is not None else None

    return AdapterReference(
        hub=low(reference.hub),
        namespace=low(reference.namespace),
        name=low(reference.name),
        task=low(reference.task),
        subtask=low(reference.subtask),
        word=low(reference.word),
        version=reference.version,
        digest=low(reference.digest),
    )


def _split_digest(rest: str, text: str) -> tuple[str, str | None]:
    at = rest.translate(_LOWER).find(_DIGEST_MARK)
    if at < 0:
        return rest, None
    digits = rest[at + len(_DIGEST_MARK) :].translate(_LOWER)
    if len(digits) != 64 or not _HEX.issuperset(digits):
        raise _invalid(text, "'@sha256:' is followed by exactly 64 hex digits, up to the end")
    return rest[:at], f"sha256:{digits}"


def _part(part: str, what: str, text: str) -> str:
    if not part:
        raise _invalid(text, f"the {what} is empty")
    if part[0] not in _ALNUM:
        raise _invalid(text, f"the {what} starts with a letter or digit, not {part[0]!a}")
    for letter in part:
        if letter not in _NAME:
            raise _invalid(text, f"{letter!a} cannot be part of the {what}")
    return part.translate(_LOWER)


def _namespace(part: str, text: str) -> str:
    namespace = _part(part, "namespace", text)
    if namespace == "sha256":
        raise _invalid(text, "the namespace 'sha256' is reserved for digests (@sha256:<64 hex digits>)")
    return namespace


def _version(rest: str, version: str, text: str) -> str | None:
    if ":" not in rest:
        return None
    _part(version, "version", text)
    return version


def _invalid(text: str, why: str) -> InvalidReferenceError:
    shown = ascii(text if len(text) <= 120 else f"{text[:117]}...")
    return InvalidReferenceError(f"{shown} is no reference: {why}.", hint=_GRAMMAR)
