"""The vectors in spec/conformance hold for this implementation, and are what their generators write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from adapterhub.spec import (
    AdapterHubError,
    IndexEntry,
    InvalidManifestError,
    InvalidReferenceError,
    canonical_json,
    digest_of,
    fold,
    format_reference,
    load_preset,
    parse_config,
    parse_reference,
    resolve,
)
from adapterhub.spec.config_match import expand
from adapterhub.spec.index import read_lines
from adapterhub.spec.index_files import build_index
from adapterhub.spec.lookup import look_up
from adapterhub.spec.reference import AdapterReference

CONFORMANCE = Path(__file__).parents[3] / "spec" / "conformance"
SCHEMAS = CONFORMANCE.parent / "schemas"
GENERATORS = ("canonical", "references", "resolution", "index", "schemas")


def vectors(path: str, name: str) -> list[Any]:
    """One list of a vector file, with its ids."""
    listed = json.loads((CONFORMANCE / path).read_text(encoding="ascii"))[name]
    return [pytest.param(vector, id=vector["id"]) for vector in listed]


def document(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFORMANCE / path).read_text(encoding="ascii"))
    return found


def strict_json(text: str) -> Any:
    """Python's reader, made to refuse repeated names."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name comes twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_vectors_are_what_the_generator_writes(generator: str, tmp_path: Path) -> None:
    program = CONFORMANCE / "generate" / f"{generator}.py"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, str(program), str(tmp_path)], check=True, env=environment)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")]
    assert written
    for path in written:
        assert (tmp_path / path).read_text() == (CONFORMANCE / path).read_text(), (
            f"run spec/conformance/generate/{generator}.py"
        )


def test_the_table_of_defaults_is_that_of_the_models(tmp_path: Path) -> None:
    program = CONFORMANCE / "generate" / "defaults.py"
    subprocess.run([sys.executable, str(program), str(tmp_path / "defaults.json")], check=True)
    committed = (CONFORMANCE.parent / "defaults.json").read_text()
    assert (tmp_path / "defaults.json").read_text() == committed, "run spec/conformance/generate/defaults.py"


@pytest.mark.parametrize("vector", vectors("canonical/canonical.json", "valid"))
def test_canonical_json(vector: dict[str, Any]) -> None:
    assert canonical_json(strict_json(vector["json"])) == vector["canonical"]
    assert digest_of(strict_json(vector["json"])) == f"sha256:{vector['sha256']}"
    assert canonical_json(strict_json(vector["canonical"])) == vector["canonical"]


@pytest.mark.parametrize("vector", vectors("canonical/canonical.json", "invalid"))
def test_what_has_no_canonical_form(vector: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        canonical_json(strict_json(vector["json"]))


@pytest.mark.parametrize("vector", vectors("canonical/config_ids.json", "valid"))
def test_config_ids(vector: dict[str, Any]) -> None:
    fields = json.loads(vector["json"])
    expanded = expand(fields)
    assert canonical_json(expanded) == canonical_json(vector["expanded"])
    config = parse_config(vector["expanded"])
    assert config.config_id == vector["config_id"]
    assert config.legacy_config_id == vector.get("legacy_config_id")
    assert load_preset(fields.pop("using"), **fields) == config


def test_equal_configs_have_equal_ids_and_others_do_not() -> None:
    ids: dict[str, set[str]] = {}
    for vector in document("canonical/config_ids.json")["valid"]:
        ids.setdefault(vector["why"], set()).add(vector["config_id"])
    assert all(len(found) == 1 for found in ids.values())
    distinct = [next(iter(found)) for found in ids.values()]
    assert len(set(distinct)) == len(distinct)


@pytest.mark.parametrize("vector", vectors("references/references.json", "valid"))
def test_valid_references(vector: dict[str, Any]) -> None:
    reference = parse_reference(vector["text"])
    assert reference == AdapterReference(**vector["parts"])
    assert format_reference(reference) == vector["normal"]
    assert parse_reference(vector["normal"]) == reference


@pytest.mark.parametrize("vector", vectors("references/references.json", "invalid"))
def test_invalid_references(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_reference(vector["text"])


@pytest.mark.parametrize("vector", vectors("references/references.json", "folded"))
def test_folded_keys(vector: dict[str, Any]) -> None:
    assert fold(vector["text"]) == vector["key"]


@pytest.fixture(scope="module")
def catalogue() -> tuple[list[IndexEntry], dict[tuple[str, str, str], str]]:
    listed = document("resolution/catalogue.json")
    defaults = {(one["model_name"], one["task"], one["subtask"]): one["default"] for one in listed["defaults"]}
    return [IndexEntry.from_json(entry) for entry in listed["entries"]], defaults


@pytest.mark.parametrize("vector", vectors("resolution/cases.json", "cases"))
def test_resolution(vector: dict[str, Any], catalogue: Any) -> None:
    entries, defaults = catalogue
    context = {name: vector[name] for name in ("model_name", "config", "version", "type", "aliases")}
    expected = vector["expect"]
    try:
        found = resolve(vector["ref"], entries, defaults=defaults, **context)
    except AdapterHubError as error:
        assert error.code == expected["error"]
        key = lambda one: json.dumps(one, sort_keys=True)  # noqa: E731
        assert sorted(error.candidates, key=key) == sorted(expected["candidates"], key=key)
        if error.code == "NotFound":
            assert error.details["models"] == expected["models"]
            assert set(expected["must_suggest"]) <= set(error.suggestions)
        if error.code == "ModelMismatch":
            assert error.details["adapter_model"] == expected["adapter_model"]
        return
    answer = {
        "id": found.full_id,
        "namespace": found.namespace,
        "adapter": found.name,
        "version": found.version,
        "architecture": found.config,
        "tier": found.tier,
        "decided_by": found.decided_by,
        **({"hub": found.hub} if found.hub else {}),
        **({"sha256": found.sha256} if found.sha256 else {}),
    }
    assert {"ok": answer} == expected


@pytest.mark.parametrize("vector", vectors("index/lines.json", "valid"))
def test_index_lines(vector: dict[str, Any]) -> None:
    [entry] = read_lines(vector["line"])
    for name, value in vector["members"].items():
        found = entry.to_json().get(name, getattr(entry, name, None))
        assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize("vector", vectors("index/lines.json", "invalid"))
def test_broken_index_lines(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifestError):
        read_lines(vector["line"])


@pytest.mark.parametrize("vector", vectors("index/lines.json", "skipped"))
def test_index_lines_passed_over(vector: dict[str, Any]) -> None:
    assert read_lines(vector["line"]) == []


@pytest.mark.parametrize("name", ["files", "split"])
def test_index_files_and_lookups(catalogue: Any, name: str) -> None:
    entries, defaults = catalogue
    listed = document(f"index/{name}.json")
    tree = {file["path"]: file["text"].encode() for file in listed["files"]}
    aliases = json.loads(tree["/index/aliases.json"])
    built = dict(build_index(entries, defaults, aliases=aliases, split_above=listed["split_above"]))
    assert {path: built.get(path) for path in tree.keys() - {"/index/config.json"}} == {
        path: tree[path] for path in tree.keys() - {"/index/config.json"}
    }
    assert listed["complete"] is False or built.keys() == tree.keys()
    for vector in listed["lookups"]:
        context = {name: vector[name] for name in ("model_name", "type", "aliases")}
        steps = look_up(vector["ref"], **context, complete=vector["complete"])
        rounds = [next(steps)]
        with pytest.raises((StopIteration, AdapterHubError)):
            while True:
                rounds.append(steps.send({path: tree.get(path) for path in rounds[-1]}))
        assert [sorted(paths) for paths in rounds] == [sorted(paths) for paths in vector["rounds"]]


@pytest.fixture(scope="module")
def schemas() -> dict[str, Draft202012Validator]:
    """A validator for each schema by its name."""
    found = {
        path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.json"))
    }
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in found.values()
    )
    return {name: Draft202012Validator(schema, registry=registry) for name, schema in found.items()}


@pytest.mark.parametrize("path", sorted((CONFORMANCE / "schemas").glob("*.json")), ids=lambda path: path.stem)
def test_schema_vectors(path: Path, schemas: dict[str, Draft202012Validator]) -> None:
    listed = json.loads(path.read_text(encoding="ascii"))
    validator = schemas[listed["schema"]]
    for vector in listed["valid"]:
        assert [error.message for error in validator.iter_errors(vector["document"])] == [], vector["id"]
    for vector in listed["invalid"]:
        assert validator.is_valid(vector["document"]) is not vector["schema"], vector["id"]


def test_every_schema_has_vectors(schemas: dict[str, Draft202012Validator]) -> None:
    elsewhere = {"adapter-config", "composition", "fusion-config", "head-config", "manifest"}
    assert {path.stem for path in (CONFORMANCE / "schemas").glob("*.json")} == schemas.keys() - elsewhere
