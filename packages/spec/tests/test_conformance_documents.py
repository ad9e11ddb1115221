"""The vectors of configs, manifests and headers are what their generators make, and our own code passes them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from adapterhub.spec import InvalidConfigError, InvalidManifestError, Manifest, parse_config
from adapterhub.spec.composition import parse_composition
from adapterhub.spec.fusion import parse_fusion
from adapterhub.spec.heads import parse_head
from adapterhub.spec.manifest import index_entry, manifest_problems
from adapterhub.spec.safetensors_header import SafetensorsError, parse_header
from adapterhub.spec.schemas import SCHEMA_NAMES, build_schema, schema_id

FOLDER = Path(__file__).parents[3] / "spec" / "conformance"
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema_id(name), Resource.from_contents(build_schema(name))) for name in SCHEMA_NAMES
)


def vectors(path: str, kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["id"]) for vector in json.loads((FOLDER / path).read_text())[kind]]


def fits(name: str, document: Any) -> bool:
    return Draft202012Validator(build_schema(name), registry=REGISTRY).is_valid(document)


@pytest.mark.parametrize("program", ["configs", "manifests", "headers"])
def test_the_vectors_are_those_of_the_generator(program: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "generate" / f"{program}.py", tmp_path], check=True, capture_output=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.json"))
    assert made
    for path in made:
        assert (tmp_path / path).read_text() == (FOLDER / path).read_text()


@pytest.mark.parametrize("vector", vectors("configs/adapters.json", "valid"))
def test_valid_configs(vector: dict[str, Any]) -> None:
    config = parse_config(vector["config"])
    assert config.expand() == vector["expanded"] and config.config_id == vector["config_id"]
    assert parse_config(vector["expanded"]) == config
    assert fits("adapter-config", vector["config"]) and fits("adapter-config", vector["expanded"])


@pytest.mark.parametrize("vector", vectors("configs/adapters.json", "invalid"))
def test_invalid_configs(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        parse_config(vector["config"])
    assert fits("adapter-config", vector["config"]) != vector["schema"]


@pytest.mark.parametrize("kind", ["composition", "fusion", "head"])
def test_other_configs(kind: str) -> None:
    document = json.loads((FOLDER / "configs/others.json").read_text())
    parse: Any = {"composition": parse_composition, "fusion": parse_fusion, "head": parse_head}[kind]
    schema = {"composition": "composition", "fusion": "fusion-config", "head": "head-config"}[kind]
    for vector in document[f"{kind}s"]:
        parsed = parse(vector["config"])
        assert fits(schema, vector["config"]), vector["id"]
        if kind == "composition":
            assert vector["names"] == ([] if parsed is None else parsed.names())
        else:
            assert (parsed.expand(), parsed.config_id) == (vector["expanded"], vector["config_id"])
    for vector in document[f"invalid_{kind}s"]:
        with pytest.raises(InvalidConfigError):
            parse(vector["config"])
        assert fits(schema, vector["config"]) != vector["schema"], vector["id"]


@pytest.mark.parametrize("vector", vectors("manifests/manifests.json", "valid"))
def test_valid_manifests(vector: dict[str, Any]) -> None:
    manifest = Manifest.from_bytes(json.dumps(vector["manifest"]).encode())
    assert manifest.digest == vector["digest"]
    assert Manifest.from_bytes(manifest.canonical_bytes()).digest == vector["digest"]
    assert json.loads(json.dumps(index_entry(manifest).to_json())) == vector["index_entry"]
    assert fits("manifest", vector["manifest"]) and fits("manifest", manifest.to_json())
    assert fits("index-entry", vector["index_entry"])


@pytest.mark.parametrize("vector", vectors("manifests/manifests.json", "invalid"))
def test_invalid_manifests(vector: dict[str, Any]) -> None:
    pointers = {problem.pointer for problem in manifest_problems(json.dumps(vector["manifest"]).encode())}
    assert pointers and set(vector["pointers"]) <= pointers
    assert fits("manifest", vector["manifest"]) != vector["schema"]


@pytest.mark.parametrize("vector", vectors("manifests/manifests.json", "broken"))
def test_bytes_that_are_no_manifest(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifestError):
        Manifest.from_bytes(base64.b64decode(vector["base64"]))


@pytest.mark.parametrize("vector", vectors("headers/headers.json", "valid"))
def test_valid_headers(vector: dict[str, Any]) -> None:
    header = parse_header(base64.b64decode(vector["base64"]))
    assert header.metadata == vector["metadata"]
    assert {
        tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": list(tensor.offsets)}
        for tensor in header.tensors
    } == vector["tensors"]


@pytest.mark.parametrize("vector", vectors("headers/headers.json", "invalid"))
def test_invalid_headers(vector: dict[str, Any]) -> None:
    with pytest.raises(SafetensorsError):
        parse_header(base64.b64decode(vector["base64"]))
