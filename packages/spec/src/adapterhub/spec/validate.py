"""Validate what people hand in: a folder, a manifest, a catalogue record, weights, an archive. Data only, nothing runs.

The hub, the client and the command line call the same functions, so a file gets the same verdict everywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from adapterhub.spec.validation.problem import Problem, has_errors

__all__ = ["Problem", "has_errors", "validate_bytes", "validate_folder", "validate_path"]

MAX_JSON_BYTES = 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024
MAX_INDEX_BYTES = 16 * 1024 * 1024
#: Up to this size the lines of problems in JSON are looked up.
MAX_LOCATED_BYTES = 256 * 1024


def validate_path(path: str | os.PathLike[str]) -> list[Problem]:
    """Every problem of a file or folder, in the order found; empty when it is fine.

    Args:
        path: an adapter folder, or that of a catalogue; a manifest, adapter config, head config, index entry or catalogue record (`.json`); a
            record of the 2020 hub (`.yaml`, `.yml`, `.json`); an index file (`.jsonl`); weights (`.safetensors`); an
            archive of the 2020 hub (`.zip`); a card (`.md`, `.txt`). Every other kind is refused.

    Raises:
        OSError: the path does not exist or cannot be read. Content never raises.
    """
    place = Path(path)
    mode = place.stat().st_mode
    if stat.S_ISDIR(mode):
        return validate_folder(place)
    if not stat.S_ISREG(mode):
        return [Problem("", "this is neither a file nor a folder")]
    suffix = place.suffix.lower()
    if suffix == ".safetensors":
        return _weights(place)
    if suffix == ".zip":
        from adapterhub.spec.validation.zip_archive import zip_problems

        return zip_problems(place)
    limit = MAX_INDEX_BYTES if suffix == ".jsonl" else MAX_JSON_BYTES
    with place.open("rb") as file:
        data = file.read(limit + 1)
    return validate_bytes(data, place)


def validate_folder(folder: str | os.PathLike[str]) -> list[Problem]:
    """Every problem of an adapter folder, or of each record of a catalogue; `Problem.file` says in which file."""
    from adapterhub.spec.validation.adapter_folder import folder_problems
    from adapterhub.spec.validation.catalogue_records import RECORD_FOLDERS

    root = Path(folder)
    catalogue = [root / name for name in RECORD_FOLDERS if (root / name).is_dir()]
    if len(catalogue) < 2 or (root / "adapter_config.json").exists():
        return folder_problems(root, numbers=True)
    records = sorted(
        path for place in catalogue for path in place.rglob("*") if path.suffix in (".yaml", ".yml", ".json")
    )
    return [
        problem.within(path.relative_to(root).as_posix())
        for path in records
        if path.is_file() and not path.is_symlink()
        for problem in validate_path(path)
    ]


def validate_bytes(data: bytes, name: str | os.PathLike[str]) -> list[Problem]:
    """Every problem of a single file whose content is in memory.

    Args:
        data: the whole content.
        name: the file's name or path: its suffix tells the kind, its folder the kind of catalogue record.
    """
    path = PurePath(name)
    check = _BY_SUFFIX.get(path.suffix.lower())
    if check is None:
        hint = "Accepted: .safetensors, .json, .jsonl, .yaml, .md, .txt, and .zip of the 2020 hub."
        if data[:1] == b"\x80" or path.suffix.lower() in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"):
            hint = "Pickled weights are never read: loading them can run any code. Convert them to safetensors."
        return [Problem("", f"files of this kind ({path.suffix or 'no suffix'}) are not accepted", hint)]
    return check(data, path)


def _weights(path: Path) -> list[Problem]:
    from adapterhub.spec.safetensors_header import SafetensorsError, read_header

    try:
        read_header(path)
    except SafetensorsError as error:
        return [Problem(error.pointer, error.message, error.hint)]
    return []


def _weights_in_memory(data: bytes, path: PurePath) -> list[Problem]:
    from adapterhub.spec.safetensors_header import SafetensorsError, parse_header

    try:
        parse_header(data)
    except SafetensorsError as error:
        return [Problem(error.pointer, error.message, error.hint)]
    return []


def _text(data: bytes, path: PurePath) -> list[Problem]:
    from adapterhub.spec.validation.text import text_problems

    if len(data) > MAX_TEXT_BYTES:
        return [Problem("", f"more than the {MAX_TEXT_BYTES:,} bytes allowed")]
    return list(text_problems(data))


def _yaml(data: bytes, path: PurePath) -> list[Problem]:
    from adapterhub.spec.validation.catalogue_records import MAX_RECORD_BYTES
    from adapterhub.spec.validation.strict_yaml import YAMLSyntaxError, read_yaml

    try:
        value, lines = read_yaml(data, max_bytes=MAX_RECORD_BYTES)
    except YAMLSyntaxError as error:
        return [Problem(error.pointer, error.message, error.hint, line=error.line)]
    return _located(_record(value, path), lines)


def _json(data: bytes, path: PurePath) -> list[Problem]:
    from adapterhub.spec.validation.strict_json import JSONSyntaxError, line_of_pointers, read_json

    try:
        value = read_json(data, max_bytes=MAX_JSON_BYTES)
    except JSONSyntaxError as error:
        return [Problem(error.pointer, error.message, error.hint, line=error.line)]
    problems = _document(value, data, path)
    if len(data) > MAX_LOCATED_BYTES or all(problem.line is not None for problem in problems):
        return problems
    return _located(problems, line_of_pointers(data.decode()))


def _document(value: Any, data: bytes, path: PurePath) -> list[Problem]:
    """The problems of a JSON document, by what it is."""
    if not isinstance(value, dict):
        return [Problem("", f"the top level is {_KINDS[type(value)]}, not an object with fields", line=1)]
    if path.name == "adapter_config.json" or value.get("format") == "adapterhub":
        from adapterhub.spec.validation.adapter_folder import record_problems

        return record_problems(data)[0]
    if path.name == "head_config.json" or "head_type" in value:
        from adapterhub.spec.validation.adapter_folder import head_problems

        return head_problems(data)[0]
    if "tensors" in value or ("spec_version" in value and "files" in value):
        from adapterhub.spec.manifest import manifest_problems

        return manifest_problems(data)
    if "v" in value and "namespace" in value:
        return _index_entry(value)
    native = next((model for mark, model in _NATIVE if mark in value), None) if _NATIVE_MARKS & set(value) else None
    if native is not None:
        return _native_record(value, native)
    if "method" in value:
        from adapterhub.spec.validation.adapter_folder import config_problems

        return config_problems({key: item for key, item in value.items() if key != "spec_version"})[0]
    return _record(value, path, size=len(data))


def _record(value: Any, path: PurePath, *, size: int = 0) -> list[Problem]:
    from adapterhub.spec.validation.catalogue_records import MAX_RECORD_BYTES, kind_of_record, record_problems

    if not isinstance(value, dict):
        return [Problem("", f"the top level is {_KINDS[type(value)]}, not an object with fields", line=1)]
    if size > MAX_RECORD_BYTES:
        return [Problem("", f"{size:,} bytes are more than the {MAX_RECORD_BYTES:,} a record may have")]
    return record_problems(value, kind_of_record(value, path))


def _native_record(value: dict[str, Any], model: str) -> list[Problem]:
    """The problems of one of the hub's own catalogue records (SPEC.md 13)."""
    from pydantic import ValidationError

    from adapterhub.spec import catalogue
    from adapterhub.spec.canonical import canonical_json
    from adapterhub.spec.manifest import problems_of

    try:
        getattr(catalogue, model).model_validate_json(canonical_json(value), strict=True)
    except ValidationError as error:
        return problems_of(error)
    except ValueError as error:
        return [Problem("", str(error))]
    return []


def _index_entry(value: dict[str, Any]) -> list[Problem]:
    from adapterhub.spec.errors import InvalidManifestError
    from adapterhub.spec.index import IndexEntry

    try:
        IndexEntry.from_json(value)
    except InvalidManifestError as error:
        return [Problem("", error.message, error.hint)]
    return []


def _index_lines(data: bytes, path: PurePath) -> list[Problem]:
    from adapterhub.spec.validation.strict_json import JSONSyntaxError, read_json

    if len(data) > MAX_INDEX_BYTES:
        return [Problem("", f"more than the {MAX_INDEX_BYTES:,} bytes allowed")]
    problems: list[Problem] = []
    for number, text in enumerate(data.split(b"\n"), 1):
        if len(problems) >= 100:
            break
        if not text.strip():
            continue
        try:
            value = read_json(text, max_bytes=MAX_JSON_BYTES)
        except JSONSyntaxError as error:
            problems.append(Problem("", error.message, error.hint, line=number))
            continue
        found = _index_entry(value) if isinstance(value, dict) else [Problem("", "the line is not an object")]
        problems += [replace(problem, line=number) for problem in found]
    return problems[:100]


def _located(problems: list[Problem], lines: dict[str, int]) -> list[Problem]:
    """The problems with the lines of their pointers, or of the nearest place above."""
    found = []
    for problem in problems:
        pointer, line = problem.pointer, problem.line
        while line is None and pointer and pointer not in lines:
            pointer = pointer.rpartition("/")[0]
        found.append(replace(problem, line=line if line is not None else lines.get(pointer)))
    return found


#: Members that only the hub's own catalogue records have; records of the 2020 hub write `displayname`.
_NATIVE_MARKS = {"display_name", "tag", "versions", "config_id", "namespace"}
#: member → model of the record, the most telling first
_NATIVE = (
    ("versions", "AdapterRecord"),
    ("config_id", "Architecture"),
    ("tag", "Language"),
    ("namespace", "Organisation"),
    ("subtask", "Subtask"),
    ("task", "Task"),
    ("id", "AdapterTypeRecord"),
    ("name", "Architecture"),
)
_KINDS: dict[type, str] = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    type(None): "null",
}
_BY_SUFFIX: dict[str, Callable[[bytes, PurePath], list[Problem]]] = {
    ".safetensors": _weights_in_memory,
    ".json": _json,
    ".jsonl": _index_lines,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".md": _text,
    ".txt": _text,
}
