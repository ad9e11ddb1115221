"""Rules for Markdown and plain text: UTF-8 without control characters. Markup in it is left to whoever shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapterhub.spec.validation.problem import Problem

__all__ = ["text_problems"]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def text_problems(data: bytes) -> Iterator[Problem]:
    """What is wrong with a Markdown or plain text file."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Problem("", f"byte {error.start} is not UTF-8", line=data.count(b"\n", 0, error.start) + 1)
        return
    match = _CONTROL.search(text)
    if match:
        line = text.count("\n", 0, match.start()) + 1
        yield Problem("", f"holds the control character U+{ord(match.group()):04X}", line=line)
