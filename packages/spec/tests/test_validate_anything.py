"""Content never raises: whatever a document holds, the validator answers with problems."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from packages.spec.tests.folders import safetensors, write_folder

from adapterhub.spec import build_manifest, load_preset, preset_names
from adapterhub.spec.composition import Fuse, Parallel, Stack
from adapterhub.spec.fusion import FusionConfig
from adapterhub.spec.heads import HeadConfig
from adapterhub.spec.manifest import index_entry
from adapterhub.spec.validate import validate_bytes, validate_path

SUFFIXES = (".safetensors", ".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".bin", ".zip", "")

_text = st.text(max_size=8) | st.sampled_from(["sha256:", "bottleneck", "1.0", "a/b", "../x", "\u202e", "no", "8"])
_leaf = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | _text
    | st.sampled_from([[], {}, [[]], [None], {"": None}, "x" * 3000, 10**400])
)
_value = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=6
)


@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_bytes_under_any_name(data: bytes, suffix: str) -> None:
    assert isinstance(validate_bytes(data, f"x{suffix}"), list)


@given(
    _value, st.sampled_from(["x.json", "adapter_config.json", "head_config.json", "tasks/text_task/x.json", "x.jsonl"])
)
def test_any_json_value(value: Any, name: str) -> None:
    text = json.dumps(value)
    for problem in validate_bytes(text.encode("utf-8", "surrogatepass"), name):
        assert json.dumps(problem.to_json())


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_folder(tmp_path_factory.mktemp("a") / "x")
    manifest = build_manifest(
        folder,
        reference="sentiment/sst-2@ukp",
        metrics=[{"name": "f1", "value": 0.5}],
        dependencies=["en/wiki@ukp"],
        authors=["A"],
    )
    head = HeadConfig(head_type="classification", label2id={"a": 0})
    return {
        "manifest.json": manifest.to_json(),
        "adapter_config.json": json.loads((folder / "adapter_config.json").read_text()),
        "head_config.json": {"name": "x", "config": head.expand()},
        "entry.json": index_entry(manifest).to_json(),
        **{f"{name}.json": load_preset(name).expand() for name in preset_names()},
        "task.json": {"task": "a", "display_name": "A", "type": "text_task"},
        "record.json": {
            "type": "text_task",
            "task": "a",
            "subtask": "b",
            "model_type": "bert",
            "model_name": "m",
            "config": {"using": "pfeiffer", "reduction_factor": 16},
            "author": "A",
            "default_version": "1",
            "files": [{"version": "1", "url": "https://example.org/x.zip", "sha1": "0" * 40}],
            "dependencies": [{"key": "a/b"}],
        },
    }


def changed(document: Any, draw: Any) -> Any:
    """The document with one part replaced, removed or added."""
    document = copy.deepcopy(document)
    place = document
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return document
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "replace":
            place[key] = draw(_value)
        elif action == "remove":
            del place[key]
        elif isinstance(place, dict):
            place[draw(_text)] = draw(_value)
        else:
            place.append(draw(_value))
        return document


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.data())
def test_valid_documents_with_one_part_changed(documents: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(documents)))
    document = changed(documents[name], data.draw)
    for problem in validate_bytes(json.dumps(document).encode("utf-8", "surrogatepass"), name):
        assert problem.message and json.dumps(problem.to_json())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.data())
def test_folders_with_one_part_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = write_folder(tmp_path_factory.mktemp("b") / "x")
    path = folder / data.draw(st.sampled_from(["adapter_config.json", "head_config.json"]))
    path.write_bytes(json.dumps(changed(json.loads(path.read_text()), data.draw)).encode("utf-8", "surrogatepass"))
    assert isinstance(validate_path(folder), list)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.data())
def test_setups_with_one_part_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder: Path = tmp_path_factory.mktemp("c") / "setup"
    fusion = folder / "f"
    fusion.mkdir(parents=True)
    files = {
        folder / "adapter_setup.json": {
            "adapter_setup": Stack(Fuse("a", "b"), Parallel("c", "d")).to_dict(),
            "fusions": {"a,b": "f"},
            "adapters": {},
        },
        fusion / "fusion_config.json": {"name": "a,b", "adapters": ["a", "b"], "config": FusionConfig().expand()},
    }
    (fusion / "fusion.safetensors").write_bytes(safetensors({"encoder.0.ffn.query.weight": (2, 2)}))
    wrong = data.draw(st.sampled_from(sorted(files)))
    for path, document in files.items():
        text = json.dumps(changed(document, data.draw) if path == wrong else document)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert isinstance(validate_path(folder), list)
