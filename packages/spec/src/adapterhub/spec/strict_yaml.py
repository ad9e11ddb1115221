"""YAML records, read strictly: one document of mappings, lists and scalars; no tags, anchors, aliases or repeated keys.

Scalars follow the core schema of YAML 1.2 (so `no` is text and `010` is not eight), and the members named in `text_keys`
are text whatever they look like (so version 1.10 does not become 1.1). Nothing is constructed but plain values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

import yaml

__all__ = ["MAX_BYTES", "MAX_DEPTH", "StrictYamlError", "load_yaml"]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}


class StrictYamlError(ValueError):
    """The text is no strict YAML record. `line` counts from 1 (0: unknown)."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.message = message
        self.line = line


def load_yaml(data: bytes | str, *, text_keys: Collection[str] = ()) -> Any:
    """The one document in `data`.

    Args:
        data: UTF-8 bytes or text, at most `MAX_BYTES`.
        text_keys: members whose scalars stay text, at any depth.

    Raises:
        StrictYamlError: too large or deep, not UTF-8, not YAML, or with something a record does not need.
    """
    if len(data) > MAX_BYTES:
        raise StrictYamlError(f"a record has at most {MAX_BYTES} bytes")
    if isinstance(data, bytes):
        try:
            data = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise StrictYamlError(f"not UTF-8: {error}") from error
    reader = _Reader(frozenset(text_keys))
    line = 0
    try:
        for event in yaml.parse(data, Loader=_LOADER):
            line = event.start_mark.line + 1 if event.start_mark else line
            reader.take(event, line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise StrictYamlError(str(error.problem or error.context or error), mark.line + 1 if mark else line) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise StrictYamlError(str(error), line) from error
    if not reader.documents:
        raise StrictYamlError("the file is empty")
    return reader.result


class _Reader:
    """Builds the value from parser events with a stack of its own, so depth is bounded here and not by recursion."""

    def __init__(self, text_keys: frozenset[str]) -> None:
        self.text_keys = text_keys
        self.documents = 0
        self.result: Any = None
        #: open containers; for mappings with the key that waits for its value
        self.stack: list[tuple[dict[str, Any] | list[Any], list[str]]] = []

    def take(self, event: yaml.Event, line: int) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise StrictYamlError("one document is expected, here starts a second", line)
        elif isinstance(event, yaml.AliasEvent):
            raise StrictYamlError("aliases (*name) are not allowed", line)
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                raise StrictYamlError("anchors (&name) are not allowed", line)
            if event.tag is not None:
                raise StrictYamlError(f"tags ({event.tag}) are not allowed", line)
            if isinstance(event, yaml.ScalarEvent):
                self.put(self.scalar(event, line), line)
            else:
                container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
                self.put(container, line)
                self.stack.append((container, []))
                if len(self.stack) > MAX_DEPTH:
                    raise StrictYamlError(f"nested more than {MAX_DEPTH} deep", line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.stack.pop()

    def scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text: str = event.value
        container, key = self.stack[-1] if self.stack else ([], [])
        is_key = isinstance(container, dict) and not key
        named = next((keys[-1] for _, keys in reversed(self.stack) if keys), "")
        plain = event.implicit[0]
        if not plain or is_key or named in self.text_keys:
            return None if plain and not is_key and _WORDS.get(text, text) is None else text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text) and len(text) <= 40:
            return int(text)
        if _FLOAT.fullmatch(text) and len(text) <= 40:
            number = float(text)
            if not math.isfinite(number):
                raise StrictYamlError(f"{text} is no finite number", line)
            return number
        return text

    def put(self, value: Any, line: int) -> None:
        if not self.stack:
            self.result = value
            return
        container, key = self.stack[-1]
        if isinstance(container, list):
            container.append(value)
        elif not key:
            if not isinstance(value, str):
                raise StrictYamlError("keys are text", line)
            if value in container:
                raise StrictYamlError(f"the key {value!r} comes twice", line)
            key.append(value)
        else:
            container[key.pop()] = value
