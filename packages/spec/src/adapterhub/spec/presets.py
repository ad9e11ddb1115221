"""Presets: names for configs, from the JSON files of `spec/presets` (name, aliases, citation, description, config)."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from adapterhub.spec.config import AdapterConfig, UnionConfig, validated
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["load_preset", "parse_preset", "preset_documents", "preset_names"]

_PIECE = re.compile(r"\s*(?P<name>[A-Za-z0-9_+-]+)\s*(?:\[(?P<overrides>[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\])?\s*")


@cache
def preset_documents() -> dict[str, dict[str, Any]]:
    """Every preset document by its name, without aliases."""
    folder = resources.files("adapterhub.spec") / "data" / "presets"
    documents = [
        json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir() if file.name.endswith(".json")
    ]
    return {document["name"]: document for document in sorted(documents, key=lambda document: document["name"])}


@cache
def _by_any_name() -> dict[str, str]:
    return {
        spelling: name
        for name, document in preset_documents().items()
        for spelling in (name, *document.get("aliases", ()))
    }


def preset_names(*, aliases: bool = False) -> list[str]:
    """The names of all presets, sorted; with their aliases on request."""
    return sorted(_by_any_name() if aliases else preset_documents())


def load_preset(name: str, **overrides: Any) -> AdapterConfig:
    """The config of a preset, with fields replaced by `overrides`.

    Raises:
        InvalidConfigError: no such preset (close names are suggested), or an override that makes no sense.
    """
    known = _by_any_name()
    found = known.get(name) or known.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), known, n=3)
        raise InvalidConfigError(
            f"There is no adapter preset {name!r}.",
            hint=(f"Did you mean {' or '.join(close)}? " if close else "")
            + f"Presets: {', '.join(preset_names())}. A JSON file's name ends in .json.",
            suggestions=close,
        )
    fields = preset_documents()[found]["config"]
    if (
        overrides.get("bottleneck_size") is not None
        and "reduction_factor" not in overrides
        and "reduction_factor" in fields
    ):
        overrides = {**overrides, "reduction_factor": None}
    return validated({**fields, **overrides})


def parse_preset(text: str, **overrides: Any) -> AdapterConfig:
    """The config of `name`, `name[field=value,…]`, or several of these joined by `|` to a union.

    Values are JSON or Python literals; a bare word is a string.
    """
    members = [_piece(piece, overrides) for piece in _split(text, "|")]
    if len(members) == 1:
        return members[0]
    return UnionConfig.model_validate(validated({"method": "union", "configs": [m.expand() for m in members]}).expand())


def _piece(text: str, overrides: dict[str, Any]) -> AdapterConfig:
    match = _PIECE.fullmatch(text)
    if match is None:
        raise InvalidConfigError(
            f"{text!r} is no preset string.", hint="Write a name, or name[field=value,...], joined by | to a union."
        )
    given: dict[str, Any] = {}
    for assignment in _split(match["overrides"] or "", ","):
        field, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidConfigError(f"{assignment!r} in {text!r} is no field=value.")
        given[field.strip()] = _value(value.strip())
    return load_preset(match["name"], **{**given, **overrides})


def _split(text: str, separator: str) -> Iterator[str]:
    """Pieces of `text` between separators outside of brackets and braces."""
    depth, start = 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == separator and depth == 0:
            yield text[start:position]
            start = position + 1
    if text[start:].strip() or start:
        yield text[start:]


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _preset_class(class_name: str, preset: str) -> Any:
    """A callable that looks like a class: `PfeifferConfig(reduction_factor=12)` is the preset with that override."""

    def make(**overrides: Any) -> AdapterConfig:
        return load_preset(preset, **overrides)

    make.__name__ = make.__qualname__ = class_name
    make.__doc__ = f"The preset `{preset}`: {_first_sentence(preset)}"
    return make


def _first_sentence(preset: str) -> str:
    document = preset_documents().get(preset, {})
    return str(document.get("description", "")).split(". ")[0].rstrip(".") + "."


_CLASSES = {
    "AdapterPlusConfig": "adapter_plus",
    "BapnaConfig": "bapna",
    "CompacterConfig": "compacter",
    "CompacterPlusPlusConfig": "compacter++",
    "DiReftConfig": "direft",
    "DoRAConfig": "dora",
    "DoubleSeqBnConfig": "houlsby",
    "DoubleSeqBnInvConfig": "houlsby+inv",
    "HoulsbyConfig": "houlsby",
    "HoulsbyInvConfig": "houlsby+inv",
    "LoReftConfig": "loreft",
    "MAMConfig": "mam",
    "NoReftConfig": "noreft",
    "ParBnConfig": "parallel",
    "ParallelConfig": "parallel",
    "PfeifferConfig": "pfeiffer",
    "PfeifferInvConfig": "pfeiffer+inv",
    "ScaledParallelConfig": "scaled_parallel",
    "SeqBnConfig": "pfeiffer",
    "SeqBnInvConfig": "pfeiffer+inv",
    "UniPELTConfig": "unipelt",
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _preset_class(name, _CLASSES[name])
    globals()[name] = value
    return value


__all__ += sorted(_CLASSES)  # noqa: PLE0605
