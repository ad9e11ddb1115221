"""The server's own description of its HTTP interface has everything the spec's `openapi/hub-v1.yaml` promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SPEC = Path(__file__).parents[1] / "spec" / "openapi" / "hub-v1.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(SPEC.read_text())
METHODS = ("get", "head", "post", "put", "patch", "delete")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, operation with the parameters of its path)."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                shared = item.get("parameters", [])
                operation = item[method]
                parameters = [_resolved(document, p) for p in (*shared, *operation.get("parameters", []))]
                yield path, method, {**operation, "parameters": parameters}


def _resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    reference = part.get("$ref")
    if reference is None:
        return part
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    from adapterhub.server.app import create_app
    from adapterhub.server.settings import Settings

    described = create_app(Settings(data=tmp_path_factory.mktemp("hub"))).openapi()
    return {(_shape(path), method): operation for path, method, operation in operations(described)}


@pytest.mark.parametrize(
    ("path", "method", "operation"),
    [
        pytest.param(*found, id=f"{found[1].upper()} {found[0]}")
        for found in operations(DOCUMENT)
        if not found[2].get("x-optional")
    ],
)
def test_the_server_has_what_the_spec_promises(
    path: str, method: str, operation: dict[str, Any], server: dict[tuple[str, str], dict[str, Any]]
) -> None:
    found = server.get((_shape(path), method))
    assert found is not None, f"the server has no {method.upper()} {path}"
    theirs = {(p["in"], p["name"].lower()): p.get("required", False) for p in found["parameters"] if p["in"] != "path"}
    for parameter in operation["parameters"]:
        if parameter["in"] != "path":
            key = (parameter["in"], parameter["name"].lower())
            assert key in theirs, f"{method.upper()} {path} has no parameter {key}"
            assert theirs[key] == parameter.get("required", False), key
    ours = {("in" if p["in"] == "path" else p["in"], p["name"].lower()) for p in operation["parameters"]}
    extra = {key for key, required in theirs.items() if required} - ours
    assert not extra, f"{method.upper()} {path} demands {extra}, which the spec does not know"
    successes = {code for code in operation["responses"] if code.startswith("2")}
    assert successes <= set(found["responses"]), (successes, set(found["responses"]))
    body = operation.get("requestBody")
    if body is not None:
        media = set(_resolved(DOCUMENT, body)["content"])
        assert media <= set(found.get("requestBody", {}).get("content", {})), media


def test_every_operation_has_a_name_of_its_own_and_tells_how_it_fails() -> None:
    found = list(operations(DOCUMENT))
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names)
    for path, method, operation in found:
        assert operation["summary"], (path, method)
        if path.startswith(("/v1/", "/index/")):
            assert {"4XX", "5XX"} <= set(operation["responses"]), (path, method)
            assert "security" in operation, (path, method)


def test_every_reference_leads_somewhere() -> None:
    def walk(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for key, value in part.items():
                if key == "$ref":
                    yield value
                else:
                    yield from walk(value)
        elif isinstance(part, list):
            for item in part:
                yield from walk(item)

    for reference in walk(DOCUMENT):
        if reference.startswith("#/"):
            assert _resolved(DOCUMENT, {"$ref": reference})
        else:
            assert (SPEC.parent / reference).is_file(), reference
