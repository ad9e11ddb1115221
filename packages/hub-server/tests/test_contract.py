"""The HTTP interface as it describes itself: random requests for every operation never break the hub (schemathesis)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hub as hub_module
import hypothesis
import pytest
import schemathesis
from adapter_folder import write_folder
from conftest import Stores
from hub import Hub, publish

from adapterhub.server.app import create_app
from adapterhub.server.settings import Settings

hypothesis.settings.register_profile("hub", deadline=None, suppress_health_check=list(hypothesis.HealthCheck))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, stores: Stores) -> Iterator[tuple[Hub, str]]:
    """A hub with an adapter, and a token that may do everything."""
    place = tmp_path_factory.mktemp("hub")
    with hub_module.serve(
        Settings(data=place / "data", log_level="error", max_file_bytes=10**6, **stores.make(place))
    ) as running:
        organisation = running.organisation("demo")
        token = running.token(organisation, scopes=("read", "publish", "yank", "review", "admin"))
        publish(running.client(token), write_folder(place / "a"), name="mine").raise_for_status()
        yield running, token


def operations(tmp: Path) -> schemathesis.BaseSchema:
    app = create_app(Settings(data=tmp))
    schema = schemathesis.openapi.from_dict(app.openapi())
    app.state.storage.close()
    return schema


def test_no_request_breaks_the_hub(filled: tuple[Hub, str], tmp_path: Path) -> None:
    hub, token = filled
    schema = operations(tmp_path / "schema")
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ("/metrics",):
            continue

        @hypothesis.settings(
            max_examples=12,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), known=hypothesis.strategies.booleans())
        def ask(case: schemathesis.Case, known: bool) -> None:
            nonlocal tried
            if known:
                for name, value in (
                    ("namespace", "demo"),
                    ("organisation", "demo"),
                    ("name", "mine"),
                    ("version", "1"),
                ):
                    if name in (case.path_parameters or {}):
                        case.path_parameters[name] = value
            if case.operation.path == "/v1/tokens/{token_id}":
                case.path_parameters["token_id"] += 1  # the first token is the one these requests carry
            headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
            headers.pop("Content-Length", None)
            case.headers = headers
            answer = case.call(base_url=hub.url, timeout=120)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            if answer.status_code >= 400 and case.method != "HEAD" and answer.content:
                kind = answer.headers.get("content-type", [""])
                assert "application/problem+json" in str(kind), (case.as_curl_command(), kind)
            tried += 1

        ask()
    assert tried > 400
    assert hub.client(token).get("/v1/whoami").status_code == 200
    assert hub.http.get("/readyz").status_code == 200


def test_the_description_is_complete(filled: tuple[Hub, str]) -> None:
    hub, _ = filled
    document = hub.http.get("/openapi.json").json()
    ids = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    ]
    assert len(ids) == len(set(ids))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            assert "4XX" in operation["responses"], (method, path)
    for wanted in (
        "/v1/resolve",
        "/v1/publish",
        "/v1/validate",
        "/v1/uploads",
        "/v1/adapters",
        "/v1/audit",
        "/v1/webhooks",
        "/v1/tokens",
    ):
        assert wanted in document["paths"]
