"""A YAML reader for data: YAML 1.2 core types, one document, no tags, no anchors, no duplicate keys, bounded in size.

A plain word that YAML 1.1 and YAML 1.2 read differently (`no`, `1:30`, `010`, `2020-01-01`) is refused: whoever wrote it
has to put it in quotes. Nothing is ever constructed but str, int, float, bool, None, list and dict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from adapterhub.spec.validation.strict_json import JSONSyntaxError, pointer_of

__all__ = ["YAMLSyntaxError", "read_yaml"]

MAX_DEPTH = 20


class YAMLSyntaxError(JSONSyntaxError):
    """Text that is not the YAML accepted here."""


def read_yaml(data: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> tuple[Any, dict[str, int]]:
    """The value of one YAML document, and for each JSON pointer the line it starts on (1-based).

    Raises:
        YAMLSyntaxError: the text is no YAML of the kind accepted here, or breaks a limit.
    """
    if len(data) > max_bytes:
        raise YAMLSyntaxError(f"{len(data):,} bytes are more than the {max_bytes:,} allowed here")
    text = _decode(data)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        events = yaml.parse(text, Loader=loader)
        return _compose(_without_tabs(events, text) if "\t" in text else events, max_depth)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLSyntaxError(f"not YAML: {error.problem}", line=mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise YAMLSyntaxError(f"not YAML: {str(error).splitlines()[0]}") from None


def _decode(data: bytes) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:4]:
        raise YAMLSyntaxError("the file is not plain UTF-8 (byte order mark or UTF-16)", line=1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YAMLSyntaxError(f"byte {error.start} is not UTF-8", line=line, hint="Save the file as UTF-8.") from None
    match = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u0085\u2028\u2029\ufeff\ufffe\uffff]", text)
    if match:
        line = text.count("\n", 0, match.start()) + 1
        raise YAMLSyntaxError(f"the control character U+{ord(match.group()):04X}", line=line)
    return text


def _without_tabs(events: Iterable[Any], text: str) -> Iterator[Any]:
    """The events, unless a tab stands outside of quotes, block texts and comments: there YAML readers disagree about it."""
    reached = 0
    for event in events:
        plain = isinstance(event, yaml.ScalarEvent) and not event.style
        until = event.end_mark.index if plain else event.start_mark.index
        if "\t" in re.sub("#.*", "", text[reached:until]):
            raise YAMLSyntaxError("a tab outside of quotes", line=event.start_mark.line + 1, hint="Use blanks.")
        reached = max(reached, event.end_mark.index)
        yield event


class _Open:
    """A mapping or sequence under construction."""

    __slots__ = ("key", "pending", "pointer", "value")

    def __init__(self, value: Any, pointer: tuple[str | int, ...]) -> None:
        self.value = value
        self.pointer = pointer
        self.key: str = ""
        self.pending = False  # a key was read, its value is due


def _compose(events: Iterable[Any], max_depth: int) -> tuple[Any, dict[str, int]]:
    lines: dict[str, int] = {}
    stack: list[_Open] = []
    root: list[Any] = []
    documents = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise YAMLSyntaxError("a second document starts", line=line, hint="One file holds one document.")
            if event.tags:
                raise YAMLSyntaxError("%TAG directives are not accepted", line=line)
        elif isinstance(event, yaml.AliasEvent):
            raise YAMLSyntaxError("aliases (*name) are not accepted", line=line, hint="Write the value out.")
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            _check_node(event, line)
            if isinstance(event, yaml.ScalarEvent):
                if stack and isinstance(stack[-1].value, dict) and not stack[-1].pending:
                    _key(stack[-1], event, lines, line)
                else:
                    _put(stack, root, _scalar(event, line), lines, line)
                continue
            if stack and isinstance(stack[-1].value, dict) and not stack[-1].pending:
                raise YAMLSyntaxError("a key that is not text", line=line)
            if len(stack) >= max_depth:
                raise YAMLSyntaxError(f"nested more than {max_depth} deep", line=line)
            value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            stack.append(_Open(value, _put(stack, root, value, lines, line)))
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
    if not root:
        raise YAMLSyntaxError("the document is empty", line=1)
    return root[0], lines


def _check_node(event: Any, line: int) -> None:
    if event.anchor is not None:
        raise YAMLSyntaxError(
            "anchors (&name) are not accepted", line=line, hint="Write the value out where it is used."
        )
    if event.tag is not None:
        raise YAMLSyntaxError(
            f"the tag {event.tag[:60]!r} is not accepted",
            line=line,
            hint="Plain text, numbers, lists and maps need none.",
        )


def _key(top: _Open, event: Any, lines: dict[str, int], line: int) -> None:
    key = _scalar(event, line)
    if not isinstance(key, str):
        raise YAMLSyntaxError(f"the key {event.value[:60]!r} is not text", line=line, hint="Put it in quotes.")
    pointer = pointer_of((*top.pointer, key))
    if key in top.value:
        raise YAMLSyntaxError(
            f"the key {key[:60]!r} is given twice", line=line, pointer=pointer, hint="Keep one of the two."
        )
    top.key, top.pending = key, True
    lines[pointer] = line


def _put(stack: list[_Open], root: list[Any], value: Any, lines: dict[str, int], line: int) -> tuple[str | int, ...]:
    if not stack:
        root.append(value)
        lines[""] = line
        return ()
    top = stack[-1]
    if isinstance(top.value, dict):
        top.value[top.key] = value
        top.pending = False
        return (*top.pointer, top.key)
    top.value.append(value)
    pointer = (*top.pointer, len(top.value) - 1)
    lines[pointer_of(pointer)] = line
    return pointer


# --- plain scalars under YAML 1.2 (core schema) and YAML 1.1 ---------------------------------------------------------

_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL_12 = re.compile(r"true|True|TRUE|false|False|FALSE")
_BOOL_11 = re.compile(r"[yY]|[nN]|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|" + _BOOL_12.pattern)
_INT_12 = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_INT_11 = re.compile(
    r"[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"
)
_FLOAT_12 = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_FLOAT_11 = re.compile(
    r"[-+]?(?:[0-9][0-9_]*)?\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*"
)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_TIME_11 = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
    r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?"
)


def _scalar(event: Any, line: int) -> Any:
    text: str = event.value
    if not text.isascii() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise YAMLSyntaxError("the escape of a lone surrogate", line=line)
    if not event.implicit[0]:  # quoted or a block scalar: text
        return text
    if len(text) > 64:  # nothing but text is that long, and the patterns below need not see it
        if re.fullmatch(r"[-+]?[0-9._eE+-]+", text):
            raise YAMLSyntaxError(f"a number of {len(text):,} characters", line=line)
        return text
    old, new = _kind_11(text), _kind_12(text)
    if "nan" in (old, new):
        raise YAMLSyntaxError(f"{text} is not a finite number", line=line)
    if old != new or (new in ("int", "float") and _differs(text)):
        raise YAMLSyntaxError(
            f"{text!r} means one thing in YAML 1.1 and another in YAML 1.2",
            line=line,
            hint=f'Put it in quotes if it is text: "{text}".',
        )
    if new == "null":
        return None
    if new == "bool":
        return text.lower() == "true"
    if new == "int":
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    if new == "float":
        number = float(text)
        if not math.isfinite(number):
            raise YAMLSyntaxError(f"{text} is beyond the range of a double", line=line)
        return number
    return text


def _kind_12(text: str) -> str:
    for kind, pattern in (
        ("null", _NULL),
        ("bool", _BOOL_12),
        ("int", _INT_12),
        ("float", _FLOAT_12),
        ("nan", _NOT_FINITE),
    ):
        if pattern.fullmatch(text):
            return kind
    return "text"


def _kind_11(text: str) -> str:
    if text in ("<<", "="):
        return "special"
    if text in (".", "-.", "+."):
        return "text"
    for kind, pattern in (
        ("null", _NULL),
        ("bool", _BOOL_11),
        ("int", _INT_11),
        ("float", _FLOAT_11),
        ("nan", _NOT_FINITE),
        ("time", _TIME_11),
    ):
        if pattern.fullmatch(text):
            return kind
    return "text"


def _differs(text: str) -> bool:
    """Whether both read a number, but not the same: `010` is 8 in YAML 1.1 and 10 in YAML 1.2."""
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_" and "." not in digits
