"""What may happen after publishing, and that it is written down."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, publish
from sqlalchemy import event, func, select, update

from adapterhub.server.moderation.audit import check_chain
from adapterhub.server.storage.tables import adapters, audit, now, versions

NAME = "/v1/adapters/@demo/mine"
RESOLVE = {"ref": "sentiment/sst-2", "model": "bert-base-uncased"}


def two_versions(hub: Hub, tmp_path: Path):
    client = hub.member("demo", scopes=("read", "publish", "yank"))
    for number in (1, 2):
        folder = write_folder(tmp_path / str(number), seed=number)
        publish(client, folder, "sentiment/sst-2@demo", str(number), name="mine").raise_for_status()
    return client


def test_a_yanked_version_is_left_out_but_stays_for_those_who_pinned_it(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "2"
    assert client.post(f"{NAME}/versions/2/yank", json={"reason": "wrong labels"}).json()["yanked"] is True
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "1"
    pinned = hub.http.get("/v1/resolve", params={"ref": "@demo/mine:2"}).json()
    assert pinned["entry"]["yanked_reason"] == "wrong labels"
    assert hub.http.get(f"/v1/manifests/{pinned['digest']}").status_code == 200
    client.post(f"{NAME}/versions/1/yank").raise_for_status()
    assert hub.http.get("/v1/resolve", params=RESOLVE).status_code == 404
    client.post(f"{NAME}/versions/2/unyank").raise_for_status()
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "2"


def test_the_default_version_is_what_its_owner_says(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    client.post(f"{NAME}/default", json={"version": "1"}).raise_for_status()
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "1"
    assert client.post(f"{NAME}/default", json={"version": "9"}).status_code == 404
    client.post(f"{NAME}/versions/2/yank").raise_for_status()
    assert client.post(f"{NAME}/default", json={"version": "2"}).status_code == 403
    client.post(f"{NAME}/default", json={"version": None}).raise_for_status()
    client.post(f"{NAME}/versions/2/unyank").raise_for_status()
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "2"


def test_the_default_adapter_of_a_task_decides_where_several_answer(hub: Hub, tmp_path: Path) -> None:
    client = hub.member("demo")
    for number, name in enumerate(("one", "two")):
        publish(
            client, write_folder(tmp_path / name, seed=number), "sentiment/sst-2@demo", name=name
        ).raise_for_status()
    ambiguous = hub.http.get("/v1/resolve", params=RESOLVE)
    assert (ambiguous.status_code, ambiguous.json()["code"]) == (409, "Ambiguous")
    assert [c["adapter"] for c in ambiguous.json()["candidates"]] == ["@demo/one", "@demo/two"]
    client.put("/v1/adapters/@demo/two/default-for-task").raise_for_status()
    found = hub.http.get("/v1/resolve", params=RESOLVE).json()
    assert (found["name"], found["decided_by"]) == ("two", "default")
    other = hub.member("other")
    publish(other, write_folder(tmp_path / "x", seed=9), "sentiment/sst-2@other", name="x").raise_for_status()
    assert other.put("/v1/adapters/@other/x/default-for-task").status_code == 403
    assert client.delete("/v1/adapters/@demo/two/default-for-task").status_code == 403
    assert hub.operator().put("/v1/adapters/@other/x/default-for-task").status_code == 200
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["namespace"] == "other"


def test_a_deleted_version_leaves_a_tombstone_and_its_name_is_gone_for_ever(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    digest = hub.http.get("/v1/resolve", params={"ref": "@demo/mine:2"}).json()["digest"]
    weights = digest_of((tmp_path / "2" / "adapter.safetensors").read_bytes())
    used = hub.http.get("/v1/organisations/demo").json()["used_bytes"]
    assert client.delete(f"{NAME}/versions/2", params={"reason": "leaked names"}).json()["state"] == "deleted"
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "1"
    assert hub.http.get("/v1/resolve", params={"ref": "@demo/mine:2"}).json()["code"] == "VersionNotFound"
    assert hub.http.get(f"/v1/manifests/{digest}").status_code == 404
    assert hub.http.get(f"/v1/blobs/{weights}").status_code == 404
    assert hub.http.get("/v1/organisations/demo").json()["used_bytes"] < used
    tombstone = hub.http.get(f"{NAME}/history").json()["versions"][0]
    assert (tombstone["version"], tombstone["state"], tombstone["reason"]) == ("2", "deleted", "leaked names")
    again = publish(client, tmp_path / "2", "sentiment/sst-2@demo", "2", name="mine")
    assert (again.status_code, again.json()["code"]) == (409, "VersionExists")


def test_deleting_is_for_three_days(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    with hub.storage.database.write() as connection:
        connection.execute(update(versions).where(versions.c.version == "1").values(published_at=now(hours=-73)))
    answer = client.delete(f"{NAME}/versions/1")
    assert (answer.status_code, answer.json()["code"]) == (403, "Policy")
    assert client.delete(f"{NAME}/versions/2").status_code == 200
    assert hub.operator().delete(f"{NAME}/versions/1").status_code == 200
    assert hub.http.get("/v1/adapters", params={"q": "sst"}).json()["total"] == 0


def test_texts_can_be_edited_and_manifests_cannot(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    digest = hub.http.get("/v1/resolve", params={"ref": "@demo/mine:2"}).json()["digest"]
    client.patch(NAME, json={"description": "Better words."}).raise_for_status()
    assert hub.http.get("/v1/resolve", params={"ref": "@demo/mine:2"}).json()["digest"] == digest
    publish(
        client, write_folder(tmp_path / "3", seed=3), "sentiment/sst-2@demo", "3", name="mine", description="Other."
    )
    with hub.storage.database.read() as connection:
        assert connection.execute(adapters.select()).one().description == "Better words."
    assert client.patch(NAME, json={"license": "MIT"}).status_code == 422
    assert hub.http.patch(NAME, json={"description": "x"}).status_code == 401


def test_submissions_wait_for_a_reviewer_where_the_organisation_wants_it(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    author = hub.client(hub.token(organisation, scopes=("read", "publish")))
    reviewer = hub.client(hub.token(organisation, scopes=("read", "review")))
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    admin.patch("/v1/organisations/demo", json={"review": True}).raise_for_status()
    answers = [
        publish(author, write_folder(tmp_path / v, seed=int(v)), "sentiment/sst-2@demo", v, name="mine") for v in "12"
    ]
    assert [answer.json()["state"] for answer in answers] == ["pending", "pending"]
    assert hub.http.get("/v1/resolve", params=RESOLVE).status_code == 404
    assert hub.http.get(f"/v1/manifests/{answers[0].json()['digest']}").status_code == 404
    assert hub.http.get(f"{NAME}/history").status_code == 404
    assert reviewer.get(f"/v1/manifests/{answers[0].json()['digest']}").status_code == 200
    waiting = reviewer.get("/v1/organisations/demo/reviews").json()["items"]
    assert [item["version"] for item in waiting] == ["1", "2"]
    assert author.post(f"{NAME}/versions/1/approve").status_code == 403
    assert reviewer.post(f"{NAME}/versions/1/approve").json()["state"] == "published"
    assert reviewer.post(f"{NAME}/versions/2/refuse", json={"reason": ""}).status_code == 422
    refused = reviewer.post(f"{NAME}/versions/2/refuse", json={"reason": "No licence."}).json()
    assert refused["reason"] == "No licence."
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "1"
    assert [v["version"] for v in hub.http.get(f"{NAME}/history").json()["versions"]] == ["1"]
    assert {v["version"]: v["reason"] for v in author.get(f"{NAME}/history").json()["versions"]} == {
        "1": "",
        "2": "No licence.",
    }
    assert reviewer.post(f"{NAME}/versions/2/approve").status_code == 403


def test_nobody_reviews_what_is_their_own(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    admin.patch("/v1/organisations/demo", json={"review": True}).raise_for_status()
    members = "/v1/organisations/demo/members"
    for name in ("ada", "grace"):
        admin.put(f"{members}/{name}", json={"role": "maintainer"}).raise_for_status()

    def token(name: str) -> httpx.Client:
        made = admin.post(f"{members}/{name}/tokens", json={"scopes": ["read", "publish", "review"]})
        return hub.client(made.json()["token"])

    ada, again, grace = token("ada"), token("ada"), token("grace")
    publish(ada, write_folder(tmp_path / "a"), "sentiment/sst-2@demo", "1", name="mine").raise_for_status()
    code = hub.http.post("/v1/device/code", data={"scope": "review"}).json()
    own = ada.headers["authorization"].split()[1]
    hub.http.post(
        "/device", data={"user_code": code["user_code"], "token": own, "answer": "approve"}
    ).raise_for_status()
    made = hub.http.post("/v1/device/token", data={"device_code": code["device_code"]}).json()
    for mine in (ada, again, hub.client(made["access_token"])):
        assert mine.post(f"{NAME}/versions/1/approve").status_code == 403
    assert grace.post(f"{NAME}/versions/1/approve").status_code == 200


def test_quarantine_hides_a_version_until_it_is_released(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    operator = hub.operator()
    digest = hub.http.get("/v1/resolve", params=RESOLVE).json()["digest"]
    assert client.post(f"{NAME}/versions/2/quarantine", json={"reason": "x"}).status_code == 403
    operator.post(f"{NAME}/versions/2/quarantine", json={"reason": "reported"}).raise_for_status()
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["version"] == "1"
    assert hub.http.get(f"/v1/manifests/{digest}").status_code == 404
    operator.post(f"{NAME}/versions/2/release").raise_for_status()
    assert hub.http.get("/v1/resolve", params=RESOLVE).json()["digest"] == digest


def test_the_audit_log_tells_what_happened_and_notices_every_change(hub: Hub, tmp_path: Path) -> None:
    client = two_versions(hub, tmp_path)
    client.post(f"{NAME}/versions/2/yank", json={"reason": "r"}).raise_for_status()
    items = hub.http.get("/v1/audit").json()["items"]
    assert [item["action"] for item in items] == ["version.publish", "version.publish", "version.yank"]
    assert all(after["previous"] == before["hash"] for before, after in itertools.pairwise(items))
    assert hub.http.get("/v1/audit", params={"since": items[1]["serial"]}).json()["items"] == items[2:]
    with hub.storage.database.read() as connection:
        assert check_chain(connection) == []
    with hub.storage.database.write() as connection:
        changed = json.dumps({"reason": "another"})
        connection.execute(update(audit).where(audit.c.serial == items[2]["serial"]).values(details=changed))
        assert check_chain(connection) != []


def test_what_private_organisations_do_shows_outside_only_as_hashes(hub: Hub, tmp_path: Path) -> None:
    owner = hub.member("secret", private=True)
    publish(owner, write_folder(tmp_path / "a"), "sentiment/sst-2@secret", name="mine").raise_for_status()
    [row] = hub.http.get("/v1/audit").json()["items"]
    assert row.keys() == {"serial", "hidden", "previous", "hash"}
    assert owner.get("/v1/audit").json()["items"][0]["subject"] == "@secret/mine:1"


@pytest.mark.parametrize("path", ["/versions/1/yank", "/versions/1/unyank", "/default", "/versions/1/approve"])
def test_nobody_changes_what_is_not_theirs(hub: Hub, tmp_path: Path, path: str) -> None:
    two_versions(hub, tmp_path)
    stranger = hub.member("stranger", scopes=("read", "publish", "yank", "review", "admin"))
    assert hub.http.post(NAME + path, json={}).status_code == 401
    assert stranger.post(NAME + path, json={}).status_code == 403
    assert stranger.post("/v1/adapters/@demo/nothing" + path, json={}).status_code == 404


def test_a_decision_made_behind_a_deletion_does_not_bring_the_version_back(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    author = hub.client(hub.token(organisation, scopes=("publish",)))
    reviewer = hub.client(hub.token(organisation, scopes=("review",)))
    hub.client(hub.token(organisation, scopes=("admin",))).patch("/v1/organisations/demo", json={"review": True})
    publish(author, write_folder(tmp_path / "a"), "sentiment/sst-2@demo", "1", name="mine").raise_for_status()
    asked = threading.Event()

    def seen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "hub" in statement and ("FOR UPDATE" in statement or statement.startswith("UPDATE")):
            asked.set()

    engine = hub.storage.database.engine
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with hub.storage.database.change() as connection:
            event.listen(engine, "before_cursor_execute", seen)
            waiting = pool.submit(reviewer.post, f"{NAME}/versions/1/approve")
            if not hub.storage.database.is_sqlite:  # there the approval could have looked before it waits
                assert asked.wait(60)
            event.remove(engine, "before_cursor_execute", seen)
            connection.execute(update(versions).values(state="deleted"))
        assert waiting.result(60).status_code == 403
    assert hub.http.get("/v1/resolve", params=RESOLVE).status_code == 404


def test_a_submission_that_was_never_published_leaves_no_public_trace(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    author = hub.client(hub.token(organisation))
    hub.client(hub.token(organisation, scopes=("admin",))).patch("/v1/organisations/demo", json={"review": True})
    publish(author, write_folder(tmp_path / "a"), "sentiment/sst-2@demo", "1", name="mine").raise_for_status()
    author.delete(f"{NAME}/versions/1", params={"reason": "a slip"}).raise_for_status()
    assert author.get(f"{NAME}/history").json()["versions"][0]["state"] == "deleted"
    for path in (NAME, f"{NAME}/history", f"{NAME}/versions/1"):
        assert hub.http.get(path).status_code == 404, path
    assert all(
        item.get("hidden") or "mine" not in item["subject"] for item in hub.http.get("/v1/audit").json()["items"]
    )


def test_rows_missing_at_the_end_of_the_audit_log_are_noticed(hub: Hub, tmp_path: Path) -> None:
    two_versions(hub, tmp_path)
    with hub.storage.database.write() as connection:
        last = connection.execute(select(func.max(audit.c.serial))).scalar_one()
        connection.execute(audit.delete().where(audit.c.serial == last))
    with hub.storage.database.read() as connection:
        assert check_chain(connection) == [f"audit row {last}: is missing at the end, or was changed"]
    hub.member("other").post("/v1/uploads")
    hub.operator().post("/v1/organisations", json={"name": "third"}).raise_for_status()
    with hub.storage.database.read() as connection:
        assert check_chain(connection) != []  # and going on does not hide it


def test_what_an_organisation_did_is_hidden_with_it_and_cannot_be_guessed(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    publish(admin, write_folder(tmp_path / "a"), name="mine").raise_for_status()
    assert hub.http.get("/v1/audit").json()["items"][0]["subject"] == "@demo/mine:1"
    admin.patch("/v1/organisations/demo", json={"private": True}).raise_for_status()
    assert all(item["hidden"] for item in hub.http.get("/v1/audit").json()["items"])
    own = admin.get("/v1/audit").json()["items"]
    assert own[0]["subject"] == "@demo/mine:1"
    assert len(own[-1]["details"]["salt"]) == 32  # else the hash would confirm what somebody suspects
