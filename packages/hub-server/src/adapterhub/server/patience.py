"""uvicorn's HTTP protocol, with an end to patience for connections that do not get as far as a request, and with head and
body of an answer sent together."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["PatientProtocol"]

_USUAL_SECONDS = 20.0
_LARGE = 65_536
_LARGEST_HEAD = 65_536
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Gathering:
    """A transport that sends what is written in one turn of the loop in one go: a system call and a wake-up of the client less
    for each answer. Large pieces are passed on at once."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        if len(data) > _LARGE:
            held, self._held = self._held, []
            self._transport.writelines([*held, data])
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            if not self._transport.is_closing():
                self._transport.write(b"".join(held))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection whose next request head is not complete `Settings.header_seconds` after it could begin, or has more
    than 64 KiB (to which comes what was received together with its beginning)."""

    _waiting: asyncio.TimerHandle | None = None
    _begun = True
    _head = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Gathering(transport))  # type: ignore[arg-type]
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiting is None or self._begun:
            self._head, self._begun = 0, False
            return
        self._head += len(data)  # nothing but head: its end would have ended the wait
        if self._head > _LARGEST_HEAD and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        self._expect()

    def on_headers_complete(self) -> None:
        self._relax()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._waiting is None:
            seconds = _header_seconds(self.app)
            self._waiting = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _relax(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()


def _header_seconds(app: Any) -> float:
    """What the settings of the application say, looked for through the layers around it."""
    while app is not None:
        settings = getattr(getattr(app, "state", None), "settings", None)
        if settings is not None:
            return float(settings.header_seconds)
        app = getattr(app, "app", None)
    return _USUAL_SECONDS
