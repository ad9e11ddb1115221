"""Rules for a native adapter folder: which files may be in it, and that config, head and weights fit together."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from adapterhub.spec.canonical import canonical_json
from adapterhub.spec.composition import parse_composition
from adapterhub.spec.config import AdapterConfig, parse_config
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.fusion import parse_fusion
from adapterhub.spec.heads import HeadConfig, parse_head
from adapterhub.spec.manifest import BaseModelInfo, Digest, Instant, Language, Library, Line, _Record, problems_of
from adapterhub.spec.safetensors_header import Header, SafetensorsError, read_header
from adapterhub.spec.validation.numbers import number_problems
from adapterhub.spec.validation.path_names import name_problem, path_problem
from adapterhub.spec.validation.problem import Problem
from adapterhub.spec.validation.strict_json import JSONSyntaxError, line_of_pointers, pointer_of, read_json
from adapterhub.spec.validation.tensors import head_tensor_problems, tensor_problems
from adapterhub.spec.validation.text import text_problems

__all__ = ["ALLOWED_SUFFIXES", "AdapterRecord", "files_in", "folder_problems", "read_record", "record_problems"]

#: Kinds of files a hub keeps. Anything else, pickles above all, is refused.
ALLOWED_SUFFIXES = (".safetensors", ".json", ".md", ".txt")
MAX_JSON_BYTES = 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024
MAX_FILES = 256

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter.safetensors"
HEAD_CONFIG_FILE = "head_config.json"
HEAD_WEIGHTS_FILE = "head.safetensors"
FUSION_CONFIG_FILE = "fusion_config.json"
FUSION_WEIGHTS_FILE = "fusion.safetensors"
SETUP_FILE = "adapter_setup.json"
FUSION_KEY = re.compile(r"[A-Za-z0-9_]+\.[0-9]+\.[A-Za-z0-9_]+\.(?:(?:query|key|value)\.(?:weight|bias)|temperature)")


class TrainedOn(_Record):
    """The model an adapter was trained on, as far as the folder knows it."""

    name: Line | None = None
    revision: Line | None = None
    family: Line | None = None
    hidden_size: int | None = Field(default=None, ge=1, le=2**24)


class AdapterRecord(_Record):
    """The content of `adapter_config.json`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())

    spec_version: Literal["1.0"]
    format: Literal["adapterhub"]
    name: Line = Field(description="What the adapter was called on the model.")
    config: dict[str, Any] = Field(description="The expanded adapter config.")
    config_id: Digest
    base_model: TrainedOn = TrainedOn()
    type: Literal["text_task", "text_lang", "image_task", "audio_task", "multimodal_task"] = "text_task"
    library: Library | None = None
    task: Line | None = None
    subtask: Line | None = None
    using: Line | None = None
    languages: tuple[Language, ...] = ()
    created_at: Instant | None = None


def folder_problems(folder: Path, *, numbers: bool = False) -> list[Problem]:
    """Everything that is wrong with the folder of an adapter, a fusion, a setup or several adapters; empty when nothing is.

    Args:
        folder: where the files are.
        numbers: whether to look for NaN and infinity as well, which reads the weights; otherwise only headers are read.
    """
    problems = _folder_problems(folder)
    if numbers:
        for path in files_in(folder):
            if path.suffix == ".safetensors":
                try:
                    header = read_header(path)
                except SafetensorsError:
                    continue  # told already
                shown = path.relative_to(folder).as_posix()
                problems += [problem.within(shown) for problem in number_problems(path, header)]
    return list(dict.fromkeys(problems))


def _folder_problems(folder: Path) -> list[Problem]:
    problems = list(_file_problems(folder))
    if not (folder / CONFIG_FILE).is_file():
        if (folder / SETUP_FILE).is_file():
            return problems + list(_setup_problems(folder))
        if (folder / FUSION_CONFIG_FILE).is_file():
            return problems + list(_fusion_problems(folder)) + list(_head_problems(folder, _headers(folder, [])))
        inner = [path for path in sorted(folder.iterdir()) if (path / CONFIG_FILE).is_file()]
        if inner:
            return problems + [found.within(path.name) for path in inner for found in folder_problems(path)]
        hint = "Save the adapter with save_adapter."
        return [*problems, Problem("", f"there is no {CONFIG_FILE}", hint, file=CONFIG_FILE)]
    problems += _unpublishable(folder, {problem.file for problem in problems})
    if not (folder / WEIGHTS_FILE).is_file():
        problems.append(
            Problem("", f"there is no {WEIGHTS_FILE}", "Weights are published as safetensors only.", file=WEIGHTS_FILE)
        )
    if any(problem.severity == "error" and problem.file == CONFIG_FILE for problem in problems):
        return problems
    found, config, record = record_problems((folder / CONFIG_FILE).read_bytes())
    problems += [problem.within(CONFIG_FILE) for problem in found]
    headers = _headers(folder, problems)
    if config is not None and WEIGHTS_FILE in headers:
        hidden_size = record.base_model.hidden_size if record is not None else None
        wrong = tensor_problems(headers[WEIGHTS_FILE], config, hidden_size)
        problems += [problem.within(WEIGHTS_FILE) for problem in wrong]
    problems += _head_problems(folder, headers)
    return problems


def _headers(folder: Path, problems: list[Problem]) -> dict[str, Header]:
    """The headers of the folder's safetensors files; what is wrong with one goes to `problems`."""
    headers: dict[str, Header] = {}
    for path in files_in(folder):
        if path.suffix == ".safetensors":
            name = path.relative_to(folder).as_posix()
            try:
                headers[name] = read_header(path)
            except SafetensorsError as error:
                problems.append(Problem(error.pointer, error.message, error.hint, file=name))
    return headers


def _fusion_problems(folder: Path) -> Iterator[Problem]:
    """What is wrong with a fusion: `fusion_config.json` and `fusion.safetensors`."""
    value, problem = _read_object(folder / FUSION_CONFIG_FILE)
    if problem is not None:
        yield problem.within(FUSION_CONFIG_FILE)
        return
    known = {"spec_version", "format", "name", "adapters", "config", "config_id", "base_model", "library"}
    for key in sorted(set(value) - known):
        yield Problem(pointer_of((key,)), "unknown member", file=FUSION_CONFIG_FILE)
    names = value.get("adapters")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        yield Problem("/adapters", "is not a list of names of adapters", file=FUSION_CONFIG_FILE)
    try:
        parse_fusion(value.get("config"))
    except InvalidConfigError as error:
        for item in error.details.get("problems") or [{"pointer": "", "message": error.message}]:
            yield Problem(f"/config{item['pointer'].rstrip('/')}", item["message"], file=FUSION_CONFIG_FILE)
    path = folder / FUSION_WEIGHTS_FILE
    if not path.is_file():
        yield Problem("", f"there is no {FUSION_WEIGHTS_FILE}", file=FUSION_WEIGHTS_FILE)
        return
    try:
        header = read_header(path)
    except SafetensorsError as error:
        yield Problem(error.pointer, error.message, error.hint, file=FUSION_WEIGHTS_FILE)
        return
    for tensor in header.tensors:
        if not FUSION_KEY.fullmatch(tensor.name):
            yield Problem("", f"{tensor.name[:200]!r} is no key of a fusion", file=FUSION_WEIGHTS_FILE)


def _setup_problems(folder: Path) -> Iterator[Problem]:
    """What is wrong with a setup: `adapter_setup.json` and the sub-folders it names."""
    value, problem = _read_object(folder / SETUP_FILE)
    if problem is not None:
        yield problem.within(SETUP_FILE)
        return
    try:
        parse_composition(value.get("adapter_setup"))
    except InvalidConfigError as error:
        yield Problem("/adapter_setup", error.message, error.hint, file=SETUP_FILE)
    for kind in ("adapters", "fusions"):
        named = value.get(kind, {})
        if not isinstance(named, dict):
            yield Problem(f"/{kind}", "is not an object of sub-folders", file=SETUP_FILE)
            continue
        for name, place in named.items():
            pointer = pointer_of((kind, name))
            if not isinstance(place, str) or name_problem(place) or not (folder / place).is_dir():
                yield Problem(pointer, f"there is no sub-folder {place!r}", file=SETUP_FILE)
                continue
            yield from (problem.within(place) for problem in folder_problems(folder / place))


def _read_object(path: Path) -> tuple[dict[str, Any], Problem | None]:
    try:
        value = read_json(path.read_bytes()[: MAX_JSON_BYTES + 1], max_bytes=MAX_JSON_BYTES)
    except JSONSyntaxError as error:
        return {}, Problem(error.pointer, error.message, error.hint, line=error.line)
    if not isinstance(value, dict):
        return {}, Problem("", "the top level is not an object", line=1)
    return value, None


def record_problems(data: bytes) -> tuple[list[Problem], AdapterConfig | None, AdapterRecord | None]:
    """What is wrong with an `adapter_config.json`, with the config and the record where they can be read."""
    try:
        value = read_json(data, max_bytes=MAX_JSON_BYTES)
    except JSONSyntaxError as error:
        return [Problem(error.pointer, error.message, error.hint, line=error.line)], None, None
    lines = line_of_pointers(data.decode())
    problems: list[Problem] = []
    record = config = None
    if not isinstance(value, dict):
        return [Problem("", "the top level is not an object", line=1)], None, None
    if "format" not in value and "spec_version" not in value:
        problem = Problem(
            "",
            "this is not a native adapter config (no spec_version, no format)",
            "Convert the checkpoint first: adapterhub convert SOURCE TARGET.",
            line=1,
        )
        return [problem], None, None
    try:
        record = AdapterRecord.model_validate_json(canonical_json(value))
    except ValidationError as error:
        problems += problems_of(error, lines)
    except ValueError as error:
        problems.append(Problem("", str(error)))
    fields = value.get("config")
    if isinstance(fields, dict):
        found, config = config_problems(fields)
        problems += [
            Problem(f"/config{p.pointer}", p.message, p.hint, line=lines.get(f"/config{p.pointer}")) for p in found
        ]
        if config is not None and value.get("config_id") != config.config_id:
            problems.append(
                Problem(
                    "/config_id",
                    f"does not belong to the config, whose id is {config.config_id}",
                    line=lines.get("/config_id"),
                )
            )
    return problems, config, record


def config_problems(fields: dict[str, Any]) -> tuple[list[Problem], AdapterConfig | None]:
    """What is wrong with an adapter config in our own form, and the config if nothing is."""
    if "method" not in fields:
        return [Problem("/method", "the method is missing", "For example bottleneck, lora, prefix.")], None
    try:
        config = parse_config(fields)
    except InvalidConfigError as error:
        listed = error.details.get("problems") or [{"pointer": "", "message": error.message}]
        return [Problem(item["pointer"], item["message"]) for item in listed], None
    missing = sorted(set(config.expand()) - set(fields))
    if missing:
        names = ", ".join(missing)
        return [Problem("", f"the config is not expanded; missing: {names}", "Write every field.")], config
    return [], config


def _head_problems(folder: Path, headers: dict[str, Header]) -> Iterator[Problem]:
    config_file, weights_file = folder / HEAD_CONFIG_FILE, folder / HEAD_WEIGHTS_FILE
    if config_file.is_file() != weights_file.is_file():
        missing = HEAD_WEIGHTS_FILE if config_file.is_file() else HEAD_CONFIG_FILE
        yield Problem("", f"a head is {HEAD_CONFIG_FILE} and {HEAD_WEIGHTS_FILE}; there is no {missing}", file=missing)
    if config_file.is_file() and config_file.stat().st_size <= MAX_JSON_BYTES:
        found, head = head_problems(config_file.read_bytes())
        yield from (problem.within(HEAD_CONFIG_FILE) for problem in found)
        header = headers.get(HEAD_WEIGHTS_FILE)
        if head is not None and header is not None:
            yield from (problem.within(HEAD_WEIGHTS_FILE) for problem in head_tensor_problems(header, head))


def head_problems(data: bytes) -> tuple[list[Problem], HeadConfig | None]:
    """What is wrong with a `head_config.json`, and the head if nothing is.

    The file is the head's config itself, or an object with the config under `config` beside `spec_version`, `format`
    and `name`.
    """
    try:
        value = read_json(data, max_bytes=MAX_JSON_BYTES)
    except JSONSyntaxError as error:
        return [Problem(error.pointer, error.message, error.hint, line=error.line)], None
    if not isinstance(value, dict):
        return [Problem("", "the top level is not an object", line=1)], None
    lines = line_of_pointers(data.decode())
    fields, prefix = value, ""
    if isinstance(value.get("config"), dict):
        fields, prefix = value["config"], "/config"
        stray = sorted(set(value) - {"spec_version", "format", "name", "config", "config_id", "library"})
        if stray:
            pointer = pointer_of((stray[0],))
            return [Problem(pointer, "unknown member", line=lines.get(pointer))], None
    try:
        return [], parse_head(fields)
    except InvalidConfigError as error:
        listed = error.details.get("problems") or [{"pointer": "", "message": error.message}]
        found = [(f"{prefix}{item['pointer'].rstrip('/')}", item["message"]) for item in listed]
        return [Problem(pointer, message, line=lines.get(pointer)) for pointer, message in found], None


def files_in(folder: Path) -> list[Path]:
    """The regular files below `folder`, sorted by path. Links are not followed."""
    return sorted(
        Path(base) / name
        for base, _, names in os.walk(folder, followlinks=False)
        for name in names
        if (Path(base) / name).is_file() and not (Path(base) / name).is_symlink()
    )


def _file_problems(folder: Path) -> Iterator[Problem]:
    folded: dict[str, str] = {}
    count = 0
    for base, directories, names in os.walk(folder, followlinks=False):
        for name in sorted([*directories, *names]):
            path = Path(base) / name
            shown = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            count += 1
            if count > MAX_FILES:
                yield Problem("", f"more than {MAX_FILES} files")
                return
            if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield Problem("", "only regular files may be in an adapter folder, no links or devices", file=shown)
                continue
            wrong = name_problem(name)
            if wrong:
                yield Problem("", f"the name {wrong}", file=shown)
            other = folded.setdefault(shown.lower(), shown)
            if other != shown:
                yield Problem("", f"differs from {other} only in upper and lower case", file=shown)
            if stat.S_ISREG(mode):
                yield from _content_problems(path, shown)


def _unpublishable(folder: Path, told: set[str]) -> Iterator[Problem]:
    """Files of an adapter whose path no manifest can hold, past those with a problem already."""
    for path in files_in(folder):
        shown = path.relative_to(folder).as_posix()
        wrong = path_problem(shown) if shown not in told else None
        if wrong:
            yield Problem("", f"the path {wrong}", "Rename the file, or move it out of the folder.", file=shown)


def _content_problems(path: Path, shown: str) -> Iterator[Problem]:
    suffix = path.suffix
    if suffix not in ALLOWED_SUFFIXES and path.name not in ("LICENSE", "NOTICE"):
        hint = f"Allowed: {', '.join(ALLOWED_SUFFIXES)}."
        if suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"):
            hint = "Pickled weights are never accepted; convert them: adapterhub convert SOURCE TARGET."
        yield Problem("", f"files of this kind ({suffix or 'no suffix'}) are not accepted", hint, file=shown)
        return
    if suffix == ".safetensors":
        return
    size = path.stat().st_size
    limit = MAX_JSON_BYTES if suffix == ".json" else MAX_TEXT_BYTES
    if size > limit:
        yield Problem("", f"{size:,} bytes are more than the {limit:,} allowed", file=shown)
        return
    data = path.read_bytes()
    if suffix == ".json":
        try:
            read_json(data, max_bytes=limit)
        except JSONSyntaxError as error:
            yield Problem(error.pointer, error.message, error.hint, file=shown, line=error.line)
    else:
        yield from (problem.within(shown) for problem in text_problems(data))


def read_record(folder: Path) -> AdapterRecord:
    """The record of a folder that has been validated."""
    value = read_json((folder / CONFIG_FILE).read_bytes(), max_bytes=MAX_JSON_BYTES)
    return AdapterRecord.model_validate_json(canonical_json(value))


def base_model_of(record: AdapterRecord, **given: Any) -> BaseModelInfo:
    """The base model for a manifest: what the folder knows, with the values given by the publisher first.

    Raises:
        pydantic.ValidationError: the name is no model id.
    """
    known = record.base_model.model_dump()
    return BaseModelInfo(**{**known, **{key: value for key, value in given.items() if value is not None}})
