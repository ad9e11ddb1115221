"""The server's own description of its HTTP interface has everything the spec's `openapi/hub-v1.yaml` promises."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

#: Third parties write their client from this file alone; so does the second half of these tests.
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
    [pytest.param(*found, id=f"{found[1].upper()} {found[0]}") for found in operations(DOCUMENT)],
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


# --- a client written from the description alone, against a running hub ---------------------------------------------------


def _registry() -> Registry[Any]:
    """The description and the schemas it refers to, as if the repository's `spec` folder were the root."""
    schemas = {
        f"/schemas/{path.name}": json.loads(path.read_text()) for path in (SPEC.parents[1] / "schemas").glob("*")
    }
    for schema in schemas.values():
        schema.pop("$id")  # names are given by where the files lie
    documents = {"/openapi/hub-v1.yaml": DOCUMENT, **schemas}
    return Registry().with_resources(
        (name, Resource.from_contents({"$schema": Draft202012Validator.META_SCHEMA["$id"], **document}))
        for name, document in documents.items()
    )


REGISTRY = _registry()


def check(answer: httpx.Response, path: str, method: str) -> Any:
    """The body of an answer, once it is one the description allows."""
    operation = DOCUMENT["paths"][path][method]
    code = str(answer.status_code)
    where = next((c for c in (code, f"{code[0]}XX") if c in operation["responses"]), None)
    assert where is not None, (method, path, code, answer.text)
    described = _resolved(DOCUMENT, operation["responses"][where])
    for header, details in described.get("headers", {}).items():
        if details.get("required"):
            assert header in answer.headers
    media = answer.headers.get("content-type", "").partition(";")[0]
    if "content" not in described or method == "head":
        return None
    assert media in described["content"], (media, list(described["content"]))
    if "json" not in media or media == "application/jsonl":
        return answer.content
    pointer = f"/paths/{path.replace('/', '~1')}/{method}/responses/{where}"
    if "$ref" in operation["responses"][where]:
        pointer = operation["responses"][where]["$ref"].removeprefix("#")
    pointer += f"/content/{media.replace('/', '~1')}/schema"
    if "schema" in described["content"][media]:
        schema = {"$ref": f"/openapi/hub-v1.yaml#{pointer}"}
        Draft202012Validator(schema, registry=REGISTRY).validate(answer.json())
    return answer.json()


@pytest.fixture(scope="module")
def anonymous(hub: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.endpoint, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def publisher(hub: Any) -> Iterator[httpx.Client]:
    hub.administer("org", "create", "acme")
    token = hub.administer("token", "create", "--org", "acme", "--scope", "admin")
    with httpx.Client(base_url=hub.endpoint, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def published(publisher: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An adapter published by the steps of SPEC.md 15.3; the manifest."""
    from packages.spec.tests.folders import write_folder

    from adapterhub.spec import build_manifest

    folder = write_folder(tmp_path_factory.mktemp("adapter") / "x")
    manifest = build_manifest(folder, reference="sentiment/sst-2@acme:1", license="Apache-2.0").to_json()
    for record in manifest["files"]:
        blob = f"/v1/blobs/{record['digest']}"
        assert publisher.head(blob).status_code == 404
        data = (folder / record["path"]).read_bytes()
        opened = check(publisher.post("/v1/uploads"), "/v1/uploads", "post")
        path, place = "/v1/uploads/{upload_id}", opened["location"]
        half = len(data) // 2
        sent = publisher.patch(place, content=data[:half], headers={"Upload-Offset": "0"})
        check(sent, path, "patch")
        again = publisher.head(place)
        check(again, path, "head")
        assert again.headers["Upload-Offset"] == sent.headers["Upload-Offset"] == str(half)
        check(publisher.patch(place, content=data[half:], headers={"Upload-Offset": str(half)}), path, "patch")
        done = check(publisher.put(place, params={"digest": record["digest"]}), path, "put")
        assert done == {"digest": record["digest"], "size": len(data)}
    wrong = publisher.post("/v1/publish", json={"manifest": {**manifest, "version": "1 0"}})
    assert check(wrong, "/v1/publish", "post")["problems"]
    answer = publisher.post("/v1/publish", json={"manifest": manifest})
    assert answer.status_code == 201, answer.text
    assert check(answer, "/v1/publish", "post")["full_id"] == "sentiment/sst-2@acme"
    assert publisher.post("/v1/publish", json={"manifest": manifest}).status_code == 200
    other = publisher.post("/v1/publish", json={"manifest": {**manifest, "description": "another"}})
    assert check(other, "/v1/publish", "post")["code"] == "VersionExists" and other.status_code == 409
    return manifest


def test_what_was_published_is_found_and_is_what_it_was(anonymous: httpx.Client, published: dict[str, Any]) -> None:
    params = {"ref": "sst@acme", "model": "bert-base-uncased"}
    found = check(anonymous.get("/v1/resolve", params=params), "/v1/resolve", "get")
    assert (found["full_id"], found["tier"], found["version"]) == ("sentiment/sst-2@acme", "prefix", "1")
    answer = anonymous.get(f"/v1/manifests/{found['digest']}")
    manifest = check(answer, "/v1/manifests/{digest}", "get")
    check(anonymous.head(f"/v1/manifests/{found['digest']}"), "/v1/manifests/{digest}", "head")
    assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == found["digest"]
    assert manifest == published
    for record in manifest["files"]:
        blob = anonymous.get(f"/v1/blobs/{record['digest']}")
        data = check(blob, "/v1/blobs/{digest}", "get")
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == record["digest"] and len(data) == record["size"]
        part = anonymous.get(f"/v1/blobs/{record['digest']}", headers={"Range": "bytes=2-5"})
        assert part.status_code == 206 and part.content == data[2:6]
    page = check(anonymous.get("/v1/adapters", params={"q": "sst", "limit": 5}), "/v1/adapters", "get")
    assert [item["name"] for item in page["items"]] == [published["name"]]
    place = f"/v1/adapters/@acme/{published['name']}"
    assert check(anonymous.get(place), "/v1/adapters/@{namespace}/{name}", "get")["versions"]
    path = "/v1/adapters/@{namespace}/{name}/versions/{version}"
    assert check(anonymous.get(f"{place}/versions/1"), path, "get")["manifest"] == published
    line = anonymous.get(f"/index/ns/ac/acme/{published['name']}.jsonl")
    assert json.loads(check(line, "/index/{path}", "get"))["digest"] == found["digest"]
    check(anonymous.head(str(line.url)), "/index/{path}", "head")
    assert anonymous.get(str(line.url), headers={"If-None-Match": line.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"ref": "not a reference"}, 400, "InvalidReference"),
        ({"ref": "nothing/here", "model": "bert-base-uncased"}, 404, "NotFound"),
        ({"ref": "sst-2:9", "model": "bert-base-uncased"}, 404, "VersionNotFound"),
        ({"ref": "@acme/bert-base-uncased-sentiment-sst-2-pfeiffer", "model": "roberta-base"}, 409, "ModelMismatch"),
    ],
)
@pytest.mark.usefixtures("published")
def test_failures_are_problem_documents(
    anonymous: httpx.Client, params: dict[str, str], status: int, code: str
) -> None:
    answer = anonymous.get("/v1/resolve", params=params)
    assert answer.status_code == status
    assert check(answer, "/v1/resolve", "get")["code"] == code


def test_validation_tells_all_problems(anonymous: httpx.Client) -> None:
    files = [("files", ("adapter_config.json", b'{"spec_version": "1.0", "spec_version": "1.0"}'))]
    report = check(anonymous.post("/v1/validate", files=files), "/v1/validate", "post")
    assert any("twice" in problem["message"] for problem in report["problems"])


def test_the_life_of_a_version(publisher: httpx.Client, anonymous: httpx.Client, published: dict[str, Any]) -> None:
    place = f"/v1/adapters/@acme/{published['name']}"
    version = "/v1/adapters/@{namespace}/{name}/versions/{version}"
    params = {"ref": "sst-2@acme", "model": "bert-base-uncased"}
    refused = anonymous.post(f"{place}/versions/1/yank", json={"reason": "x"})
    assert refused.status_code == 401 and check(refused, f"{version}/yank", "post")["code"] == "Authentication"
    check(publisher.post(f"{place}/versions/1/yank", json={"reason": "wrong labels"}), f"{version}/yank", "post")
    assert anonymous.get("/v1/resolve", params=params).status_code == 404
    assert anonymous.get("/v1/resolve", params={**params, "ref": "sst-2@acme:1"}).status_code == 200
    check(publisher.post(f"{place}/versions/1/unyank"), f"{version}/unyank", "post")
    check(publisher.post(f"{place}/default", json={"version": "1"}), "/v1/adapters/@{namespace}/{name}/default", "post")
    assert anonymous.get("/v1/resolve", params=params).status_code == 200
    reported = {"kind": "broken", "text": "It does not load."}
    check(anonymous.post(f"{place}/versions/1/reports", json=reported), f"{version}/reports", "post")
    check(anonymous.get(f"{place}/versions/1/weights"), f"{version}/weights", "get")
    check(publisher.get("/v1/whoami"), "/v1/whoami", "get")
    check(publisher.get("/v1/organisations"), "/v1/organisations", "get")
    made = check(publisher.post("/v1/tokens", json={"scopes": ["read"], "expires": "1d"}), "/v1/tokens", "post")
    assert made["token"].startswith("ahub_")
    check(publisher.get("/v1/tokens"), "/v1/tokens", "get")
    begun = check(anonymous.post("/v1/device/code", data={"client_id": "x"}), "/v1/device/code", "post")
    waits = anonymous.post("/v1/device/token", data={"device_code": begun["device_code"]})
    assert check(waits, "/v1/device/token", "post")["error"] == "authorization_pending"
    check(publisher.get("/v1/webhooks"), "/v1/webhooks", "get")
    check(anonymous.get("/v1/audit"), "/v1/audit", "get")
    for path in ("/healthz", "/readyz", "/metrics"):
        assert anonymous.get(path).status_code == 200
