"""Login by device code (RFC 8628): who may approve, what comes out, and what does not work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import Hub, publish
from sqlalchemy import select, update

from adapterhub.server.accounts.device import approve
from adapterhub.server.accounts.tables import device_codes
from adapterhub.server.accounts.tokens import revoke_token
from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import now, tokens
from adapterhub.spec.errors import AdapterNotFoundError, PolicyError

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture
def hub(settings: Settings) -> Iterator[Hub]:
    """A hub where programs may ask again at once."""
    with hub_module.serve(dataclasses.replace(settings, device_poll_seconds=0.0)) as running:
        yield running


def begin(hub: Hub, **form: str) -> dict[str, str]:
    return hub.http.post("/v1/device/code", data={"client_id": "laptop", **form}).raise_for_status().json()


def ask(hub: Hub, code: dict[str, str], **form: str) -> httpx.Response:
    return hub.http.post("/v1/device/token", data={"device_code": code["device_code"], "grant_type": GRANT, **form})


def decide(hub: Hub, code: dict[str, str], token: str, answer: str = "approve", **headers: str) -> httpx.Response:
    form = {"user_code": code["user_code"], "token": token, "answer": answer}
    return hub.http.post("/device", data=form, headers=headers)


def test_a_program_gets_a_token_of_its_own_once_somebody_approved(hub: Hub, tmp_path: Path) -> None:
    own = hub.token(hub.organisation("demo"), scopes=("read", "publish"))
    code = begin(hub, scope="publish yank")
    assert re.fullmatch("[B-Z]{4}-[B-Z]{4}", code["user_code"])
    assert code["verification_uri"] == f"{hub.url}/device"
    assert (ask(hub, code).status_code, ask(hub, code).json()["error"]) == (400, "authorization_pending")
    shown = hub.http.get("/device", params={"user_code": code["user_code"].lower().replace("-", " ")})
    assert shown.status_code == 200
    assert "laptop" in shown.text and "publish, yank" in shown.text and "127.0.0.1" in shown.text
    assert "approved" in decide(hub, code, own).text
    answer = ask(hub, code)
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert (made["token_type"], made["scope"]) == ("Bearer", "publish")  # the approving token has no yank
    client = hub.client(made["access_token"])
    assert publish(client, write_folder(tmp_path / "a"), name="mine").status_code == 201
    assert client.post("/v1/adapters/@demo/mine/versions/1/yank").status_code == 403
    assert client.get("/v1/whoami").json()["origin"] == "device"
    assert ask(hub, code).json()["error"] == "invalid_grant"


def test_the_new_token_ends_with_the_one_that_approved_it(hub: Hub) -> None:
    organisation = hub.organisation("demo")
    own = hub.token(organisation)
    with hub.storage.database.write() as connection:
        connection.execute(update(tokens).values(expires_at=now(hours=1)))
    code = begin(hub)
    decide(hub, code, own).raise_for_status()
    first = hub.client(ask(hub, code).json()["access_token"])
    assert first.get("/v1/whoami").json()["expires_at"] < now(hours=1)
    again = begin(hub)
    decide(hub, again, first.headers["authorization"].split()[1]).raise_for_status()
    second = hub.client(ask(hub, again).json()["access_token"])
    late = begin(hub)
    decide(hub, late, own).raise_for_status()
    with hub.storage.database.write() as connection:
        revoke_token(connection, 1)
    assert [client.get("/v1/whoami").status_code for client in (first, second)] == [401, 401]
    assert ask(hub, late).json()["error"] == "access_denied"


def test_who_may_not_approve(hub: Hub) -> None:
    hub.organisation("demo")
    code = begin(hub, scope="publish")
    for token in ("", "ahub_" + "0" * 40, "nonsense"):
        assert decide(hub, code, token).status_code == 401
    assert decide(hub, code, hub.token(None, scopes=("admin",))).status_code == 403  # for no organisation
    assert decide(hub, code, hub.token(1, scopes=("read",))).status_code == 403  # lacks what is asked for
    assert decide(hub, code, hub.token(1, origin="oidc")).status_code == 403  # a job, no person
    assert ask(hub, code).json()["error"] == "authorization_pending"


def test_a_login_can_be_refused_and_runs_out(hub: Hub) -> None:
    own = hub.token(hub.organisation("demo"))
    refused, late = begin(hub), begin(hub)
    assert "refused" in decide(hub, refused, own, "refuse").text
    assert ask(hub, refused).json()["error"] == "access_denied"
    assert decide(hub, refused, own).status_code == 404
    with hub.storage.database.write() as connection:
        connection.execute(update(device_codes).values(expires_at=now(hours=-1)))
    assert decide(hub, late, own).status_code == 404
    assert ask(hub, late).json()["error"] == "expired_token"
    begin(hub)
    with hub.storage.database.read() as connection:
        assert len(connection.execute(select(device_codes)).all()) == 1  # the old ones are cleared away


def test_codes_are_stored_as_hashes_and_no_token_before_it_is_fetched(hub: Hub) -> None:
    own = hub.token(hub.organisation("demo"))
    code = begin(hub)
    decide(hub, code, own).raise_for_status()
    with hub.storage.database.read() as connection:
        stored = str(connection.execute(select(device_codes)).one())
        assert len(connection.execute(select(tokens)).all()) == 1
    assert code["device_code"] not in stored
    assert code["user_code"] not in stored and code["user_code"].replace("-", "") not in stored


def test_who_asks_too_often_has_to_wait_longer(settings: Settings) -> None:
    with hub_module.serve(dataclasses.replace(settings, device_poll_seconds=60.0)) as hub:
        code = begin(hub)
        assert code["interval"] == 60
        assert [ask(hub, code).json()["error"] for _ in range(3)] == ["authorization_pending", "slow_down", "slow_down"]
        with hub.storage.database.read() as connection:
            assert connection.execute(select(device_codes.c.pause)).scalar_one() == "70"


def until_refused(ask: Callable[[], httpx.Response]) -> list[int]:
    """Statuses up to the first 429; buckets fill again while a slow machine asks."""
    codes: list[int] = []
    while len(codes) < 100 and 429 not in codes:
        codes.append(ask().status_code)
    return codes


def test_guessing_codes_is_limited_by_address(hub: Hub) -> None:
    codes = until_refused(lambda: hub.http.get("/device", params={"user_code": "BCDF-GHJK"}))
    assert codes[:10] == [404] * 10 and codes[-1] == 429
    codes = until_refused(lambda: hub.http.post("/v1/device/code"))
    assert codes[:20] == [200] * 20 and codes[-1] == 429


def test_other_sites_cannot_send_the_form_nor_frame_the_page(hub: Hub) -> None:
    own = hub.token(hub.organisation("demo"))
    code = begin(hub)
    assert decide(hub, code, own, Origin="https://evil.example").status_code == 403
    assert decide(hub, code, own, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    page = hub.http.get("/device")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert not page.headers.get("set-cookie")
    assert decide(hub, code, own, **{"Origin": hub.url, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_what_a_program_calls_itself_is_shown_as_text(hub: Hub) -> None:
    code = begin(hub, client_id="<script>alert(1)</script>")
    page = hub.http.get("/device", params={"user_code": code["user_code"]}).text
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_wrong_questions_are_told(hub: Hub) -> None:
    assert hub.http.post("/v1/device/code", data={"scope": "everything"}).json()["error"] == "invalid_scope"
    code = begin(hub)
    assert ask(hub, code, grant_type="password").json()["error"] == "unsupported_grant_type"
    assert hub.http.post("/v1/device/token", data={"device_code": "x"}).json()["error"] == "invalid_grant"
    assert hub.http.post("/v1/device/token").status_code == 422


def test_an_administrator_approves_at_the_command_line_for_a_member(hub: Hub) -> None:
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    admin.put("/v1/organisations/demo/members/grace", json={"role": "publisher"}).raise_for_status()
    code, other = begin(hub, scope="publish admin"), begin(hub, scope="admin")
    with hub.storage.database.write() as connection:
        approve(connection, code["user_code"], "demo", account="grace")
    with pytest.raises(PolicyError), hub.storage.database.write() as connection:
        approve(connection, other["user_code"], "demo", account="grace")
    with pytest.raises(AdapterNotFoundError), hub.storage.database.write() as connection:
        approve(connection, "BBBB-BBBB", "demo")
    made = ask(hub, code).json()
    assert made["scope"] == "publish"
    admin.delete("/v1/organisations/demo/members/grace").raise_for_status()
    assert hub.client(made["access_token"]).get("/v1/whoami").status_code == 401
