"""Vectors of the JSON Schemas that no other folder has documents for: catalogue records, adapter_config.json, presets, model
families, index entries and problems. Written by hand; `schema: false` marks what only the text of the specification forbids."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write

from adapterhub.spec import load_preset

CONFIG = load_preset("pfeiffer")
EXPANDED = {"config": CONFIG.expand(), "config_id": CONFIG.config_id}
TASK = {
    "task": "sentiment",
    "type": "text_task",
    "display_name": "Sentiment Analysis",
    "description": "What is thought.",
}
SUBTASK = {
    "task": "sentiment",
    "subtask": "sst-2",
    "metric": {"name": "accuracy", "higher_is_better": True},
    "languages": ["en"],
}
ADAPTER = {
    "namespace": "ukp", "name": "sst-2", "type": "text_task", "task": "sentiment", "subtask": "sst-2",
    "model_name": "bert-base-uncased", "default_version": "1", "using": "pfeiffer", **EXPANDED,
    "versions": [{"version": "1", "url": "https://example.org/a.zip", "sha256": "0" * 64}],
}  # fmt: skip
RECORD = {
    "spec_version": "1.0", "format": "adapterhub", "name": "sst-2", **EXPANDED,
    "base_model": {"name": "bert-base-uncased", "family": "bert", "hidden_size": 768}, "type": "text_task",
}  # fmt: skip
ENTRY = {
    "v": 1, "namespace": "ukp", "name": "sst-2", "version": "1", "model_name": "bert-base-uncased", "task": "sentiment",
    "subtask": "sst-2", "type": "text_task", "method": "bottleneck",
}  # fmt: skip
PROBLEM = {"pointer": "/files/0", "message": "the file has no digest", "severity": "error"}
DETAILS = {
    "type": "urn:adapterhub:problem:NotFound", "title": "Not found", "status": 404, "detail": "There is no 'x'.",
    "code": "NotFound", "hint": "", "candidates": [], "suggestions": ["sentiment/sst-2@ukp"],
}  # fmt: skip
PRESET = {
    "name": "mine",
    "aliases": ["my"],
    "citation": "Nobody, 2020.",
    "description": "One more.",
    "config": {"method": "lora", "r": 4},
}


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


#: schema → [(why, document)], [(why, document, whether the schema finds it)]
VECTORS: dict[str, tuple[list[tuple[str, Any]], list[tuple[str, Any, bool]]]] = {
    "catalogue-adapter-type": (
        [("a type", {"id": "text_lang", "display_name": "Language"})],
        [("no id", {"display_name": "Language"}, True), ("an id with a blank", {"id": "text lang"}, True)],
    ),
    "catalogue-task": (
        [("a task", TASK), ("the least", {"task": "qa"}), ("a language", {"task": "zh_yue", "type": "text_lang", "language": "yue"})],
        [
            ("no task", without(TASK, "task"), True),
            ("a stray quote", {**TASK, "task": 'text-classification"'}, True),
            ("an unknown type", {**TASK, "type": "text_poem"}, True),
            ("an unknown member", {**TASK, "colour": "red"}, True),
            ("a number for a name", {**TASK, "task": 1}, True),
            ("a language in words", {**TASK, "language": "Min Nan Chinese"}, True),
        ],
    ),
    "catalogue-subtask": (
        [("a data set", SUBTASK), ("a corpus", {"task": "en", "subtask": "wiki", "type": "text_lang", "unused": True})],
        [
            ("no subtask", without(SUBTASK, "subtask"), True),
            ("a metric as text", {**SUBTASK, "metric": "accuracy"}, True),
            ("a metric without a name", {**SUBTASK, "metric": {"higher_is_better": True}}, True),
            ("languages in one text", {**SUBTASK, "languages": "en, de"}, True),
            ("a path as its name", {**SUBTASK, "subtask": "a/b"}, True),
        ],
    ),
    "catalogue-language": (
        [("a language", {"tag": "yue", "name": "Cantonese", "task": "zh_yue"}), ("with a script", {"tag": "hi-Latn"})],
        [("an underscore", {"tag": "zh_yue"}, True), ("no tag", {"name": "Cantonese"}, True)],
    ),
    "catalogue-architecture": (
        [("an architecture", {"name": "pfeiffer", **EXPANDED})],
        [("no config", {"name": "pfeiffer", "config_id": EXPANDED["config_id"]}, True), ("no name", EXPANDED, True)],
    ),
    "catalogue-organisation": (
        [("an organisation", {"namespace": "ukp", "display_name": "UKP Lab", "adapters": 272})],
        [("fewer than none", {"namespace": "ukp", "adapters": -1}, True), ("upwards", {"namespace": ".."}, True)],
    ),
    "catalogue-adapter": (
        [("an adapter", ADAPTER), ("with a dependency", {**ADAPTER, "dependencies": [{"adapter": "@ukp/en", "id": "en/wiki@ukp"}]})],
        [
            ("no versions", without(ADAPTER, "versions"), True),
            ("a sha256 of 63 digits", {**ADAPTER, "versions": [{"version": "1", "url": "https://example.org", "sha256": "0" * 63}]}, True),
            ("an unknown status", {**ADAPTER, "status": "lost"}, True),
            ("an unknown member", {**ADAPTER, "email": "a@example.org"}, True),
        ],
    ),
    "adapter-record": (
        [("a record", RECORD), ("with its task", {**RECORD, "task": "sentiment", "subtask": "sst-2"})],
        [
            ("another format", {**RECORD, "format": "zip"}, True),
            ("no config id", without(RECORD, "config_id"), True),
            ("another id than that of the config", {**RECORD, "config_id": "sha256:" + "0" * 64}, False),
            ("an unknown method", {**RECORD, "config": {"method": "magic"}}, True),
            ("an unknown member", {**RECORD, "weights": "model.bin"}, True),
        ],
    ),
    "preset": (
        [("a preset", PRESET)],
        [
            ("no description", without(PRESET, "description"), True),
            ("an unknown field in the config", {**PRESET, "config": {"method": "lora", "rank": 4}}, True),
            ("no config", without(PRESET, "config"), True),
        ],
    ),
    "family": (
        [],
        [
            ("nothing", {}, True),
            ("no towers", {"family": "x", "model_types": ["x"]}, True),
            ("towers of nothing", {"family": "x", "model_types": ["x"], "towers": [{}]}, True),
            ("a list", [], True),
        ],
    ),
    "index-entry": (
        [("the least", ENTRY), ("members of later versions", {**ENTRY, "mirrors": []}), ("yanked", {**ENTRY, "yanked": True})],
        [
            ("no name", without(ENTRY, "name"), True),
            ("a short digest", {**ENTRY, "digest": "sha256:00"}, True),
            ("a number for a version", {**ENTRY, "version": 1}, True),
            ("a word for a boolean", {**ENTRY, "yanked": "no"}, True),
            ("an unknown status", {**ENTRY, "status": "lost"}, True),
        ],
    ),
    "problem-details": (
        [("not found", DETAILS), ("with more", {**DETAILS, "models": ["roberta-base"], "request_id": "x"})],
        [("no code", without(DETAILS, "code"), True), ("a status as text", {**DETAILS, "status": "404"}, True)],
    ),
    "problem-report": (
        [("nothing wrong", {"path": "x", "valid": True, "problems": []}), ("one problem", {"problems": [PROBLEM]})],
        [
            ("no list", {"path": "x"}, True),
            ("no message", {"problems": [without(PROBLEM, "message")]}, True),
            ("an unknown severity", {"problems": [{**PROBLEM, "severity": "fatal"}]}, True),
        ],
    ),
}  # fmt: skip


def main(folder: Path = CONFORMANCE) -> None:
    for schema, (valid, invalid) in VECTORS.items():
        members = {
            "about": "Documents the schema accepts, and others; schema: whether the schema alone finds what is wrong.",
            "schema": schema,
            "valid": numbered(schema, ({"why": why, "document": document} for why, document in valid)),
            "invalid": numbered(
                f"no-{schema}",
                ({"why": why, "document": document, "schema": found} for why, document, found in invalid),
            ),
        }
        write(folder, f"schemas/{schema}.json", members)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
