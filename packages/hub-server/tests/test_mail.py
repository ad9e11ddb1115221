"""Events by e-mail: only where the operator set a mail server, and only to addresses that were confirmed."""

from __future__ import annotations

import dataclasses
import email
import email.policy
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import Hub, publish

from adapterhub.server.settings import Settings


class MailServer:
    """Takes mail on a free port (RFC 5321, as much as is needed); refuses as many messages as `refusing` says."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], EmailMessage]] = []
        self.refusing = 0
        self.tries = 0
        mail = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                recipients: list[str] = []
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    word = line[:4].upper()
                    if word == b"RCPT":
                        recipients.append(re.search(r"<(.*?)>", line.decode())[1])  # type: ignore[index]
                    if word == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        body = b""
                        while (piece := self.rfile.readline()) != b".\r\n":
                            body += piece
                        mail.tries += 1
                        if mail.refusing:
                            mail.refusing -= 1
                            self.wfile.write(b"451 later\r\n")
                            continue
                        parsed: Any = email.message_from_bytes(body, policy=email.policy.default)
                        mail.got.append((recipients, parsed))
                    self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
                    if word == b"QUIT":
                        return

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.server.server_address[1]}?from=hub@example.org"

    def wait(self, count: int) -> EmailMessage:
        deadline = time.monotonic() + 120
        while len(self.got) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.got) == count
        return self.got[-1][1]


@pytest.fixture
def mail() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def mailing(settings: Settings, mail: MailServer) -> Iterator[Hub]:
    """A hub with a mail server."""
    given = dataclasses.replace(
        settings, smtp_url=mail.url, webhook_retry_seconds=0.05, name="Our hub", public_url="https://hub.example.org"
    )
    with hub_module.serve(given) as running:
        yield running


def test_a_publish_is_told_by_mail_once_the_address_is_confirmed(
    mailing: Hub, mail: MailServer, tmp_path: Path
) -> None:
    admin = mailing.client(mailing.token(mailing.organisation("demo"), scopes=("admin",)))
    made = admin.post("/v1/webhooks", json={"url": "mailto:ada@example.org", "events": ["version.publish"]}).json()
    assert made["active"] is False and "secret" not in made
    publish(admin, write_folder(tmp_path / "a"), name="early").raise_for_status()  # nobody has confirmed yet
    asked = mail.wait(1)
    assert (mail.got[0][0], asked["To"], asked["From"]) == (["ada@example.org"], "ada@example.org", "hub@example.org")
    code = re.search(r"code: +(\S+)", asked.get_content())
    assert code and code[1] not in admin.get("/v1/webhooks").text
    place = f"/v1/webhooks/{made['id']}"
    assert admin.post(f"{place}/confirm", json={"code": "guess"}).status_code == 422
    stranger = mailing.client(mailing.token(mailing.organisation("other"), scopes=("admin",)))
    assert stranger.post(f"{place}/confirm", json={"code": code[1]}).status_code == 404
    assert admin.post(f"{place}/confirm", json={"code": code[1]}).json()["active"] is True
    mail.refusing = 1
    publish(admin, write_folder(tmp_path / "b", seed=1), name="mine").raise_for_status()
    told = mail.wait(2)
    assert mail.tries == 3  # the second was refused once, and tried again
    assert told["Subject"] == "[Our hub] version.publish @demo/mine:1"
    text = told.get_content()
    assert "https://hub.example.org/@demo/mine" in text and "digest: sha256:" in text
    assert told["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize(
    "address",
    [
        "mailto:",
        "mailto:x",
        "mailto:a@b",
        "mailto:a@example.org,b@example.org",
        "mailto:a@example.org?cc=b@example.org",
        "mailto:a@example.org\nBcc: b",
        "mailto:<a@example.org>",
    ],
)
def test_what_is_no_single_address_is_refused(mailing: Hub, mail: MailServer, address: str) -> None:
    admin = mailing.client(mailing.token(mailing.organisation("demo"), scopes=("admin",)))
    assert admin.post("/v1/webhooks", json={"url": address}).status_code == 422
    assert mail.got == []


def test_without_a_mail_server_the_hub_sends_none(hub: Hub) -> None:
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    answer = admin.post("/v1/webhooks", json={"url": "mailto:ada@example.org"})
    assert answer.status_code == 422 and "no mail" in answer.json()["detail"]
