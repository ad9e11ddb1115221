"""Running the application: a socket first, so that a taken port is one clear line, then one process or several."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from types import FrameType
from typing import Any

import uvicorn

from adapterhub.server.operations.requests import configure_logging
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.spec.errors import StorageError

__all__ = ["bind", "run"]

_GRACE_SECONDS = 60


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StorageError saying who is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hint = (
            "Stop what uses it, or choose another one with --port."
            if error.errno in (98, 48)
            else "Check --host and --port."
        )
        raise StorageError(f"Cannot listen on {host}:{port}: {error.strerror or error}.", hint=hint) from None
    listener.set_inheritable(True)
    return listener


def run(settings: Settings, *, host: str, port: int, workers: int = 1) -> None:
    """Serve until a signal comes; then finish what is under way, for at most a minute."""
    configure_logging(settings)
    signal.signal(signal.SIGTERM, _stop)
    storage = open_storage(settings)  # before the port: what cannot work says so at once
    storage.blobs.check()
    storage.close()
    listener = bind(host, port)
    address = listener.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    _raise_file_limit()
    options: dict[str, Any] = {
        "http": _protocol(settings),
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
        "h11_max_incomplete_event_size": 65536,
        "proxy_headers": False,
        "backlog": 2048,
    }
    print(
        f"AdapterHub is at http://{shown}:{address[1]} (data: {settings.data.resolve()})", file=sys.stderr, flush=True
    )
    if workers == 1:
        from adapterhub.server.app import create_app

        uvicorn.Server(uvicorn.Config(create_app(settings), **options)).run(sockets=[listener])
        return
    os.environ.update(settings.to_environment())
    counters = tempfile.mkdtemp(prefix="adapterhub-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters
    try:
        uvicorn.run(
            "adapterhub.server.app:from_environment", factory=True, workers=workers, fd=listener.fileno(), **options
        )
    finally:
        shutil.rmtree(counters, ignore_errors=True)


def _raise_file_limit() -> None:
    """Every connection is an open file: take as many as the system gives."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, ValueError, OSError):
        return


def _protocol(settings: Settings) -> Any:
    """uvicorn's HTTP protocol, with an end to patience for connections that do not get as far as a request."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return "auto"

    class Protocol(HttpToolsProtocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect()

        def on_headers_complete(self) -> None:
            self._relax()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _expect(self) -> None:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().call_later(settings.header_seconds, self._too_late)

        def _relax(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _too_late(self) -> None:
            self._waiting = None
            if not self.transport.is_closing():
                self.transport.close()

    return Protocol


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """uvicorn hands the signal on when it has finished everything: that is a success."""
    sys.exit(0)


class _Announcing(uvicorn.Server):
    """Says where it is once it answers."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        print(self._line, file=sys.stderr, flush=True)
