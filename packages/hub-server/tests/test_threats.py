"""Attacks that belong to no single domain. The table of all of them is docs/explanation/security.md."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import re
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, manifest_of, publish, upload
from sqlalchemy import event, update

from adapterhub.server.accounts.organisations import _one_slip_apart, create_organisation
from adapterhub.server.app import create_app
from adapterhub.server.moderation import webhooks
from adapterhub.server.operations import requests as logged
from adapterhub.server.outbound import check_address, get_json, pinned
from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import now, organisations
from adapterhub.spec.errors import InvalidConfigError, VersionExistsError

# --- 6, 7, 9: names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b.json",
        ".hidden.json",
        "con.json",
        "a\\b.json",
        "é.json",
        "a" * 300 + ".json",
    ],
)
def test_no_file_name_of_a_manifest_leaves_its_folder(hub: Hub, folder: Path, path: str) -> None:
    client = hub.member("demo")
    publish(client, folder, name="mine").raise_for_status()
    manifest = manifest_of(folder, version="2", name="mine").to_json()
    manifest["files"][0]["path"] = path
    answer = client.post("/v1/publish", json={"manifest": manifest})
    assert answer.status_code == 422 and answer.json()["problems"], answer.text


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "sha256:" + "0" * 64 + "%00",
    ],
)
def test_no_digest_becomes_a_path(hub: Hub, digest: str) -> None:
    for path in (f"/v1/blobs/{digest}", f"/v1/manifests/{digest}"):
        assert hub.http.get(path).status_code in (404, 422)
    client = hub.member("demo")
    assert client.post("/v1/uploads", params={"digest": digest}, content=b"x").status_code in (400, 422)


@pytest.mark.parametrize(
    ("one", "other", "close"),
    [
        ("huggingface", "hugginface", True),
        ("huggingface", "hugginggface", True),
        ("huggingface", "huggingfaec", True),
        ("huggingface", "huggingfase", True),
        ("huggingface", "xhuggingface", True),
        ("huggingface", "huggingface", False),
        ("huggingface", "huggingfaces2", False),
        ("abcdef", "badcfe", False),
    ],
)
def test_slips_of_the_finger_are_known(one: str, other: str, close: bool) -> None:
    assert _one_slip_apart(one, other) == _one_slip_apart(other, one) == close


def test_names_like_those_of_known_publishers_and_tasks_are_refused(hub: Hub, tmp_path: Path) -> None:
    publish(
        hub.member("ukp-darmstadt"), write_folder(tmp_path / "a"), "sentiment/sst-2@ukp-darmstadt"
    ).raise_for_status()
    operator = hub.operator()
    for name in ("ukp-darmstad", "ukp-darmstatd", "ukp-darrnstadt", "UKP.Darmstadt", "ukpdarmstadt", "sha256", "ah"):
        answer = operator.post("/v1/organisations", json={"name": name})
        assert answer.status_code in (409, 422), name
    assert operator.post("/v1/organisations", json={"name": "ukp-frankfurt"}).status_code == 201


def test_a_retired_organisation_is_never_given_out_again(hub: Hub, tmp_path: Path) -> None:
    publish(hub.member("gone"), write_folder(tmp_path / "a"), "a/b@gone", name="mine").raise_for_status()
    with hub.storage.database.write() as connection:
        connection.execute(update(organisations).where(organisations.c.key == "gone").values(retired_at=now()))
    for name in ("gone", "GONE"):
        answer = hub.operator().post("/v1/organisations", json={"name": name})
        assert (answer.status_code, "never" in answer.json()["detail"]) == (409, True)
    with pytest.raises(VersionExistsError), hub.storage.database.write() as connection:
        create_organisation(connection, "gone", allow_reserved=True)  # not at the command line either


# --- 10: requests the hub makes ------------------------------------------------------------------------------------------


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Every look-up of a name gives the next answer; returns the names looked up."""
    asked: list[str] = []
    waiting = list(answers)

    def look_up(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.1.1",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:192.168.0.1",
        "64:ff9b::a00:1",
        "2002:0a00:0001::",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_a_name_that_leads_inside_is_not_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolver(monkeypatch, [address])
    with pytest.raises(InvalidConfigError, match="not public"):
        check_address(Settings(), "https://hook.example/")
    resolver(monkeypatch, ["93.184.216.34", address])  # one of several is enough
    with pytest.raises(InvalidConfigError, match="not public"):
        check_address(Settings(), "https://hook.example/")


def test_a_name_that_changes_its_mind_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a public address for the check, a private one for the connection."""
    asked = resolver(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    connected: list[tuple[str, int]] = []

    async def connect(_loop: Any, _socket: Any, address: tuple[str, int]) -> None:
        connected.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", connect)
    with pytest.raises(Exception, match="does not answer"):
        get_json(Settings(), "https://issuer.example/.well-known/openid-configuration")
    assert asked == ["issuer.example"]
    assert connected == [("93.184.216.34", 443)]


def test_the_certificate_is_that_of_the_name_not_of_the_address() -> None:
    target, headers, extensions = pinned("https://hook.example:443/a?b#c", "93.184.216.34", "hook.example", 443)
    assert target == "https://93.184.216.34:443/a?b"
    assert headers["Host"] == "hook.example" and extensions == {"sni_hostname": "hook.example"}


def test_a_webhook_is_checked_again_each_time_it_is_posted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    answers: list[Any] = []
    monkeypatch.setattr(webhooks, "_post", lambda *given: answers.append(given))
    resolver(monkeypatch, ["127.0.0.1"])
    row = type("Row", (), {"url": "https://hook.example/", "attempts": 7, "id": 0})()
    asyncio.run(webhooks._deliver(hub.storage, dataclasses.replace(hub.settings, private_addresses=False), row))
    assert answers == []


def test_addresses_in_manifests_and_cards_are_never_followed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = "http://169.254.169.254/latest/meta-data"
    folder = write_folder(tmp_path / "a", readme=f"# Card\n\n![x]({inside}) [y]({inside})\n")
    real, asked = socket.create_connection, []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or [])
    monkeypatch.setattr(socket, "create_connection", lambda address, *rest, **more: real(address, *rest, **more))
    client = hub.member("demo")
    body = manifest_of(
        folder, name="mine", description=f"See {inside}", citation=f"@misc{{x, url={{{inside}}}}}"
    ).to_json()
    monkeypatch.undo()
    for path in folder.rglob("*"):
        upload(client, path.read_bytes())
    client.post("/v1/publish", json={"manifest": body}).raise_for_status()
    page = hub.http.get("/@demo/mine").text
    assert "<img" not in page.split("</header>")[1]
    assert asked == []


# --- 11, 19, 23: answers and bodies --------------------------------------------------------------------------------------


def test_raw_files_are_never_shown_by_a_browser(hub: Hub, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", readme="<script>alert(document.domain)</script>")
    publish(hub.member("demo"), folder, name="mine").raise_for_status()
    answer = hub.http.get(f"/v1/blobs/{digest_of((folder / 'README.md').read_bytes())}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_compressed_bodies_are_not_unpacked(hub: Hub) -> None:
    client = hub.member("demo")
    bomb = gzip.compress(b"\0" * 10_000_000)
    for method, path in (
        ("POST", "/v1/publish"),
        ("POST", "/v1/validate"),
        ("POST", f"/v1/uploads?digest={digest_of(b'')}"),
    ):
        for coding in ("gzip", "zstd", "deflate", "gzip, identity"):
            answer = client.request(method, path, content=bomb, headers={"Content-Encoding": coding})
            assert answer.status_code == 415, (path, coding)


def test_there_is_no_ambient_login_another_site_could_use(hub: Hub, tmp_path: Path) -> None:
    publish(hub.member("demo"), write_folder(tmp_path / "a"), name="mine").raise_for_status()
    for path in ("/", "/search?q=a", "/@demo/mine", "/device", "/v1/adapters", "/@demo/mine/versions/1/report"):
        answer = hub.http.get(path)
        assert "set-cookie" not in answer.headers, path
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert "access-control-allow-credentials" not in answer.headers
    yank = hub.http.post("/v1/adapters/@demo/mine/versions/1/yank", headers={"Cookie": "token=ahub_x"})
    assert yank.status_code == 401


# --- 15: secrets ---------------------------------------------------------------------------------------------------------


def test_no_token_reaches_the_log_of_a_running_hub(
    settings: Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keep()
    handler.setFormatter(logged._JsonLines())
    logger = logging.getLogger("adapterhub")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    try:
        with hub_module.serve(settings) as hub:
            secret = hub.token(hub.organisation("demo"))
            client = hub.client(secret)
            publish(client, write_folder(tmp_path / "a"), name="mine").raise_for_status()
            client.get("/v1/whoami", params={"token": secret})
            hub.http.get(f"/v1/resolve?ref={secret}")
            hub.http.get("/v1/whoami", headers={"Authorization": f"Basic {secret}"})
            hub.http.post("/device", data={"user_code": "BCDF-GHJK", "token": secret, "answer": "approve"})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    text = "\n".join(lines)
    assert len(lines) > 5 and secret not in text and secret[9:] not in text
    requests = [json.loads(line) for line in lines if '"message": "request"' in line]
    assert all(re.fullmatch(r"[0-9A-Za-z_.-]{1,64}", line["request_id"]) for line in requests)


# --- 16: a stolen token --------------------------------------------------------------------------------------------------


def test_every_publish_is_told_to_who_listens_and_stands_in_the_log_and_the_feed(hub: Hub, tmp_path: Path) -> None:
    organisation = hub.organisation("demo")
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    admin.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/", "events": []}).raise_for_status()
    thief = hub.client(hub.token(organisation, scopes=("publish",), name="laptop"))
    publish(thief, write_folder(tmp_path / "a"), name="mine").raise_for_status()
    [hook] = admin.get("/v1/webhooks").json()["items"]
    assert [delivery["event"] for delivery in hook["deliveries"]] == ["version.publish"]
    [item] = [item for item in admin.get("/v1/audit").json()["items"] if item["action"] == "version.publish"]
    assert item["subject"] == "@demo/mine:1" and "(token " in item["actor"]
    assert "@demo/mine" in hub.http.get("/feed.atom").text


# --- 18: expensive questions ---------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(hub: Hub, tmp_path: Path) -> Iterator[Hub]:
    """A hub whose statements are counted."""
    publish(hub.member("demo"), write_folder(tmp_path / "a"), name="mine").raise_for_status()
    yield hub


@pytest.mark.parametrize(
    "question",
    [
        "a" * 200,
        "a* " * 60,
        "(((((((((",
        '"' * 150,
        "NEAR(a b, 9999999)",
        "a OR " * 40,
        "-a -b -c",
        "%" * 200,
        "\\" * 199,
        "é" * 200,
        "x:y:z:*",
        "() { :;};",
    ],
)
def test_no_question_costs_much(crowded: Hub, question: str) -> None:
    statements: list[str] = []

    def seen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    engine = crowded.storage.database.engine
    event.listen(engine, "before_cursor_execute", seen)
    try:
        answer = crowded.http.get("/v1/adapters", params={"q": question})
    finally:
        event.remove(engine, "before_cursor_execute", seen)
    assert answer.status_code == 200
    assert len(statements) < 60


def test_questions_have_limits(crowded: Hub) -> None:
    for params, status in (
        ({"q": "a" * 10_000}, (414, 422)),
        ({"limit": 100_000}, (422,)),
        ({"cursor": "x" * 5000}, (400, 422)),
        ({"cursor": "bm90aGluZw"}, (400, 422)),
    ):
        answer = crowded.http.get("/v1/adapters", params=params)
        assert answer.status_code in status, (list(params), answer.status_code)


# --- 22: what is private -------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that does nothing by itself: every statement is that of a request."""

    def create(given: Settings) -> Any:
        app = create_app(given)
        app.state.background.clear()
        return app

    monkeypatch.setattr(hub_module, "create_app", create)
    with hub_module.serve(settings) as running:
        yield running


def test_absent_and_forbidden_take_the_same_work(quiet: Hub, tmp_path: Path) -> None:
    hub = quiet
    publish(
        hub.member("secret", private=True), write_folder(tmp_path / "a"), "a/b@secret", name="mine"
    ).raise_for_status()
    engine = hub.storage.database.engine
    counts: dict[str, list[int]] = {"secret": [], "absent": []}
    sizes: dict[str, set[int]] = {"secret": set(), "absent": set()}
    current = 0

    def seen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal current
        current += 1

    event.listen(engine, "before_cursor_execute", seen)
    try:
        for path in (
            "/v1/resolve?ref=@{}/mine",
            "/v1/adapters/@{}/mine",
            "/v1/organisations/{}",
            "/index/ns/{:.2}/{}/mine.jsonl",
        ):
            hub.http.get(path.format("nobody", "nobody"))  # what is looked up once and kept
            for name in counts:
                current = 0
                answer = hub.http.get(path.format(name, name))
                assert answer.status_code == 404
                counts[name].append(current)
                sizes[name].add(len(answer.content))
    finally:
        event.remove(engine, "before_cursor_execute", seen)
    assert counts["secret"] == counts["absent"]
    assert sizes["secret"] == sizes["absent"]
