"""Rows of training data from CSV, TSV, JSON, JSON-lines or the `datasets` library; which columns are meant; fixed splits."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapterhub.spec.errors import AdapterHubError, InvalidConfigError

__all__ = ["Row", "column", "optional_column", "read_rows", "split_rows"]

Row = dict[str, Any]

#: Names columns usually have, in the order they are looked for.
USUAL: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "sentence1", "premise", "question", "review", "content", "source", "input"),
    "pair": ("text_b", "sentence2", "hypothesis", "pair", "passage"),
    "label": ("label", "labels", "score", "class", "target", "category", "rating"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    "target": ("target", "summary", "output", "translation", "answer"),
}


def read_rows(source: str, split: str | None = None) -> list[Row]:
    """The rows of `source`, each a mapping of column to value.

    Args:
        source: a `.csv`, `.tsv`, `.json` (a list) or `.jsonl` file; a folder written by `datasets`; or `datasets:NAME` and
            `datasets:NAME:CONFIG` for a set of the hub.
        split: of a data set with several, `train` by default.

    Raises:
        AdapterHubError: nothing there, or unreadable; `datasets` is needed and not installed.
    """
    if source.startswith("datasets:"):
        return _from_datasets(source.removeprefix("datasets:"), split)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_datasets(str(path), split, local=True)
    if not path.is_file():
        raise AdapterHubError(
            f"There is no data file {source!r}.", hint="Give a .csv, .tsv, .json or .jsonl file, or datasets:NAME."
        )
    try:
        rows = _parse(path)
    except (ValueError, csv.Error, UnicodeDecodeError) as error:
        raise AdapterHubError(f"{source} cannot be read: {error}.") from error
    if not rows:
        raise AdapterHubError(f"{source} holds no rows.")
    return rows


def column(rows: Sequence[Row], role: str, named: str | None = None) -> str:
    """The column that plays a role: the one named, else the first of the usual names that is there.

    Raises:
        InvalidConfigError: it is not there.
    """
    found = optional_column(rows, role, named)
    if found is None:
        raise InvalidConfigError(
            f"None of the columns ({', '.join(rows[0])}) is usually the {role}.", hint=f"Name it with --{role}-column."
        )
    return found


def optional_column(rows: Sequence[Row], role: str, named: str | None = None) -> str | None:
    """As `column`, but None where nothing was named and none of the usual names is there."""
    there = list(rows[0])
    if named is not None:
        if named not in there:
            raise InvalidConfigError(f"The data has no column {named!r}.", hint=f"Columns: {', '.join(there)}.")
        return named
    return next((name for name in USUAL[role] if name in there), None)


def split_rows(rows: Sequence[Row], share: float, key: str) -> tuple[list[Row], list[Row]]:
    """(training, validation): a row goes by a hash of its `key` column, so the split is the same on every run and machine."""
    training: list[Row] = []
    validation: list[Row] = []
    for row in rows:
        digest = hashlib.sha256(json.dumps(row[key], ensure_ascii=False, default=str).encode()).digest()
        (validation if int.from_bytes(digest[:8]) < share * 2**64 else training).append(row)
    return training, validation


def _parse(path: Path) -> list[Row]:
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ",", strict=True))
    if ending in (".jsonl", ".ndjson"):
        with path.open(encoding="utf-8") as file:
            found = [json.loads(line) for line in file if line.strip()]
    elif ending == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
    elif ending == ".txt":
        return [{"text": line.rstrip("\n")} for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        raise ValueError(f"the ending {ending!r} is none of .csv, .tsv, .json, .jsonl, .txt")
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ValueError("it does not hold objects, one a row")
    return [dict(row) for row in found]


def _from_datasets(name: str, split: str | None, local: bool = False) -> list[Row]:
    try:
        import datasets
    except ImportError as error:
        raise AdapterHubError(
            "Reading this needs the datasets library.", hint="Run `pip install 'adapterhub-core[datasets]'`."
        ) from error
    try:
        if local:
            found = datasets.load_from_disk(name)
            if isinstance(found, Mapping):
                found = found[split or "train"]
        else:
            path, _, config = name.partition(":")
            found = datasets.load_dataset(path, config or None, split=split or "train")
    except (OSError, ValueError, KeyError) as error:
        raise AdapterHubError(f"The data set {name!r} cannot be loaded: {error}.") from error
    names = {key: feature.names for key, feature in found.features.items() if hasattr(feature, "names")}
    inner = {key: f.feature.names for key, f in found.features.items() if hasattr(getattr(f, "feature", None), "names")}
    rows = [dict(row) for row in found]
    for row in rows:
        for key, labels in names.items():
            row[key] = labels[row[key]] if isinstance(row[key], int) and row[key] >= 0 else row[key]
        for key, labels in inner.items():
            row[key] = [labels[item] for item in row[key]]
    return rows
