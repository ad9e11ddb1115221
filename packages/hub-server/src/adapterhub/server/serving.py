"""Running the application: a socket first, so that a taken port is one clear line, then one process or several."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
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
    signal.signal(signal.SIGTERM, _end_at_once)
    storage = open_storage(settings)  # before the port: what cannot work says so at once
    storage.blobs.check()
    storage.close()
    listener = bind(host, port)
    address = listener.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    _raise_file_limit()
    options: dict[str, Any] = {
        "http": "adapterhub.server.patience:PatientProtocol",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
        "ws": "none",
        "proxy_headers": False,
        "backlog": 2048,
    }
    if "timeout_worker_healthcheck" in inspect.signature(uvicorn.Config).parameters:
        options["timeout_worker_healthcheck"] = _GRACE_SECONDS  # a busy worker is not a dead one
    ready = f"AdapterHub is at http://{shown}:{address[1]} (data: {settings.data.resolve()})"
    if workers == 1:
        from adapterhub.server.app import create_app

        _Announcing(uvicorn.Config(create_app(settings), **options), ready).run(sockets=[listener])
        return
    print(ready, file=sys.stderr, flush=True)
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


def _end_at_once(_signal: int, _frame: FrameType | None) -> None:
    """While the hub starts nothing is under way that the stores would not roll back. An exception is not enough: Python's
    compiler swallows one that arises while it folds the constants of a module that is imported, and the hub would go on."""
    os._exit(0)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """uvicorn hands the signal on when it has finished everything: that is a success."""
    sys.exit(0)


class _Announcing(uvicorn.Server):
    """Says where it is once it answers."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signal.signal(signal.SIGTERM, _stop)
        with super().capture_signals():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        print(self._line, file=sys.stderr, flush=True)
