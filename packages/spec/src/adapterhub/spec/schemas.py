"""JSON Schemas (draft 2020-12) of every document of the spec, made from the models, so that the two cannot drift apart.

`python -m adapterhub.spec schemas --write` writes them to `spec/schemas`, `--check` compares. What a model checks across
fields is added here as `if`/`then` rules; what no schema can say (that a config is expanded, that an id belongs to its
config, that text holds no invisible characters) is said in SPEC.md and checked by `validate`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

__all__ = ["SCHEMA_NAMES", "build_schema", "check_schemas", "schema_id", "write_schemas"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def schema_id(name: str) -> str:
    """The `$id` of the schema `name`: its file name, so that references between schemas work from any place they lie at."""
    return f"{name}.schema.json"


class _Generator(GenerateJsonSchema):
    """Without the titles pydantic makes of every field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _of(model: Any) -> Schema:
    return TypeAdapter(model).json_schema(mode="validation", schema_generator=_Generator)


def _ref(name: str) -> Schema:
    return {"$ref": schema_id(name)}


# --- one function a schema ----------------------------------------------------------------------------------------------


def _adapter_config() -> Schema:
    from adapterhub.spec.config import ACTIVATIONS, any_config

    schema = any_config().json_schema(mode="validation", schema_generator=_Generator)
    definitions = schema["$defs"]
    activation = {"type": "string", "enum": sorted(ACTIVATIONS)}
    for name, definition in definitions.items():
        fields = definition["properties"]
        if "non_linearity" in fields:
            _replace_type(fields["non_linearity"], "string", activation)
        definition["required"] = ["method", *definition.get("required", [])]
        definition.update(_CONFIG_RULES.get(name, {}))
    factor = definitions["BottleneckConfig"]["properties"]["reduction_factor"]
    for arm in factor["anyOf"]:
        if arm.get("type") == "object":
            arm["propertyNames"] = {"pattern": "^(?:default|0|[1-9][0-9]*)$"}
    schema["title"] = "Adapter config"
    schema["description"] = "What is put where in the frozen transformer. Fields left out have their defaults."
    return schema


def _is(field: str, value: Any) -> Schema:
    return {"properties": {field: {"const": value}}, "required": [field]}


def _given(field: str) -> Schema:
    return {"properties": {field: {"not": {"const": None}}}, "required": [field]}


_CONFIG_RULES: dict[str, Schema] = {
    "BottleneckConfig": {
        "allOf": [
            {
                "$comment": "the adapter is placed somewhere (output_adapter is true where it is left out)",
                "anyOf": [
                    {"not": _is("output_adapter", False)},
                    _is("mh_adapter", True),
                    _is("cross_adapter", True),
                    _given("inv_adapter"),
                ],
            },
            {
                "$comment": "one of the two gives the size",
                "not": {"allOf": [_given("reduction_factor"), _given("bottleneck_size")]},
            },
            {"if": _is("reduction_factor", None), "then": _given("bottleneck_size")},
            {
                "if": _is("phm_layer", True),
                "then": {"properties": {"init_weights": {"const": "bert"}}},
            },
        ]
    },
    "PromptTuningConfig": {
        "if": _is("prompt_init", "from_string"),
        "then": _given("prompt_init_text"),
        "else": {"properties": {"prompt_init_text": {"const": None}}},
    },
    "ReftConfig": {
        "$comment": "some position is changed (prefix_positions is 3 where it is left out)",
        "not": {
            "allOf": [
                _is("prefix_positions", 0),
                {"anyOf": [_is("suffix_positions", 0), {"not": {"required": ["suffix_positions"]}}]},
            ]
        },
    },
}


def _replace_type(field: Schema, kind: str, by: Schema) -> None:
    arms = field.get("anyOf", [field])
    for arm in arms:
        if arm.get("type") == kind and "enum" not in arm:
            arm.pop("type")
            arm.update(by)


def _composition() -> Schema:
    from adapterhub.spec.composition import _CHILDREN

    name = {"type": "string", "minLength": 1}
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    options: dict[str, Schema] = {
        "Fuse": {"name": {"type": "string", "minLength": 1}},
        "Split": {"splits": sizes},
        "BatchSplit": {"batch_sizes": sizes},
        "Average": {
            "weights": {"type": "array", "items": {"type": "number"}, "minItems": 1},
            "normalize_weights": {"const": False},
        },
    }
    definitions: Schema = {}
    for block, children in _CHILDREN.items():
        arms = [name, *({"$ref": f"#/$defs/{child}"} for child in sorted(children))]
        definitions[block] = {
            "type": "object",
            "properties": {
                "type": {"const": block},
                "children": {"type": "array", "items": {"anyOf": arms}, "minItems": 1},
                **options.get(block, {}),
            },
            "required": [
                "type",
                "children",
                *(key for key in options.get(block, {}) if key in ("splits", "batch_sizes")),
            ],
            "additionalProperties": False,
        }
    return {
        "title": "Composition",
        "description": "How several adapters work together: a block, the name of one adapter, or null for none.",
        "anyOf": [{"type": "null"}, name, *({"$ref": f"#/$defs/{block}"} for block in definitions)],
        "$defs": definitions,
    }


def _with_activation(schema: Schema) -> Schema:
    from adapterhub.spec.config import ACTIVATIONS

    if "activation_function" in schema["properties"]:
        _replace_type(
            schema["properties"]["activation_function"], "string", {"type": "string", "enum": sorted(ACTIVATIONS)}
        )
    return schema


def _fusion() -> Schema:
    from adapterhub.spec.fusion import FusionConfig

    return _of(FusionConfig)


def _head() -> Schema:
    from adapterhub.spec.heads import HeadConfig

    schema = _with_activation(_of(HeadConfig))
    schema["if"] = _is("head_type", "static")
    schema["then"] = _given("model_class")
    return schema


def _manifest() -> Schema:
    from adapterhub.spec.manifest import Manifest

    schema = _of(Manifest)
    schema["properties"]["config"] = {
        **_ref("adapter-config"),
        "description": "The expanded adapter config: every field of its method written out.",
    }
    schema["properties"]["head"] = {
        "anyOf": [_ref("head-config"), {"type": "null"}],
        "default": None,
        "description": "The prediction head's config, expanded.",
    }
    schema["$comment"] = "task and subtask are given both or not at all"
    schema["if"] = _given("task")
    schema["then"] = _given("subtask")
    schema["else"] = {"not": _given("subtask")}
    return schema


def _adapter_record() -> Schema:
    from adapterhub.spec.validation.adapter_folder import AdapterRecord

    schema = _of(AdapterRecord)
    schema["title"] = "adapter_config.json"
    schema["description"] = "The file that says what is in a native adapter folder."
    schema["properties"]["config"] = _ref("adapter-config")
    return schema


def _preset() -> Schema:
    return {
        "title": "Preset",
        "description": "A name for an adapter config.",
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_+-]*$"},
            "aliases": {"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_+-]*$"}},
            "citation": {"type": "string", "minLength": 1},
            "description": {"type": "string", "minLength": 1},
            "config": _ref("adapter-config"),
        },
        "required": ["name", "citation", "description", "config"],
        "additionalProperties": False,
    }


def _index_entry() -> Schema:
    from adapterhub.spec.index import INDEX_VERSION, IndexEntry

    schema = _of(IndexEntry)
    schema["title"] = "Index entry"
    schema["description"] = inspect.cleandoc(IndexEntry.__doc__ or "")
    schema["$comment"] = "one line of an index file; readers ignore members they do not know, and lines with a later v"
    schema["properties"] = {
        "v": {"type": "integer", "minimum": 1, "default": INDEX_VERSION, "description": "version of the line format"},
        **schema["properties"],
    }
    schema["properties"]["status"] = {"enum": ["available", "unavailable"], "default": "available"}
    for field in ("type", "method"):
        schema["properties"][field].pop("default")
        schema["required"].append(field)
    digest = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
    for field in ("digest", "config_id"):
        schema["properties"][field] = {"anyOf": [digest, {"type": "null"}], "default": None}
    return schema


def _family() -> Schema:
    from adapterhub.spec.family import ModelFamily

    return _of(ModelFamily)


def _record(name: str) -> Callable[[], Schema]:
    def build() -> Schema:
        from adapterhub.spec import catalogue

        return _of(getattr(catalogue, name))

    return build


def _problem_report() -> Schema:
    from adapterhub.spec.validation.problem import Problem

    problem = _of(Problem)
    problem.pop("title", None)
    return {
        "title": "Problem report",
        "description": "What a validator found in a file or folder.",
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "valid": {"type": "boolean", "description": "no problem of severity error"},
            "problems": {"type": "array", "items": problem},
        },
        "required": ["problems"],
        "additionalProperties": False,
    }


def _problem_details() -> Schema:
    from adapterhub.spec.errors import AdapterHubError

    codes: set[str] = set()
    waiting: list[type[AdapterHubError]] = [AdapterHubError]
    while waiting:
        kind = waiting.pop()
        codes.add(kind.code)
        waiting.extend(
            child for child in kind.__subclasses__() if child.__module__ in (kind.__module__, "adapterhub.spec.errors")
        )
    return {
        "title": "Problem details",
        "description": "An error of the hub's HTTP API (RFC 9457).",
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "code": {"type": "string", "examples": sorted(codes)},
            "hint": {"type": "string"},
            "candidates": {"type": "array"},
            "suggestions": {"type": "array", "items": {"type": "string"}},
            "request_id": {"type": "string"},
            "problems": {"type": "array", "items": {"$ref": "#/$defs/Problem"}},
        },
        "required": ["type", "title", "status", "detail", "code"],
        "$defs": {"Problem": _problem_report()["properties"]["problems"]["items"]},
    }


_BUILDERS: dict[str, Callable[[], Schema]] = {
    "adapter-config": _adapter_config,
    "adapter-record": _adapter_record,
    "composition": _composition,
    "family": _family,
    "fusion-config": _fusion,
    "head-config": _head,
    "index-entry": _index_entry,
    "manifest": _manifest,
    "preset": _preset,
    "problem-details": _problem_details,
    "problem-report": _problem_report,
    "catalogue-adapter": _record("AdapterRecord"),
    "catalogue-adapter-type": _record("AdapterTypeRecord"),
    "catalogue-architecture": _record("Architecture"),
    "catalogue-language": _record("Language"),
    "catalogue-organisation": _record("Organisation"),
    "catalogue-subtask": _record("Subtask"),
    "catalogue-task": _record("Task"),
}

#: Every schema there is; `<name>.schema.json` is its file.
SCHEMA_NAMES: tuple[str, ...] = tuple(sorted(_BUILDERS))


@cache
def _built(name: str) -> str:
    schema = {"$schema": DIALECT, "$id": schema_id(name), **_tidy(_BUILDERS[name]())}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def build_schema(name: str) -> Schema:
    """The schema `name` as JSON.

    Raises:
        KeyError: there is none of that name.
    """
    schema: Schema = json.loads(_built(name))
    return schema


def write_schemas(folder: Path | None = None) -> list[Path]:
    """Write all schemas to `folder` (by default the one shipped with the package) and return their paths."""
    target = folder or _shipped()
    written = []
    for name in SCHEMA_NAMES:
        path = target / schema_id(name)
        path.write_text(_built(name), encoding="utf-8")
        written.append(path)
    return written


def check_schemas(folder: Path | None = None) -> list[str]:
    """The names of schema files in `folder` that are missing, left over or not what the models say."""
    target = folder or _shipped()
    expected = {schema_id(name): _built(name) for name in SCHEMA_NAMES}
    found = {path.name: path.read_text(encoding="utf-8") for path in target.glob("*.json")}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _shipped() -> Path:
    return Path(str(resources.files("adapterhub.spec") / "data" / "schemas"))


_NUMBER = [{"type": "integer"}, {"type": "number"}]
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def _tidy(value: Any) -> Any:
    """Plain draft 2020-12: bounds under their own names, numbers as numbers, docstrings as one paragraph."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    tidy: Schema = {}
    value = _described(value)
    for key, item in value.items():
        if key == "discriminator" and "oneOf" in value:
            continue
        if key == "anyOf" and item == _NUMBER:
            tidy["type"] = "number"
        elif key in _BOUNDS and not isinstance(item, (Mapping, list)):
            tidy[_BOUNDS[key]] = item
        elif key == "pattern" and isinstance(item, str) and item.endswith("$"):
            tidy[key] = f"{item[:-1]}(?!\\n)$"  # some languages let $ match before a last line end
        elif key == "description" and isinstance(item, str):
            tidy[key] = _paragraph(item)
        else:
            tidy[key] = _tidy(item)
    return tidy


_SECTION = re.compile(r"\n(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)*)")
_ITEM = re.compile(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def _described(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of an object with what its docstring says of each field as the description of that field."""
    properties, told = schema.get("properties"), schema.get("description")
    section = _SECTION.search(told + "\n") if isinstance(told, str) else None
    if not isinstance(properties, dict) or section is None:
        return schema
    texts = {
        name.strip(): " ".join(text.replace("`", "").split())
        for names, text in _ITEM.findall(section[1])
        for name in names.split(",")
    }
    return {
        **schema,
        "properties": {
            name: field if name not in texts or "description" in field else {**field, "description": texts[name]}
            for name, field in properties.items()
        },
    }


def _paragraph(text: str) -> str:
    body = text.split("\nArgs:")[0].split("\nAttributes:")[0]
    return " ".join(body.replace("`", "").split()) if "\n" in text else text
