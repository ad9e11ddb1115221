"""Canonical JSON (RFC 8785, JSON Canonicalization Scheme) and the digests made from it.

Two documents that mean the same have the same bytes in every language: keys sorted by UTF-16 code units, no white space,
numbers as ECMAScript prints them (so 2 and 2.0 are both `2`), strings escaped only where JSON demands it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["canonical_json", "digest_of"]

_LARGEST_EXACT = 2**53
_ESCAPES = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
_TABLE = {**{code: f"\\u{code:04x}" for code in range(0x20)}, **_ESCAPES}


def canonical_json(value: Any) -> str:
    """`value` as RFC 8785 text.

    Args:
        value: None, bool, int, float, str, and mappings (with str keys) and sequences of them.

    Raises:
        ValueError: NaN or infinity, an integer that no double is equal to, a lone surrogate, a key that is no string.
    """
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts)


def digest_of(value: Any) -> str:
    """`sha256:` and the hex digest of the canonical JSON of `value`; bytes are hashed as they are."""
    data = value if isinstance(value, bytes) else canonical_json(value).encode()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _write(value: Any, out: list[str]) -> None:
    if value is None:
        out.append("null")
    elif value is True:
        out.append("true")
    elif value is False:
        out.append("false")
    elif isinstance(value, str):
        out.append(_string(value))
    elif isinstance(value, int):
        out.append(str(value) if abs(value) <= _LARGEST_EXACT else _number(_exact(value)))
    elif isinstance(value, float):
        out.append(_number(value))
    elif isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"JSON object keys are strings, not {key!r}")
        out.append("{")
        for position, key in enumerate(sorted(value, key=_utf16)):
            out.append("," if position else "")
            out.append(_string(key))
            out.append(":")
            _write(value[key], out)
        out.append("}")
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        out.append("[")
        for position, item in enumerate(value):
            out.append("," if position else "")
            _write(item, out)
        out.append("]")
    else:
        raise ValueError(f"{type(value).__name__} has no JSON form")


def _exact(value: int) -> float:
    """A large integer as the double it is, or as the one whose shortest decimal text it is."""
    if abs(value) < 2**1023 and (int(float(value)) == value or _number(float(value)) == str(value)):
        return float(value)
    shown = str(value) if abs(value) < 2**128 else "an integer"
    raise ValueError(f"{shown} is beyond 2^53: a JSON number cannot carry it exactly; write it as a string")


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


def _string(text: str) -> str:
    if not text.isascii() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise ValueError("a lone surrogate has no place in JSON text")
    return f'"{text.translate(_TABLE)}"'


def _number(number: float) -> str:
    """ECMA-262 Number::toString, from Python's shortest round-trip digits."""
    if not math.isfinite(number):
        raise ValueError(f"{number} is no JSON number")
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    shown = point - 1
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if shown > 0 else '-'}{abs(shown)}"
