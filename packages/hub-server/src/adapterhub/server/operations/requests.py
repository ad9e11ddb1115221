"""What happens to every request: an id, one log line without secrets, counters, size limits, security headers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapterhub.server.operations.metrics import IN_FLIGHT, REQUEST_SECONDS, REQUESTS
from adapterhub.server.operations.rates import RateLimits
from adapterhub.server.settings import Settings

__all__ = ["RequestLayer", "configure_logging"]

log = logging.getLogger("adapterhub.server.access")

_REQUEST_ID = re.compile(rb"[0-9A-Za-z_.-]{1,64}")
#: answers to the API may be embedded nowhere and load nothing; pages set their own policy
_API_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
_API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class RequestLayer:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        settings: limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.limits = RateLimits(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status, sent = 0, 0
        authorization = headers.get(b"authorization", b"")
        address = client_address(scope, self.settings)
        verdict = self.limits.check(scope, authorization, address)

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                own = message.setdefault("headers", [])
                names = {name.lower() for name, _ in own}
                own.extend(pair for pair in _API_HEADERS if pair[0] not in names)
                if _API_POLICY[0] not in names:
                    own.append(_API_POLICY)
                own.append((b"x-request-id", request_id.encode()))
                if verdict is not None:
                    own.extend(verdict.headers)
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        IN_FLIGHT.inc()
        try:
            if verdict is not None and not verdict.allowed:
                await _send_problem(answer, request_id, 429, f"More than {verdict.limit} requests a minute.")
                return
            refused = self._refuse(scope, headers)
            if refused is not None:
                await _send_problem(answer, request_id, *refused)
                return
            await self.app(scope, self._limited(scope, receive), answer)
        except TimeoutError:
            if status:
                raise
            detail = f"Nothing of the body came for {self.settings.body_seconds:g} seconds."
            await _send_problem(answer, request_id, 408, detail)
        except _TooLarge as error:
            if status:
                raise
            await _send_problem(answer, request_id, 413, str(error))
        finally:
            IN_FLIGHT.dec()
            if status == 401 and authorization:
                self.limits.punish(address)
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "") or "unmatched"
            REQUESTS.labels(scope["method"] if len(scope["method"]) < 8 else "OTHER", route, status or 499).inc()
            REQUEST_SECONDS.labels(route).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                log.info("request", extra={"fields": self._line(scope, request_id, status or 499, sent, seconds)})

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
            return 415, "Request bodies are taken as they are, without a Content-Encoding."
        length = headers.get(b"content-length", b"")
        if length and not length.isdigit():
            return 400, "Content-Length is not a number."
        limit = self._limit(scope)
        if length and int(length) > limit:
            return 413, f"The body has {int(length)} bytes; here {limit} are allowed."
        return None

    def _limit(self, scope: Scope) -> int:
        path: str = scope["path"]
        if path.startswith("/v1/uploads"):
            return self.settings.max_file_bytes
        return self.settings.max_validate_bytes if path == "/v1/validate" else self.settings.max_request_bytes

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        if scope["method"] in ("GET", "HEAD"):
            return receive  # a body has no meaning here, and waiting for the caller to hang up has no limit
        limit, seen = self._limit(scope), 0

        async def take() -> Message:
            nonlocal seen
            async with asyncio.timeout(self.settings.body_seconds):
                message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise _TooLarge(f"The body has more than the {limit} bytes allowed here.")
            return message

        return take

    def _line(self, scope: Scope, request_id: str, status: int, sent: int, seconds: float) -> dict[str, Any]:
        viewer = scope.get("state", {}).get("viewer")
        return {
            "request_id": request_id,
            "client": client_address(scope, self.settings),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "bytes": sent,
            "ms": round(seconds * 1000, 2),
            "token": getattr(viewer, "token_id", None),
        }


class _TooLarge(Exception):
    pass


def client_address(scope: Scope, settings: Settings) -> str:
    """The caller's address; behind a trusted proxy the last one it added to `X-Forwarded-For`."""
    if settings.trust_proxy:
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                return str(value.decode("latin-1").rsplit(",", 1)[-1].strip())
    client = scope.get("client")
    return client[0] if client else ""


async def _send_problem(send: Callable[[Message], Awaitable[None]], request_id: str, status: int, detail: str) -> None:
    code = "QuotaExceeded" if status in (413, 429) else "Error"
    body = json.dumps(
        {
            "type": f"urn:adapterhub:problem:{code}",
            "title": {413: "Too large", 415: "Unsupported encoding", 429: "Too many requests", 408: "Too slow"}.get(
                status, "Bad request"
            ),
            "status": status,
            "detail": detail,
            "code": code,
            "hint": "",
            "candidates": [],
            "suggestions": [],
            "request_id": request_id,
        }
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _without_secrets(json.dumps(line, ensure_ascii=False, default=str))


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={_one_line(value)}" for key, value in getattr(record, "fields", {}).items())
        record.message = f"{record.getMessage()} {fields}".rstrip()
        moment = self.formatTime(record, "%H:%M:%S")
        text = f"{moment} {record.levelname.lower():7} {record.message}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return _without_secrets(text)


def _one_line(value: Any) -> str:
    """`value` with every character escaped that could begin another line, or colour it: paths are what callers write."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


_SECRET = re.compile(r"ahub_[0-9A-Za-z]{6,}|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")


def _without_secrets(text: str) -> str:
    """Anything that looks like a token or a password in an address is blotted out, wherever it came from."""
    return _SECRET.sub("***", text)


def configure_logging(settings: Settings) -> None:
    """Log to stderr in the chosen format; uvicorn's own loggers join."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if settings.log_format == "json" else _TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("adapterhub").setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
