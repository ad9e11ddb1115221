"""Events by e-mail, for people: a webhook whose address is `mailto:…`. Sent by the operator's mail server, and only to
addresses whose owner has confirmed them, so that nobody can have the hub write to strangers."""

from __future__ import annotations

import json
import re
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from adapterhub.server.settings import Settings
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["CONFIRM", "check_mail_address", "is_mail", "send"]

#: the event that carries the code with which an address is confirmed
CONFIRM = "address.confirm"

_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}")
_TIMEOUT = 15.0


def is_mail(url: str) -> bool:
    """Whether a webhook goes to a person's mailbox."""
    return url.startswith("mailto:")


def check_mail_address(settings: Settings, url: str) -> None:
    """Raise InvalidConfigError for an address mail is not sent to."""
    if not settings.smtp_url:
        raise InvalidConfigError("This hub sends no mail.", hint="Its operator sets ADAPTERHUB_SERVER_SMTP_URL.")
    if not _ADDRESS.fullmatch(url.removeprefix("mailto:")):
        raise InvalidConfigError(f"{url[:200]!r} is no mail address.", hint="Write mailto:name@example.org.")


def send(settings: Settings, url: str, event: str, body: str, number: int) -> str:
    """Hand one message to the mail server; returns what to note of it. Blocking.

    Raises:
        OSError, smtplib.SMTPException: it was not taken.
    """
    place = urlsplit(settings.smtp_url)
    message = _message(settings, url.removeprefix("mailto:"), event, json.loads(body), number)
    secure = place.scheme == "smtps"
    kind = smtplib.SMTP_SSL if secure else smtplib.SMTP
    more: dict[str, Any] = {"context": ssl.create_default_context()} if secure else {}
    with kind(place.hostname or "localhost", place.port or (465 if secure else 25), timeout=_TIMEOUT, **more) as server:
        if place.scheme == "smtp+starttls":
            server.starttls(context=ssl.create_default_context())
        if place.username:
            server.login(unquote(place.username), unquote(place.password or ""))
        server.send_message(message)
    return "sent"


def _message(settings: Settings, to: str, event: str, document: dict[str, Any], number: int) -> EmailMessage:
    place = urlsplit(settings.smtp_url)
    sender = parse_qs(place.query).get("from", [f"adapterhub@{place.hostname or 'localhost'}"])[0]
    subject = str(document.get("subject", ""))
    found = EmailMessage()
    found["From"], found["To"] = sender, to
    found["Date"], found["Message-ID"] = formatdate(), make_msgid(domain=sender.partition("@")[2] or "localhost")
    found["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    if event == CONFIRM:
        found["Subject"] = f"[{settings.name}] Confirm this address"
        text = [
            f"Somebody with an administrator's token of {subject} wants this address to be told of what happens there.",
            "",
            f"If that is right, confirm it with this code:  {document['details']['code']}",
            "",
            f'  POST /v1/webhooks/{document["details"]["id"]}/confirm   {{"code": "{document["details"]["code"]}"}}',
            "",
            "If not, do nothing: no other message will come.",
        ]
    else:
        found["Subject"] = f"[{settings.name}] {event} {subject}"
        details = document.get("details") or {}
        text = [f"{event}: {subject}", f"at {document.get('at', '')}", ""]
        text += [f"{name}: {value}" for name, value in sorted(details.items())]
        page = subject.partition(":")[0]
        if settings.public_url and page.startswith("@"):
            text += ["", f"{settings.public_url.rstrip('/')}/{page}"]
        text += ["", "If this was not you or one of yours, revoke the token: the audit log says which one it was."]
    found.set_content("\n".join([*text, "", f"-- \nDelivery {number} of {settings.name}"]))
    return found
