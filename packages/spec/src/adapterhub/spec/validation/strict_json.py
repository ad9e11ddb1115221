"""A JSON reader that takes exactly RFC 8259 text and nothing else: no second meaning for the next reader to find.

Beyond `json.loads` it refuses a byte order mark, anything but UTF-8, duplicate keys, NaN and Infinity, numbers that
overflow, lone surrogates, and documents that are too large or nested too deeply.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

__all__ = ["JSONSyntaxError", "line_of_pointers", "pointer_of", "read_json"]

MAX_DEPTH = 20
MAX_INTEGER_DIGITS = 20
MAX_NUMBER_LENGTH = 400
_MAX_WALK = 256 * 1024  # longer text is not searched for the line of a problem


class JSONSyntaxError(ValueError):
    """Text that is no strict JSON. `line` is 1-based, `pointer` an RFC 6901 pointer; either may be unknown."""

    def __init__(self, message: str, *, line: int | None = None, pointer: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.pointer = pointer
        self.hint = hint


def pointer_of(parts: tuple[str | int, ...] | list[str | int]) -> str:
    """An RFC 6901 JSON pointer: `("files", 0, "a/b")` → `/files/0/a~1b`."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def read_json(
    data: bytes,
    *,
    max_bytes: int,
    max_depth: int = MAX_DEPTH,
    parse_int: Callable[[str], Any] | None = None,
) -> Any:
    """The value of one JSON document.

    Args:
        data: the whole file.
        max_bytes: longer input is refused before it is looked at.
        max_depth: how deeply arrays and objects may nest.
        parse_int: what to make of an integer's text, when not an int.

    Raises:
        JSONSyntaxError: the input is not strict JSON or breaks a limit.
    """
    if len(data) > max_bytes:
        raise JSONSyntaxError(f"{len(data):,} bytes are more than the {max_bytes:,} allowed here")
    if not data.strip(b" \t\r\n"):
        raise JSONSyntaxError("the document is empty", line=1)
    text = _decode(data)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=parse_int or _integer,
        )
    except json.JSONDecodeError as error:
        raise JSONSyntaxError(f"not JSON: {error.msg}, column {error.colno}", line=error.lineno) from None
    except RecursionError:
        raise JSONSyntaxError(f"nested more than {max_depth} deep") from None
    except _DuplicateKeyError as error:
        line, pointer = _find_duplicate(text) if len(text) <= _MAX_WALK else (None, "")
        shown = _short(error.key)
        raise JSONSyntaxError(
            f"the key {shown} is given twice",
            line=line,
            pointer=pointer,
            hint="Readers disagree which of the two counts. Keep one.",
        ) from None
    except _NumberError as error:
        raise JSONSyntaxError(str(error), line=_line_of(text, error.text)) from None
    _check(value, max_depth)
    return value


def _decode(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise JSONSyntaxError("the file starts with a byte order mark", line=1, hint="Save it as UTF-8 without one.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:4]:
        raise JSONSyntaxError("the file is UTF-16 or UTF-32", line=1, hint="Save it as UTF-8.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JSONSyntaxError(f"byte {error.start} is not UTF-8", line=line, hint="Save the file as UTF-8.") from None


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _NumberError(Exception):
    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return found


def _constant(text: str) -> Any:
    raise _NumberError(f"{text} is no JSON number", text)


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise _NumberError(f"an integer of {len(text):,} digits", text)
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_NUMBER_LENGTH:
        raise _NumberError(f"a number of {len(text):,} characters", text)
    number = float(text)
    if not math.isfinite(number):
        raise _NumberError(f"{text} is beyond the range of a double", text)
    return number


def _check(value: Any, max_depth: int) -> None:
    """Depth and lone surrogates, without recursion."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if any(isinstance(item, (dict, list)) for item in level):
            depth += 1
            if depth > max_depth:
                raise JSONSyntaxError(f"nested more than {max_depth} deep")
        level = below


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise JSONSyntaxError(f"{_short(text)} holds the escape of a lone surrogate") from None


def _short(text: str, limit: int = 60) -> str:
    shown = ascii(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 2]}…'"


def _line_of(text: str, part: str) -> int:
    at = text.find(part)
    return text.count("\n", 0, max(at, 0)) + 1


# --- where things are: a token walk used only once something is wrong ---------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)


def line_of_pointers(text: str) -> dict[str, int]:
    """Every JSON pointer of a well-formed document with the line its key or element starts on (1-based).

    Empty for documents too long to be worth it.
    """
    if len(text) > _MAX_WALK:
        return {}
    return {pointer: line for pointer, line, _ in _walk(text)}


def _find_duplicate(text: str) -> tuple[int | None, str]:
    for pointer, line, repeated in _walk(text):
        if repeated:
            return line, pointer
    return None, ""


def _walk(text: str) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = [("", 1, False)]
    seen: set[str] = set()
    stack: list[list[Any]] = []  # [pointer of the container, next index or None for objects, pending key]
    line, last = 1, 0

    def enter(at_line: int) -> str:
        if not stack:
            return ""
        top = stack[-1]
        if top[1] is None:
            return str(top[2])
        pointer = f"{top[0]}/{top[1]}"
        found.append((pointer, at_line, False))
        top[1] += 1
        return pointer

    tokens = list(_TOKEN.finditer(text))
    for number, match in enumerate(tokens):
        line += text.count("\n", last, match.start())
        last = match.start()
        token = match.group()
        if token in "{[":
            stack.append([enter(line), None if token == "{" else 0, ""])
        elif token in "}]":
            if stack:
                stack.pop()
        elif token in ",:":
            continue
        elif stack and stack[-1][1] is None and number + 1 < len(tokens) and tokens[number + 1].group() == ":":
            try:
                key = json.loads(token, strict=False)
            except ValueError:
                key = token
            pointer = f"{stack[-1][0]}{pointer_of((str(key),))}"
            stack[-1][2] = pointer
            found.append((pointer, line, pointer in seen))
            seen.add(pointer)
        else:
            enter(line)
    return found
