"""The JSON Schemas are those of the models, are schemas, and judge documents as the models do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from packages.spec.tests.folders import write_folder
from referencing import Registry, Resource

from adapterhub.spec import build_manifest, family_names, load_family, load_preset, parse_config, preset_names
from adapterhub.spec.__main__ import main
from adapterhub.spec.composition import Average, BatchSplit, Fuse, Parallel, Split, Stack
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError, UnsupportedModelError
from adapterhub.spec.fusion import parse_fusion
from adapterhub.spec.heads import HEAD_TYPES, HeadConfig
from adapterhub.spec.manifest import index_entry
from adapterhub.spec.presets import preset_documents
from adapterhub.spec.schemas import SCHEMA_NAMES, build_schema, check_schemas, schema_id, write_schemas
from adapterhub.spec.validation.problem import Problem

REGISTRY: Registry[Any] = Registry().with_resources(
    (schema_id(name), Resource.from_contents(build_schema(name))) for name in SCHEMA_NAMES
)


def errors(name: str, document: Any) -> list[str]:
    validator = Draft202012Validator(build_schema(name), registry=REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(json.dumps(document)))]


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_every_schema_is_one_and_stands_in_its_file(name: str) -> None:
    schema = build_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == schema_id(name)
    folder = Path(__file__).parents[3] / "spec" / "schemas"
    assert json.loads((folder / f"{name}.schema.json").read_text()) == schema


def test_drift_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_schemas(tmp_path)
    assert check_schemas(tmp_path) == [] and main(["schemas", "--check", "--folder", str(tmp_path)]) == 0
    (tmp_path / "manifest.schema.json").write_text("{}")
    (tmp_path / "stray.schema.json").write_text("{}")
    (tmp_path / "preset.schema.json").unlink()
    assert check_schemas(tmp_path) == ["manifest.schema.json", "preset.schema.json", "stray.schema.json"]
    assert main(["schemas", "--check", "--folder", str(tmp_path)]) == 1
    assert "schemas --write" in capsys.readouterr().err


def test_no_keyword_is_unknown_to_json_schema() -> None:
    known = {
        "$schema",
        "$id",
        "$ref",
        "$defs",
        "$comment",
        "title",
        "description",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "enum",
        "const",
        "default",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "propertyNames",
        "format",
        "examples",
        "prefixItems",
    }

    def walk(schema: Any) -> None:
        if isinstance(schema, list):
            for item in schema:
                walk(item)
        if not isinstance(schema, dict):
            return
        assert set(schema) <= known, set(schema) - known
        for key, item in schema.items():
            if key in ("properties", "$defs"):
                for inner in item.values():
                    walk(inner)
            elif key not in ("default", "enum", "const", "examples", "required"):
                walk(item)

    for name in SCHEMA_NAMES:
        walk(build_schema(name))


@pytest.mark.parametrize("name", preset_names())
def test_presets_and_their_expanded_configs_are_valid(name: str) -> None:
    assert errors("preset", preset_documents()[name]) == []
    assert errors("adapter-config", load_preset(name).expand()) == []


@pytest.mark.parametrize("name", family_names())
def test_families_are_valid(name: str) -> None:
    assert errors("family", load_family(name).model_dump(mode="json")) == []


def test_a_family_is_found_by_its_name_and_by_a_model_type_it_is_for() -> None:
    assert load_family("roberta") == load_family("bert")
    assert load_family("wav2vec2").family == "wav2vec2"  # a name comes before the types of other files
    with pytest.raises(UnsupportedModelError) as caught:
        load_family("robrta")
    assert "roberta" in caught.value.suggestions


BASE: dict[str, Any] = {"method": "bottleneck"}


@pytest.mark.parametrize(
    "config",
    [
        {**BASE, "output_adapter": False},
        {**BASE, "output_adapter": False, "inv_adapter": None},
        {**BASE, "reduction_factor": 8, "bottleneck_size": 8},
        {**BASE, "reduction_factor": None},
        {**BASE, "reduction_factor": 0},
        {**BASE, "reduction_factor": {"first": 2}},
        {**BASE, "reduction_factor": True},
        {**BASE, "non_linearity": "os.system"},
        {**BASE, "phm_layer": True, "init_weights": "houlsby"},
        {**BASE, "leave_out": [-1]},
        {**BASE, "residual_before_ln": "before"},
        {**BASE, "scaling": "auto"},
        {**BASE, "dropout": 1},
        {**BASE, "ln": True},
        {"method": "adapter"},
        {"method": "lora", "r": 0},
        {"method": "lora", "attn_matrices": ["x"]},
        {"method": "ia3", "ffn": "both"},
        {"method": "prefix", "prefix_length": 2.5},
        {"method": "prompt", "prompt_init": "from_string"},
        {"method": "prompt", "prompt_init_text": "hello"},
        {"method": "reft", "prefix_positions": 0},
        {"method": "reft", "prefix_positions": 0, "suffix_positions": 0},
        {"method": "union", "configs": []},
        {"method": "union", "configs": [{"method": "union", "configs": []}]},
    ],
    ids=str,
)
def test_schema_and_model_refuse_the_same_configs(config: dict[str, Any]) -> None:
    assert errors("adapter-config", config)
    with pytest.raises(InvalidConfigError):
        parse_config(config)


@pytest.mark.parametrize(
    "config",
    [
        {**BASE, "mh_adapter": True, "output_adapter": False},
        {**BASE, "output_adapter": False, "inv_adapter": "nice"},
        {**BASE, "bottleneck_size": 8},
        {**BASE, "reduction_factor": None, "bottleneck_size": 8},
        {**BASE, "reduction_factor": {"default": 2, "11": 4.5}},
        {**BASE, "reduction_factor": 2.0},
        {**BASE, "residual_before_ln": "post_add", "scaling": "learned"},
        {"method": "prompt", "prompt_init": "from_string", "prompt_init_text": "hello"},
        {"method": "reft", "prefix_positions": 0, "suffix_positions": 1},
        {"method": "union", "configs": [{"method": "lora"}, {"method": "prefix"}]},
    ],
    ids=str,
)
def test_schema_and_model_take_the_same_configs(config: dict[str, Any]) -> None:
    assert errors("adapter-config", config) == []
    assert errors("adapter-config", parse_config(config).expand()) == []


def test_manifests_records_and_index_entries_are_valid(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    manifest = build_manifest(
        folder, reference="sentiment/sst-2@ukp", metrics=[{"name": "f1", "value": 0.5}], languages=["en"]
    )
    assert errors("manifest", manifest.to_json()) == []
    assert errors("manifest", {**manifest.to_json(), "extra": 1})
    assert errors("manifest", {**manifest.to_json(), "config": {"method": "lora", "r": -1}})
    assert errors("adapter-record", json.loads((folder / "adapter_config.json").read_text())) == []
    assert errors("index-entry", index_entry(manifest).to_json()) == []
    assert errors("index-entry", {"namespace": "a"})


def test_compositions_fusion_and_heads_are_valid() -> None:
    for block in (
        Stack("a", Parallel("b", "c")),
        Stack("a", Fuse("b", Stack("c", "d"), name="x")),
        Split("a", "b", splits=[3, 4]),
        BatchSplit("a", Average("b", "c", weights=[1, 2.5]), batch_sizes=2),
    ):
        assert errors("composition", block.to_dict()) == []
    for wrong in ({"type": "Fuse", "children": [Parallel("a").to_dict()]}, {"type": "Stack", "children": []}, 3, ""):
        assert errors("composition", wrong)
    assert errors("composition", {"type": "Split", "children": ["a", "b"]})
    for preset in ("static", "dynamic"):
        assert errors("fusion-config", parse_fusion(preset).expand()) == []
    assert errors("fusion-config", {"temperature": 50})
    for kind in HEAD_TYPES:
        model = "BertForSequenceClassification" if kind == "static" else None
        assert errors("head-config", HeadConfig(head_type=kind, model_class=model).expand()) == []  # type: ignore[arg-type]
    assert errors("head-config", {"head_type": "static"}) and errors("head-config", {"head_type": "guess"})


def test_problems_are_valid() -> None:
    problem = Problem("/a", "is wrong", file="x.json", line=3)
    assert errors("problem-report", {"path": "x", "valid": False, "problems": [problem.to_json()]}) == []
    details = {**AdapterNotFoundError("nothing", suggestions=["x"]).to_problem(), "problems": [problem.to_json()]}
    assert errors("problem-details", details) == []


def test_the_real_catalogue_is_valid_once_converted() -> None:
    data = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not (data / "hub-catalogue").is_dir():
        pytest.skip("the catalogue is not at hand (ADAPTERHUB_TEST_DATA)")
    from adapterhub.spec import read_legacy_catalogue

    catalogue = read_legacy_catalogue(data / "hub-catalogue")
    kinds = {
        "catalogue-adapter": catalogue.adapters,
        "catalogue-adapter-type": catalogue.types,
        "catalogue-architecture": catalogue.architectures,
        "catalogue-language": catalogue.languages,
        "catalogue-organisation": catalogue.organisations,
        "catalogue-subtask": catalogue.subtasks,
        "catalogue-task": catalogue.tasks,
    }
    for name, records in kinds.items():
        validator = Draft202012Validator(build_schema(name), registry=REGISTRY)
        assert records, name
        for record in records:
            validator.validate(record.model_dump(mode="json"))
    validator = Draft202012Validator(build_schema("index-entry"), registry=REGISTRY)
    for entry in catalogue.entries:
        validator.validate(json.loads(entry.to_json_line()))


def test_what_the_models_say_of_their_fields_is_in_the_schemas() -> None:
    def undescribed(name: str, *path: str) -> list[str]:
        schema = build_schema(name)
        for step in path:
            schema = schema[step]
        return [field for field, part in schema["properties"].items() if "description" not in part]

    assert undescribed("index-entry") == []
    for part in ("TowerSpec", "SublayerSpec", "ResidualSpec", "EmbeddingSpec"):
        assert undescribed("family", "$defs", part) == [], part
    assert undescribed("problem-report", "properties", "problems", "items") == []
