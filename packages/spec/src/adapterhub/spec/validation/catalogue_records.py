"""Rules for the records of the 2020 hub's catalogue: adapter entries, tasks, subtasks, architectures, adapter types.

Each record is a table of its fields: the field's rule, and whether it must be there. Rules take a value and the problem
list; every problem is found, not only the first. Texts are kept as they are and are never markup.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Final

from adapterhub.spec.validation.plain_text import JOINERS, hidden_character
from adapterhub.spec.validation.problem import Problem
from adapterhub.spec.validation.strict_json import pointer_of
from adapterhub.spec.validation.urls import url_problem

__all__ = ["MAX_RECORD_BYTES", "RECORD_FOLDERS", "kind_of_record", "record_problems"]

MAX_RECORD_BYTES = 100_000
MAX_PROBLEMS = 100
NOTE: Final = "The format has no such field; check the spelling."

Pointer = tuple[str | int, ...]
Rule = Callable[[Any, Pointer, "list[Problem]"], None]


def _say(problems: list[Problem], pointer: Pointer, message: str, hint: str = "") -> None:
    problems.append(Problem(pointer_of(pointer), message, hint))


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _text(value: Any, pointer: Pointer, problems: list[Problem], *, hint: str = "") -> bool:
    if isinstance(value, str):
        return True
    _say(problems, pointer, f"{_shown(value)} is not text", hint or 'Put it in quotes if it is meant as text: "…".')
    return False


def line(limit: int, *, empty: bool = False) -> Rule:
    """One line of visible text; a line end behind it, as YAML's block texts have, does no harm."""

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not _text(value, pointer, problems):
            return
        if not value.strip() and not empty:
            _say(problems, pointer, "is empty")
        elif len(value) > limit:
            _say(problems, pointer, f"has {len(value):,} characters, more than {limit:,}")
        else:
            hidden = hidden_character(value.removesuffix("\n"), allow=JOINERS)
            if hidden is not None:
                _say(problems, pointer, f"holds the invisible character U+{ord(hidden):04X}")

    return rule


def prose(limit: int, *, empty: bool = True) -> Rule:
    """Lines of visible text."""

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not _text(value, pointer, problems):
            return
        if not value.strip() and not empty:
            _say(problems, pointer, "is empty")
        elif len(value) > limit:
            _say(problems, pointer, f"has {len(value):,} characters, more than {limit:,}")
        else:
            hidden = hidden_character(value, allow=f"\n\r\t{JOINERS}\u200e\u200f\u00ad")
            if hidden is not None:
                _say(problems, pointer, f"holds the invisible character U+{ord(hidden):04X}")

    return rule


def pattern(expression: str, what: str, limit: int = 64, *, empty: bool = False, hint: str = "") -> Rule:
    """Text that matches a regular expression as a whole."""
    compiled = re.compile(expression, re.ASCII)

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not _text(value, pointer, problems) or (empty and value == ""):
            return
        if len(value) > limit or not compiled.fullmatch(value):
            _say(problems, pointer, f"{_shown(value)} is not {what}", hint)

    return rule


def choice(*values: str) -> Rule:
    """One of a few words."""

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not isinstance(value, str) or value not in values:
            _say(problems, pointer, f"{_shown(value)} is not one of {', '.join(values)}")

    return rule


def truth(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    """true or false."""
    if not isinstance(value, bool):
        _say(problems, pointer, f"{_shown(value)} is not true or false")


def positive(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    """A positive whole number; 2.0 is one."""
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer()
    if not whole or not 1 <= value <= 2**31:
        _say(problems, pointer, f"{_shown(value)} is not a positive whole number")


def number(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        _say(problems, pointer, f"{_shown(value)} is not a number")


def address(*, empty: bool) -> Rule:
    """A plain http(s) address of a public host."""

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not _text(value, pointer, problems) or (empty and value == ""):
            return
        wrong = url_problem(value)
        if wrong:
            _say(problems, pointer, f"the address {_shown(value)} {wrong}")

    return rule


def e_mail(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    """One or several addresses; top-level domains are not asked for, since the catalogue has many without."""
    if not _text(value, pointer, problems) or value == "":
        return
    one = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
    if len(value) > 320 or not re.fullmatch(rf"{one}(?: ?[;,] ?{one})*", value):
        _say(problems, pointer, f"{_shown(value)} is not an e-mail address")


def mapping(fields: Mapping[str, tuple[Rule, bool]], after: Rule | None = None) -> Rule:
    """An object with these fields and no others. `(rule, required)` each."""

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not isinstance(value, dict):
            _say(problems, pointer, f"{_shown(value)} is not an object with fields")
            return
        before = len(problems)
        for key in value:
            if key not in fields and len(problems) < MAX_PROBLEMS:
                _say(problems, (*pointer, key[:80]), f"unknown field {_shown(key)}", NOTE)
        for key, (check, required) in fields.items():
            if key in value:
                check(value[key], (*pointer, key), problems)
            elif required:
                _say(problems, pointer, f"the field {key!r} is missing")
        if after is not None and len(problems) == before:
            after(value, pointer, problems)

    return rule


def listing(item: Rule, *, minimum: int = 0, maximum: int = 1_000) -> Rule:
    """A list of items of one kind."""

    def rule(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
        if not isinstance(value, list):
            _say(problems, pointer, f"{_shown(value)} is not a list")
            return
        if not minimum <= len(value) <= maximum:
            _say(problems, pointer, f"has {len(value)} items; {minimum} to {maximum} are allowed")
            return
        for position, element in enumerate(value):
            item(element, (*pointer, position), problems)

    return rule


def _hashed(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    if "sha256" not in value and "sha1" not in value:
        _say(problems, pointer, "the file has no checksum", "Add sha256.")


def _versions(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    versions = [file["version"] for file in value["files"]]
    repeated = next((version for version in versions if versions.count(version) > 1), None)
    if repeated is not None:
        _say(problems, (*pointer, "files"), f"the version {_shown(repeated)} is listed twice")
    if value["default_version"] not in versions:
        _say(
            problems,
            (*pointer, "default_version"),
            f"{_shown(value['default_version'])} is not among the versions: {', '.join(versions[:10])}",
        )


_IDENTIFIER = pattern(
    r"[A-Za-z0-9][A-Za-z0-9._+-]*",
    "an identifier",
    hint="ASCII letters, digits, '.', '_', '-' and '+', starting with a letter or digit.",
)
_MODEL_ID = r"[A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9][A-Za-z0-9._+-]*)?"
_MODEL = pattern(_MODEL_ID, "a model id (name or owner/name)", 160)
_DATASET = pattern(_MODEL_ID, "a data set id (name or owner/name)", 160, empty=True)
_GITHUB = pattern(
    r"@?[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})|https?://(?:www\.)?github\.com/[A-Za-z0-9-]{1,39}/?",
    "a GitHub handle",
    100,
    empty=True,
)
_TWITTER = pattern(
    r"@?[A-Za-z0-9_]{1,30}|https?://(?:www\.)?(?:twitter|x)\.com/@?[A-Za-z0-9_]{1,30}/?",
    "a Twitter handle",
    100,
    empty=True,
)
_WORD = pattern(r"[A-Za-z][A-Za-z0-9_]*", "a name")
_ACTIVATION = pattern(r"[a-z][a-z0-9_]*", "the name of a non-linearity", 32)
_DESCRIPTION = prose(5_000)
_CITATION = prose(20_000)

_FILE = mapping(
    {
        "version": (_IDENTIFIER, True),
        "url": (address(empty=False), True),
        "sha1": (pattern(r"[0-9a-fA-F]{40}", "a SHA-1 of 40 hexadecimal digits"), False),
        "sha256": (pattern(r"[0-9a-fA-F]{64}", "a SHA-256 of 64 hexadecimal digits"), False),
        "description": (_DESCRIPTION, False),
        "score": (number, False),
    },
    _hashed,
)
_CONFIG = mapping(
    {
        "using": (_IDENTIFIER, True),
        "non_linearity": (_ACTIVATION, False),
        "reduction_factor": (positive, False),
    }
)


def _anything(value: Any, pointer: Pointer, problems: list[Problem]) -> None:
    """An adapter config in the form of an older library: an object; what is in it is not judged here."""
    if not isinstance(value, dict):
        _say(problems, pointer, f"{_shown(value)} is not an object with fields")


_RULES: dict[str, Rule] = {
    "adapter": mapping(
        {
            "type": (choice("text_task", "text_lang"), True),
            "task": (_IDENTIFIER, True),
            "subtask": (_IDENTIFIER, True),
            "model_type": (_IDENTIFIER, True),
            "model_name": (_MODEL, True),
            "config": (_CONFIG, True),
            "author": (line(500), True),
            "default_version": (_IDENTIFIER, True),
            "files": (listing(_FILE, minimum=1), True),
            "model_class": (_WORD, False),
            "prediction_head": (truth, False),
            "email": (e_mail, False),
            "url": (address(empty=True), False),
            "github": (_GITHUB, False),
            "twitter": (_TWITTER, False),
            "citation": (_CITATION, False),
            "description": (_DESCRIPTION, False),
            "hidden_size": (positive, False),
            "name": (line(128), False),
            "dependencies": (
                listing(
                    mapping(
                        {
                            "key": (pattern(r"@?[A-Za-z0-9][A-Za-z0-9._+@/:-]*", "a reference", 300), True),
                            "description": (prose(500), False),
                        }
                    )
                ),
                False,
            ),
        },
        _versions,
    ),
    "task": mapping(
        {
            "task": (_IDENTIFIER, True),
            "displayname": (line(100), True),
            "description": (_DESCRIPTION, True),
        }
    ),
    "subtask": mapping(
        {
            "task": (_IDENTIFIER, True),
            "subtask": (_IDENTIFIER, True),
            "description": (_DESCRIPTION, True),
            "displayname": (line(100), False),
            "hf_datasets_id": (_DATASET, False),
            "url": (address(empty=True), False),
            "citation": (_CITATION, False),
            "language": (line(100, empty=True), False),
            "metric": (mapping({"name": (line(100), True), "higher_is_better": (truth, True)}), False),
        }
    ),
    "architecture": mapping(
        {
            "name": (_IDENTIFIER, True),
            "displayname": (line(100), True),
            "description": (_DESCRIPTION, True),
            "config": (_anything, True),
            "config_v1": (_anything, False),
            "citation": (_CITATION, False),
        }
    ),
    "adapter_type": mapping(
        {
            "id": (choice("text_task", "text_lang"), True),
            "displayname": (line(100), True),
            "description": (_DESCRIPTION, True),
        }
    ),
}

#: Fields that only one kind of record has.
_MARKS = {
    "adapter": {"files", "default_version", "model_name", "model_type", "author", "prediction_head"},
    "architecture": {"config", "config_v1", "name"},
    "adapter_type": {"id"},
    "task": {"displayname"},
}
#: folder of a catalogue → kind of the records in it
RECORD_FOLDERS = {
    "adapters": "adapter",
    "tasks": "task",
    "subtasks": "subtask",
    "architectures": "architecture",
    "adapter_types": "adapter_type",
}


def kind_of_record(value: Mapping[str, Any], path: PurePath) -> str:
    """Which kind of record `value` is: by its fields, else by the folder it is in, else an adapter entry."""
    keys = set(value)
    if keys & _MARKS["adapter"]:
        return "adapter"
    by_folder = next((RECORD_FOLDERS[part] for part in reversed(path.parts[:-1]) if part in RECORD_FOLDERS), None)
    if by_folder is not None:
        return by_folder
    if "id" in keys:
        return "adapter_type"
    if "name" in keys and "config" in keys:
        return "architecture"
    if "type" in keys or "task" not in keys:
        return "adapter"
    return "subtask" if keys & {"subtask", "metric", "hf_datasets_id", "language"} else "task"


def record_problems(value: Any, kind: str) -> list[Problem]:
    """Everything that is wrong with a record of `kind`, at most a hundred problems."""
    if not isinstance(value, dict):
        return [Problem("", f"the top level is {type(value).__name__}, not an object with fields")]
    problems: list[Problem] = []
    _RULES[kind](value, (), problems)
    return problems[:MAX_PROBLEMS]
