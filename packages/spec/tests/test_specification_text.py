"""SPEC.md names every field and limit of the models, so that neither grows without the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapterhub.spec import config
from adapterhub.spec.composition import _BLOCKS
from adapterhub.spec.config import ACTIVATIONS
from adapterhub.spec.family import EmbeddingSpec, ModelFamily, ResidualSpec, SublayerSpec, TowerSpec
from adapterhub.spec.fusion import FusionConfig
from adapterhub.spec.heads import HEAD_TYPES, HeadConfig
from adapterhub.spec.manifest import (
    ADAPTER_TYPES,
    BaseModelInfo,
    Dependency,
    FileRecord,
    Library,
    Manifest,
    Metric,
    TensorRecord,
)
from adapterhub.spec.safetensors_header import DTYPE_BITS
from adapterhub.spec.validation.adapter_folder import AdapterRecord

SPEC = Path(__file__).parents[3] / "spec"
TEXT = (SPEC / "SPEC.md").read_text(encoding="utf-8")


def section(start: str, stop: str) -> str:
    return TEXT[TEXT.index(f"\n{start}") : TEXT.index(f"\n{stop}")]


def quoted(text: str) -> set[str]:
    marked = re.findall(r"`([^`\n]+)`", text)
    return {*marked, *(word for part in marked for word in re.findall(r"[A-Za-z0-9_-]+", part))}


CONFIGS = {
    "BottleneckConfig": ("### 2.2", "### 2.3"),
    "LoRAConfig": ("### 2.3", "### 2.4"),
    "IA3Config": ("### 2.4", "### 2.5"),
    "PrefixTuningConfig": ("### 2.5", "### 2.6"),
    "PromptTuningConfig": ("### 2.5", "### 2.6"),
    "ReftConfig": ("### 2.5", "### 2.6"),
    "UnionConfig": ("### 2.6", "### 2.7"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_every_config_is_specified(name: str) -> None:
    fields = set(getattr(config, name).model_fields) - {"method"}
    assert fields <= quoted(section(*CONFIGS[name])), fields - quoted(section(*CONFIGS[name]))


def test_every_enumerated_value_is_specified() -> None:
    import json

    schema = json.loads((SPEC / "schemas" / "adapter-config.schema.json").read_text())
    known = quoted(section("## 2.", "## 4."))
    missing = set()

    def walk(part: object) -> None:
        if isinstance(part, dict):
            missing.update(value for value in part.get("enum", ()) if isinstance(value, str) and value not in known)
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(schema)
    assert not missing


def test_every_field_of_the_other_documents_is_specified() -> None:
    parts = {
        ("## 5.", "## 6."): [FusionConfig],
        ("## 6.", "## 7."): [HeadConfig],
        ("## 7.", "## 8."): [ModelFamily, TowerSpec, SublayerSpec, ResidualSpec, EmbeddingSpec],
        ("## 12.", "## 13."): [Manifest, BaseModelInfo, Dependency, FileRecord, Library, Metric, TensorRecord],
        ("### 8.1", "### 8.2"): [AdapterRecord],
    }
    for (start, stop), models in parts.items():
        known = quoted(section(start, stop))
        for model in models:
            assert set(model.model_fields) <= known, (model, set(model.model_fields) - known)


def test_every_name_with_a_meaning_is_specified() -> None:
    assert quoted(section("### 3.2", "### 3.3")) >= ACTIVATIONS
    assert set(HEAD_TYPES) <= quoted(section("## 6.", "## 7."))
    assert set(_BLOCKS) <= quoted(section("## 4.", "## 5."))
    assert set(ADAPTER_TYPES) <= quoted(section("## 12.", "## 13."))
    assert set(DTYPE_BITS) <= quoted(section("### 16.2", "### 16.3"))


def test_every_schema_folder_and_chapter_named_exists() -> None:
    for name in re.findall(r"[Ss]chema:? `([a-z-]+)`|`([a-z-]+)` schema", TEXT):
        assert (SPEC / "schemas" / f"{next(filter(None, name))}.schema.json").is_file(), name
    for path in re.findall(r"`((?:presets|families|schemas|openapi|conformance)/[^`]*)`", TEXT):
        assert (SPEC / path.split("<")[0]).exists(), path
    headings = re.findall(r"^#+ ([0-9]+(?:\.[0-9]+)?)", TEXT, re.MULTILINE)
    for number in re.findall(r"\(([0-9]{1,2}\.[0-9])\)|chapters? ([0-9]+)", TEXT):
        assert "".join(number) in headings, number
