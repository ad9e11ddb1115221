"""Which file names are safe and mean the same on every system."""

from __future__ import annotations

import re

from adapterhub.spec.validation.plain_text import hidden_character

__all__ = ["MAX_COMPONENT_BYTES", "MAX_PATH", "PATH", "name_problem", "path_problem"]

MAX_COMPONENT_BYTES = 255
MAX_PATH = 255
_SEGMENT = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
#: What the path of a published file looks like (SPEC.md 12).
PATH = rf"^(?:{_SEGMENT}/){{0,3}}{_SEGMENT}$"
# Windows also takes the superscript digits ¹ ² ³ for digits in device names.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|(?:com|lpt)[0-9¹²³])[ .]*(?:[.:].*)?", re.I | re.S)
_FORBIDDEN = '<>:"|?*\\'


def name_problem(name: str) -> str | None:
    """What is wrong with one component of a path, to follow "the name …"; None when nothing is.

    Args:
        name: a single component, without `/`.
    """
    if not name:
        return "is empty"
    if name in (".", ".."):
        return f"is {name!r}"
    if "/" in name:
        return "holds '/'"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_COMPONENT_BYTES:
        return f"is longer than {MAX_COMPONENT_BYTES} bytes"
    hidden = hidden_character(name)
    if hidden is not None:
        return f"holds the invisible character U+{ord(hidden):04X}"
    bad = next((letter for letter in name if letter in _FORBIDDEN), None)
    if bad is not None:
        return f"holds {bad!r}, which Windows does not allow"
    if name[-1] in " .":
        return "ends in a blank or dot, which Windows drops"
    if name[0] == " ":
        return "starts with a blank"
    if _DEVICE.fullmatch(name):
        return "is a device on Windows"
    return None


def path_problem(path: str) -> str | None:
    """What keeps the relative path of a file from being published, to follow "the path …"; None when nothing does."""
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} characters"
    if path.count("/") > 3:
        return "has more than four components"
    if re.fullmatch(PATH, path) is None:
        return "is not of ASCII letters, digits, '.', '_' and '-', each part starting and ending with a letter or digit"
    return None
