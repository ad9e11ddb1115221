"""A small HTTP server over a static export, with ETag, Range and max-age, that can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


#: gets the handler and the request; True means it has answered
Fault = Callable[["Handler", Seen], bool]


@dataclass
class LoopbackHub:
    """Serves `folder` on a free port of this machine."""

    folder: Path
    max_age: int | None = None
    serial: int | None = None
    id: str | None = None
    digests: bool = True
    tls: ssl.SSLContext | None = None
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        hub = self

        class Bound(Handler):
            @property
            def hub(self) -> LoopbackHub:
                return hub

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # broken connections are the point

        self.server = Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.tls is not None:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
            self.url = self.url.replace("http://127.0.0.1", "https://localhost")
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def requests(self, prefix: str = "") -> list[Seen]:
        """What was asked so far, of paths that begin with `prefix`."""
        return [seen for seen in self.seen if seen.path.startswith(prefix)]

    def stop(self) -> None:
        """Answer nobody any more: connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    close = stop


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> LoopbackHub:
        raise NotImplementedError

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        seen = Seen(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        self.hub.seen.append(seen)
        for fault in list(self.hub.faults):
            if fault(self, seen):
                return
        self.serve(seen)

    do_HEAD = do_GET
    do_POST = do_GET
    do_PUT = do_GET
    do_PATCH = do_GET

    def body_of(self, seen: Seen) -> bytes | None:
        """The whole file asked for."""
        path = self.hub.folder / seen.path.partition("?")[0].lstrip("/")
        return path.read_bytes() if path.is_file() else None

    def serve(self, seen: Seen) -> None:
        """Answer properly."""
        body = self.body_of(seen)
        if body is None:
            told = {"AdapterHub-Hub": self.hub.id} if self.hub.id is not None else {}
            self.answer(404, b"not here", {"Content-Type": "text/plain", **told})
            return
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"', "Content-Type": "application/octet-stream"}
        if self.hub.digests and seen.path.startswith("/index/"):
            headers["Content-Digest"] = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        if self.hub.max_age is not None:
            headers["Cache-Control"] = f"max-age={self.hub.max_age}"
        if self.hub.serial is not None:
            headers["AdapterHub-Serial"] = str(self.hub.serial)
        if self.hub.id is not None:
            headers["AdapterHub-Hub"] = self.hub.id
        if seen.headers.get("if-none-match") == headers["ETag"]:
            self.answer(304, b"", headers)
            return
        start, status = self.start_of(seen, len(body)), 200
        if start is not None:
            if start >= len(body):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        self.answer(status, body, headers)

    @staticmethod
    def start_of(seen: Seen, size: int) -> int | None:
        """Where a `Range: bytes=N-` starts."""
        found = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        return int(found[1]) if found else None

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.begin(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def cut(self) -> None:
        """Break the connection."""
        self.wfile.flush()
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.close_connection = True

    def drip(self, body: bytes, every: float, piece: int = 1) -> None:
        """Send a body slowly."""
        for at in range(0, len(body), piece):
            self.wfile.write(body[at : at + piece])
            self.wfile.flush()
            time.sleep(every)
