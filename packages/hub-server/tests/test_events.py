"""What the hub counts and tells: downloads, webhooks, rate limits, metrics, logs."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, publish

from adapterhub.server.moderation.webhooks import sweep_deliveries
from adapterhub.server.operations import downloads as downloads_module
from adapterhub.server.operations.rates import RateLimits
from adapterhub.server.operations.requests import _JsonLines, _TextLines
from adapterhub.server.outbound import check_address
from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import now, webhook_deliveries
from adapterhub.spec.errors import InvalidConfigError


@pytest.fixture
def published(hub: Hub, folder: Path) -> str:
    """The digest of the weights of a published adapter."""
    publish(hub.member("demo"), folder, name="mine").raise_for_status()
    return digest_of((folder / "adapter.safetensors").read_bytes())


def downloads(hub: Hub, expected: int) -> int:
    """The count, once it is what is expected: a download ends a moment after its last byte."""
    deadline = time.monotonic() + 60
    while (count := counted(hub)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return count


def counted(hub: Hub) -> int:
    hub.app.state.downloads.flush()
    return hub.http.get("/v1/adapters/@demo/mine").json()["downloads"]


def test_completed_downloads_of_weights_count_once_a_day_for_each_client(
    hub: Hub, published: str, folder: Path
) -> None:
    url = f"/v1/blobs/{published}"
    size = (folder / "adapter.safetensors").stat().st_size
    hub.http.head(url)
    hub.http.get(url, headers={"Range": "bytes=0-99"})
    hub.http.get(url, headers={"If-None-Match": f'"{published}"'})
    hub.http.get(f"/v1/blobs/{digest_of((folder / 'README.md').read_bytes())}")
    time.sleep(0.2)
    assert downloads(hub, 0) == 0
    hub.http.get(url)
    hub.http.get(url)
    assert downloads(hub, 1) == 1
    other = hub.client(hub.token(1, scopes=("read",)))
    other.get(url, headers={"Range": f"bytes={size - 10}-"})
    assert downloads(hub, 2) == 2
    assert "adapterhub_downloads_total" in hub.http.get("/metrics").text


class Receiver:
    """A web server that keeps what is posted to it; `answers` are the statuses it gives, 200 when there are none left."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.posts) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.posts) == count


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()


def test_webhooks_are_signed_and_tried_again(settings: Settings, receiver: Receiver, tmp_path: Path) -> None:
    with hub_module.serve(dataclasses.replace(settings, webhook_retry_seconds=0.05)) as hub:
        admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
        made = admin.post("/v1/webhooks", json={"url": receiver.url, "events": ["version.publish"]}).json()
        receiver.answers = [500, 302]
        publish(admin, write_folder(tmp_path / "a"), name="mine").raise_for_status()
        admin.post("/v1/adapters/@demo/mine/versions/1/yank").raise_for_status()
        receiver.wait(3)
        headers, body = receiver.posts[-1]
        assert json.loads(body)["event"] == headers["x-adapterhub-event"] == "version.publish"
        moment, mac = (part.partition("=")[2] for part in headers["x-adapterhub-signature"].split(","))
        assert mac == hmac.new(made["secret"].encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        assert {body for _, body in receiver.posts} == {body}
        for _ in range(1000):
            [hook] = admin.get("/v1/webhooks").json()["items"]
            if hook["deliveries"][0]["delivered_at"]:
                break
            time.sleep(0.05)
        assert (hook["deliveries"][0]["attempts"], hook["deliveries"][0]["answer"]) == (3, "HTTP 200")
        assert made["secret"] not in json.dumps(hook)
        delivery = hook["deliveries"][0]["id"]
        assert admin.post(f"/v1/webhooks/{made['id']}/deliveries/{delivery}/redeliver").status_code == 202
        receiver.wait(4)
        assert admin.delete(f"/v1/webhooks/{made['id']}").status_code == 204
        assert admin.post("/v1/webhooks", json={"url": receiver.url, "events": ["no.such"]}).status_code == 422


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://2130706433/",
        "https://0/",
        "https://user:secret@example.org/",
        "https://example.org:22/",
        "file:///etc/passwd",
        "gopher://x",
        "https://",
        "https://exa mple.org/",
        "https://example.org\n/",
    ],
)
def test_webhooks_never_go_into_private_networks(url: str) -> None:
    with pytest.raises(InvalidConfigError):
        check_address(Settings(), url)


def test_rate_limits_are_told_and_enforced(settings: Settings) -> None:
    limited = dataclasses.replace(settings, rate_per_minute=5, rate_per_minute_token=7)
    with hub_module.serve(limited) as hub:
        answers = [hub.http.get("/v1/organisations")]
        while answers[-1].status_code == 200 and len(answers) < 50:  # a slow machine gets some more
            answers.append(hub.http.get("/v1/organisations"))
        assert [answer.status_code for answer in answers] == [200] * (len(answers) - 1) + [429]
        assert len(answers) >= 6
        left = [int(answer.headers["ratelimit-remaining"]) for answer in answers]
        assert (
            left[0] == 4 and left[-2:] == [0, 0] and {answer.headers["ratelimit-limit"] for answer in answers} == {"5"}
        )
        assert answers[-1].json()["code"] == "QuotaExceeded"
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert hub.http.get("/healthz").status_code == 200


def test_guessing_tokens_is_limited_by_address(settings: Settings) -> None:
    with hub_module.serve(dataclasses.replace(settings, rate_per_minute=5, rate_per_minute_token=100)) as hub:
        client = hub.member("demo")
        assert client.get("/v1/whoami").headers["ratelimit-limit"] == "100"
        codes: list[int] = []
        while len(codes) < 50 and 429 not in codes:  # a slow machine gets some more
            codes.append(hub.client(f"ahub_{len(codes):040}").get("/v1/whoami").status_code)
        assert codes[:5] == [401] * 5 and codes[-1] == 429


def test_an_invented_token_opens_no_door_around_the_limit(settings: Settings) -> None:
    with hub_module.serve(dataclasses.replace(settings, rate_per_minute=5)) as hub:
        client = hub.member("demo")
        codes: list[int] = []
        while len(codes) < 50 and 429 not in codes:
            codes.append(hub.client("x").get("/v1/organisations").status_code)
        assert codes[-1] == 429
        assert hub.http.get("/v1/organisations").status_code == 200  # what wrong tokens use up is counted by itself
        assert client.get("/v1/organisations").status_code == 429


def test_addresses_of_one_ipv6_subscriber_are_counted_as_one() -> None:
    limits = RateLimits(Settings(rate_per_minute=2))
    scope = {"path": "/v1/adapters"}
    addresses = [
        "2001:db8:0:1::1",
        "2001:db8:0:1:ffff::2",
        "2001:db8:0:1:1:2:3:4",
        "2001:db8:0:2::1",
        "what a proxy: wrote",
    ]
    verdicts = [limits.check(scope, b"", address) for address in addresses]
    assert [verdict is not None and verdict.allowed for verdict in verdicts] == [True, True, False, True, True]


def test_no_path_writes_a_line_of_its_own_into_the_log() -> None:
    record = logging.LogRecord("adapterhub.x", logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": "/a\n12:00:00 info request path=/forged\x1b[31m", "status": 404}
    for formatter in (_TextLines(), _JsonLines()):
        text = formatter.format(record)
        assert text.isprintable() and "forged" in text


@pytest.fixture
def noted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the first download is noted, a moment after its last byte."""
    event, counts = threading.Event(), hub.app.state.downloads
    completed = counts.completed

    def note(*given: Any) -> None:
        completed(*given)
        event.set()

    monkeypatch.setattr(counts, "completed", note)
    return event


def test_a_file_asked_for_before_it_was_published_is_counted_afterwards(
    hub: Hub, folder: Path, noted: threading.Event
) -> None:
    client = hub.member("demo")
    weights = (folder / "adapter.safetensors").read_bytes()
    client.post("/v1/uploads", params={"digest": digest_of(weights)}, content=weights).raise_for_status()
    client.get(f"/v1/blobs/{digest_of(weights)}").raise_for_status()
    assert noted.wait(60)
    hub.app.state.downloads.flush()
    publish(client, folder, name="mine").raise_for_status()
    hub.http.get(f"/v1/blobs/{digest_of(weights)}").raise_for_status()
    assert downloads(hub, 1) == 1


def test_downloads_that_cannot_be_written_now_are_written_later(
    hub: Hub, published: str, noted: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = hub.app.state.downloads
    with monkeypatch.context() as patched:
        patched.setattr(downloads_module, "project", lambda *_: 1 / 0)
        hub.http.get(f"/v1/blobs/{published}").raise_for_status()
        assert noted.wait(60)
        with pytest.raises(ZeroDivisionError):
            counts.flush()
    assert downloads(hub, 1) == 1


def test_deliveries_long_done_are_forgotten(hub: Hub, folder: Path) -> None:
    organisation = hub.organisation("demo")
    admin = hub.client(hub.token(organisation, scopes=("admin",)))
    admin.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).raise_for_status()
    with hub.storage.database.write() as connection:
        for due, created in ((None, now(hours=-800)), (None, now()), (now(hours=100), now(hours=-800))):
            row = {"webhook_id": 1, "event": "adapter.edit", "body": "{}", "due_at": due, "created_at": created}
            connection.execute(webhook_deliveries.insert().values(**row))
    assert sweep_deliveries(hub.storage) == 1
    assert len(admin.get("/v1/webhooks").json()["items"][0]["deliveries"]) == 2


def test_logs_hold_no_secrets() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "", 0, "Bearer %s at %s", ("ahub_" + "a" * 40, "postgresql://u:pw@h/x"), None
    )
    line = _JsonLines().format(record)
    assert "aaaa" not in line
    assert ":pw@" not in line
    assert json.loads(line)["level"] == "info"


def test_health_and_metrics(hub: Hub) -> None:
    assert hub.http.get("/healthz").json()["status"] == "ok"
    assert hub.http.get("/readyz").json() == {"status": "ready"}
    hub.http.get("/v1/resolve", params={"ref": "@a/b"})
    text = hub.http.get("/metrics").text
    assert 'adapterhub_requests_total{method="GET",route="/v1/resolve",status="404"} ' in text
    hub.app.state.stopping = True
    assert hub.http.get("/readyz").status_code == 503


def test_request_ids_are_kept_or_made(hub: Hub) -> None:
    assert hub.http.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    strange = hub.http.get("/healthz", headers={"X-Request-ID": "a b\t<script>"}).headers["x-request-id"]
    assert len(strange) == 16
