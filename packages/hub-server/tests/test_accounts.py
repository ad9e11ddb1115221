"""Organisations, members, tokens, and what stays private."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, publish
from sqlalchemy import select, update

from adapterhub.server.accounts import routes
from adapterhub.server.accounts.organisations import create_organisation
from adapterhub.server.accounts.tokens import check_scopes
from adapterhub.server.storage.tables import now, tokens
from adapterhub.spec.errors import AdapterHubError


def test_a_token_is_stored_as_a_hash_only(hub: Hub) -> None:
    secret = hub.token(hub.organisation("demo"))
    with hub.storage.database.read() as connection:
        stored = str(connection.execute(select(tokens)).one())
    assert secret.startswith("ahub_")
    assert len(secret) == 45
    assert secret not in stored
    assert digest_of(secret.encode()).removeprefix("sha256:") in stored


def test_expired_revoked_and_unknown_tokens_are_told_alike(hub: Hub) -> None:
    organisation = hub.organisation("demo")
    expired, revoked = hub.token(organisation), hub.token(organisation)
    with hub.storage.database.write() as connection:
        connection.execute(update(tokens).where(tokens.c.id == 1).values(expires_at=now(hours=-1)))
        connection.execute(update(tokens).where(tokens.c.id == 2).values(revoked_at=now()))
    answers = [hub.client(token).get("/v1/whoami") for token in (expired, revoked, "ahub_" + "0" * 40, "nonsense")]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_whoami_tells_scopes_and_organisation(hub: Hub) -> None:
    client = hub.member("demo", scopes=("publish", "read"))
    told = client.get("/v1/whoami").json()
    assert (told["organisation"], told["scopes"]) == ("demo", ["read", "publish"])
    assert hub.http.get("/v1/whoami").status_code == 401


def test_tokens_are_made_and_revoked_over_http(hub: Hub) -> None:
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    made = admin.post("/v1/tokens", json={"scopes": ["publish"], "expires": "15m"}).json()
    client = hub.client(made["token"])
    assert client.post("/v1/uploads").status_code == 201
    assert made["token"] not in admin.get("/v1/tokens").text
    assert client.post("/v1/tokens", json={}).status_code == 403
    assert admin.delete(f"/v1/tokens/{made['id']}").status_code == 204
    assert client.post("/v1/uploads").status_code == 401
    other = hub.client(hub.token(hub.organisation("other"), scopes=("admin",)))
    assert other.delete("/v1/tokens/1").status_code == 404
    assert other.post("/v1/tokens", json={"organisation": "demo"}).status_code == 403


def test_a_token_limited_to_some_adapters_publishes_no_others(hub: Hub, tmp_path: Path) -> None:
    client = hub.client(hub.token(hub.organisation("demo"), scopes=("publish",), adapters="bert-*"))
    folder = write_folder(tmp_path / "a")
    assert publish(client, folder, name="roberta-x").status_code == 403
    assert publish(client, folder, name="Bert_x").status_code == 201


def test_a_token_limited_to_some_adapters_cannot_make_one_that_is_not(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    limited = hub.client(hub.token(organisation, scopes=("admin",), adapters="bert-*"))
    assert limited.post("/v1/tokens", json={"scopes": ["publish"]}).status_code == 403
    assert limited.put("/v1/organisations/demo/members/me", json={"role": "owner"}).status_code == 403
    assert limited.patch("/v1/organisations/demo", json={"review": True}).status_code == 403
    assert limited.get("/v1/webhooks").status_code == 403
    assert publish(limited, write_folder(tmp_path / "a"), name="bert-x").status_code == 201
    everywhere = hub.client(hub.token(None, scopes=("admin",), adapters="bert-*"))
    assert everywhere.post("/v1/organisations", json={"name": "another"}).status_code == 403
    assert everywhere.post("/v1/tokens", json={"organisation": "demo"}).status_code == 403


def test_no_token_outlives_the_one_that_made_it(hub: Hub) -> None:
    organisation = hub.organisation("demo")
    admin = hub.client(hub.token(organisation, scopes=("admin",), expires=timedelta(hours=1)))
    own = admin.get("/v1/whoami").json()["expires_at"]
    assert admin.post("/v1/tokens", json={"expires": "2h"}).status_code == 403
    assert admin.post("/v1/tokens", json={"expires": "5m"}).json()["expires_at"] < own
    assert admin.post("/v1/tokens", json={}).json()["expires_at"] == own
    forever = hub.client(hub.token(organisation, scopes=("admin",)))
    assert forever.post("/v1/tokens", json={}).json()["expires_at"] is None


@pytest.mark.parametrize("expires", ["0s", "999999w", "9999999999w", "-1d", "1", "", "٣d", "1d 1h"])
def test_lifetimes_that_make_no_sense_are_refused(hub: Hub, expires: str) -> None:
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    assert admin.post("/v1/tokens", json={"expires": expires}).status_code == 422


def test_a_token_without_the_scope_to_read_publishes_what_is_private_and_sees_nothing_of_it(
    hub: Hub, tmp_path: Path
) -> None:
    organisation = hub.organisation("secret", private=True)
    blind, reader = (hub.client(hub.token(organisation, scopes=(scope,))) for scope in ("publish", "read"))
    folder = write_folder(tmp_path / "a")
    done = publish(blind, folder, "sentiment/sst-2@secret", name="mine").json()
    paths = [
        "/v1/adapters/@secret/mine",
        "/v1/adapters/@secret/mine/history",
        "/v1/resolve?ref=@secret/mine",
        "/v1/resolve?ref=sst-2&model=bert-base-uncased",
        "/index/ns/se/secret/mine.jsonl",
        f"/v1/manifests/{done['digest']}",
        f"/v1/blobs/{digest_of((folder / 'adapter.safetensors').read_bytes())}",
        "/@secret/mine",
    ]
    for path in paths:
        assert (blind.get(path).status_code, reader.get(path).status_code) == (404, 200), path
    assert [c.get("/v1/adapters?q=sst-2").json()["total"] for c in (blind, reader)] == [0, 1]
    assert blind.get("/v1/adapters").json()["total"] == 0
    assert all(item.get("hidden") for item in blind.get("/v1/audit").json()["items"])
    yanker = hub.client(hub.token(organisation, scopes=("yank",)))
    assert yanker.post("/v1/adapters/@secret/mine/versions/1/yank").status_code == 200
    assert reader.post("/v1/adapters/@secret/mine/versions/1/unyank").status_code == 403


def test_roles_limit_tokens_and_end_with_the_membership(hub: Hub) -> None:
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    base = "/v1/organisations/demo/members"
    admin.put(f"{base}/ada", json={"role": "owner"}).raise_for_status()
    admin.put(f"{base}/grace", json={"role": "publisher"}).raise_for_status()
    assert admin.put(f"{base}/x", json={"role": "king"}).status_code == 422
    made = admin.post(f"{base}/grace/tokens", json={"scopes": ["read", "publish", "admin"]}).json()
    assert made["scopes"] == ["read", "publish"]
    grace = hub.client(made["token"])
    assert grace.post("/v1/uploads").status_code == 201
    admin.put(f"{base}/grace", json={"role": "reader"}).raise_for_status()
    assert grace.post("/v1/uploads").status_code == 403
    assert [m["account"] for m in grace.get(base).json()["items"]] == ["ada", "grace"]
    assert admin.delete(f"{base}/grace").status_code == 204
    assert grace.get("/v1/whoami").status_code == 401
    assert admin.delete(f"{base}/ada").status_code == 403


@pytest.fixture
def company(hub: Hub) -> tuple[Hub, httpx.Client, dict[str, dict[str, Any]]]:
    """An organisation of three, its own admin token, and the tokens they made: `ada` has `own`, which asked for `job` and,
    for grace, for `hers`; `job` asked for `deep`, and approved the login `device`; `safe` was made for grace by the organisation."""
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    base = "/v1/organisations/demo/members"
    for account, role in (("boss", "owner"), ("ada", "owner"), ("grace", "maintainer")):
        admin.put(f"{base}/{account}", json={"role": role}).raise_for_status()
    made = {"own": admin.post(f"{base}/ada/tokens", json={"scopes": ["admin", "publish"]}).json()}
    own = hub.client(made["own"]["token"])
    made["job"] = own.post("/v1/tokens", json={"scopes": ["admin", "read"]}).json()
    made["hers"] = own.post(f"{base}/grace/tokens", json={"scopes": ["publish", "review"]}).json()
    job = hub.client(made["job"]["token"])
    made["deep"] = job.post("/v1/tokens", json={"scopes": ["publish", "read"]}).json()
    codes = hub.http.post("/v1/device/code", data={"client_id": "x", "scope": "publish"}).json()
    form = {"user_code": codes["user_code"], "token": made["job"]["token"], "answer": "approve"}
    hub.http.post("/device", data=form).raise_for_status()
    made["device"] = {"device_code": codes["device_code"]}
    made["safe"] = admin.post(f"{base}/grace/tokens", json={"scopes": ["publish"]}).json()
    return hub, admin, made


def _redeemed(hub: Hub, made: dict[str, dict[str, Any]]) -> httpx.Response:
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    form = {"device_code": made["device"]["device_code"], "grant_type": grant, "client_id": "x"}
    return hub.http.post("/v1/device/token", data=form)


def test_what_a_removed_member_made_ends_with_the_membership(
    company: tuple[Hub, httpx.Client, dict[str, dict[str, Any]]],
) -> None:
    hub, admin, made = company
    device = _redeemed(hub, made).json()["access_token"]
    secrets = {name: token["token"] for name, token in made.items() if "token" in token} | {"device": device}

    def alive() -> set[str]:
        return {n for n, secret in secrets.items() if hub.client(secret).get("/v1/whoami").status_code == 200}

    assert alive() == set(secrets)
    assert admin.delete("/v1/organisations/demo/members/ada").status_code == 204
    assert alive() == {"safe"}
    assert hub.client(secrets["job"]).post("/v1/tokens", json={}).status_code == 401
    noted = admin.get("/v1/audit").json()["items"][-1]
    assert (noted["action"], noted["details"]["account"]) == ("member.remove", "ada")
    assert {made[name]["id"] for name in ("own", "job", "hers", "deep")} < set(noted["details"]["revoked"])
    assert len(noted["details"]["revoked"]) == 5


def test_what_a_member_made_loses_what_a_lower_role_does_not_allow(
    company: tuple[Hub, httpx.Client, dict[str, dict[str, Any]]],
) -> None:
    hub, admin, made = company
    answer = admin.put("/v1/organisations/demo/members/ada", json={"role": "reader"}).json()
    assert answer["revoked"] == [made["own"]["id"], made["hers"]["id"]]
    assert answer["narrowed"] == [made["job"]["id"], made["deep"]["id"]]
    for name in ("job", "deep"):
        assert hub.client(made[name]["token"]).get("/v1/whoami").json()["scopes"] == ["read"]
    assert hub.client(made["job"]["token"]).post("/v1/tokens", json={}).status_code == 403
    assert hub.client(made["safe"]["token"]).post("/v1/uploads").status_code == 201
    assert _redeemed(hub, made).json()["error"] == "access_denied"  # approved before, and not fetched yet
    noted = admin.get("/v1/audit").json()["items"][-1]
    assert (noted["action"], noted["details"]["narrowed"]) == ("member.set", answer["narrowed"])
    listed = {row["id"]: row for row in admin.get("/v1/tokens").json()["items"]}
    assert listed[made["deep"]["id"]]["made_by"] == made["job"]["id"]
    assert not listed[made["hers"]["id"]]["active"]


def test_a_token_that_loses_its_member_meanwhile_makes_none(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    base = "/v1/organisations/demo/members"
    for account in ("boss", "ada"):
        admin.put(f"{base}/{account}", json={"role": "owner"}).raise_for_status()
    ada = hub.client(admin.post(f"{base}/ada/tokens", json={"scopes": ["admin"]}).json()["token"])

    def removed_first(scopes: Any) -> tuple[str, ...]:
        monkeypatch.undo()
        assert admin.delete(f"{base}/ada").status_code == 204
        return check_scopes(scopes)

    monkeypatch.setattr(routes, "check_scopes", removed_first)
    assert ada.post("/v1/tokens", json={"scopes": ["publish"]}).status_code == 403
    assert [row["active"] for row in admin.get("/v1/tokens").json()["items"]] == [False, True]


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "../x", "sha256", "admin", "ſst", "x" * 65, "a\n"])
def test_names_that_are_refused(hub: Hub, name: str) -> None:
    with pytest.raises(AdapterHubError), hub.storage.database.write() as connection:
        create_organisation(connection, name)


def test_names_that_could_be_taken_for_others_are_refused(hub: Hub) -> None:
    hub.organisation("ukp-lab")
    for name in ("UKP_LAB", "ukp.lab", "ukplab", "ukp-1ab"):
        answer = hub.operator().post("/v1/organisations", json={"name": name})
        assert answer.status_code in (409, 422), name


def test_absent_and_forbidden_look_the_same(hub: Hub, tmp_path: Path) -> None:
    owner = hub.member("secret", private=True)
    folder = write_folder(tmp_path / "a")
    done = publish(owner, folder, "sentiment/sst-2@secret", name="mine").json()
    weights = digest_of((folder / "adapter.safetensors").read_bytes())
    stranger = hub.member("stranger", scopes=("read", "publish", "yank", "review", "admin"))
    pairs = [
        ("/v1/resolve?ref=@secret/mine", "/v1/resolve?ref=@absent/mine"),
        ("/v1/resolve?ref=@secret/mine&model=x", "/v1/resolve?ref=@absent/mine&model=x"),
        (
            "/v1/resolve?ref=sst-2@secret&model=bert-base-uncased",
            "/v1/resolve?ref=sst-2@absent&model=bert-base-uncased",
        ),
        ("/v1/adapters/@secret/mine", "/v1/adapters/@absent/mine"),
        ("/v1/adapters/@secret/mine/history", "/v1/adapters/@absent/mine/history"),
        ("/v1/organisations/secret", "/v1/organisations/absent"),
        ("/v1/organisations/secret/members", "/v1/organisations/absent/members"),
        ("/index/ns/se/secret/mine.jsonl", "/index/ns/ab/absent/mine.jsonl"),
        (f"/v1/blobs/{weights}", f"/v1/blobs/sha256:{'0' * 64}"),
        (f"/v1/manifests/{done['digest']}", f"/v1/manifests/sha256:{'0' * 64}"),
    ]
    for client in (hub.http, stranger):
        for private, absent in pairs:
            one, two = client.get(private), client.get(absent)
            assert one.status_code == two.status_code, private
            assert one.json().keys() == two.json().keys()
            assert (one.json()["code"], one.headers.get("cache-control")) == (
                two.json()["code"],
                two.headers.get("cache-control"),
            )
            assert "mine" not in one.text.replace("@secret/mine", "").replace("secret/mine.jsonl", "")
        assert client.get("/v1/adapters", params={"q": "sst-2"}).json()["total"] == 0
        for one, two in (("secret", "absent"),):
            yank = "/v1/adapters/@{}/mine/versions/1/yank"
            assert client.post(yank.format(one)).status_code == client.post(yank.format(two)).status_code
    assert owner.get("/v1/resolve?ref=sst-2&model=bert-base-uncased").json()["namespace"] == "secret"
    assert owner.get("/index/ns/se/secret/mine.jsonl").headers["cache-control"].startswith("private")
    assert json.loads(owner.get("/index/ns/se/secret/mine.jsonl").text)["name"] == "mine"


def test_an_organisation_that_opens_up_is_found_at_once_and_vanishes_when_it_closes(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo", private=True)
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    publish(admin, write_folder(tmp_path / "a"), name="mine").raise_for_status()
    where = {"ref": "sst-2", "model": "bert-base-uncased"}
    assert hub.http.get("/v1/resolve", params=where).status_code == 404
    admin.patch("/v1/organisations/demo", json={"private": False}).raise_for_status()
    assert hub.http.get("/v1/resolve", params=where).status_code == 200
    assert hub.http.get("/v1/adapters").json()["total"] == 1
    admin.patch("/v1/organisations/demo", json={"private": True}).raise_for_status()
    assert hub.http.get("/v1/resolve", params=where).status_code == 404
    assert hub.http.get("/v1/adapters").json()["total"] == 0


def test_quotas_are_enforced_and_told(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    client = hub.client(hub.token(organisation, scopes=("publish",)))
    operator = hub.operator()
    operator.patch("/v1/organisations/demo", json={"max_versions_per_day": 1}).raise_for_status()
    publish(client, write_folder(tmp_path / "a"), name="a").raise_for_status()
    answer = publish(client, write_folder(tmp_path / "b", seed=1), name="b")
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (429, "QuotaExceeded", 1)
    operator.patch("/v1/organisations/demo", json={"max_bytes": 10}).raise_for_status()
    answer = client.post("/v1/uploads", params={"digest": digest_of(b"x" * 20)}, content=b"x" * 20)
    assert (answer.status_code, answer.json()["limit"]) == (413, 10)
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    assert admin.patch("/v1/organisations/demo", json={"max_bytes": 10**9}).status_code == 422
