"""Backends for the suite: SQLite and a folder, and for the modules in ALWAYS_ON_BOTH PostgreSQL and S3 over HTTP too.
With ADAPTERHUB_TEST_BACKENDS=postgresql every test runs on the latter (`sqlite,postgresql`: on both)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import hub as hub_module
from adapter_folder import write_folder
from hub import Hub
from stores import NoPostgres, Postgres, postgresql, s3

from adapterhub.server.settings import Settings
from adapterhub.server.storage.database import open_database

BACKENDS = [name for name in os.environ.get("ADAPTERHUB_TEST_BACKENDS", "").split(",") if name]
#: where the two databases are most unlike: locks, concurrent writers, full-text search, migrations, text and numbers
ALWAYS_ON_BOTH = ("test_publishing", "test_moderation", "test_federation", "test_device_login")
os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")


@dataclasses.dataclass(frozen=True)
class Stores:
    """Gives each test a database and a blob store of its own, and takes them back after it."""

    make: Callable[[Path], dict[str, str]]
    name: str
    database: Postgres | None = None

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Databases made in this block are dropped after it; those of wider fixtures stay."""
        before = self.database.count() if self.database else 0
        try:
            yield
        finally:
            if self.database:
                self.database.discard(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which stores a test runs on: what ADAPTERHUB_TEST_BACKENDS says, else SQLite, and PostgreSQL too for some modules."""
    if "stores" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        backends = BACKENDS or ("sqlite", "postgresql")[: 1 + (module in ALWAYS_ON_BOTH)]
        metafunc.parametrize("stores", backends, indirect=True, scope="session")


@pytest.fixture(scope="session")
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """The pair of stores a test runs on."""
    if request.param == "sqlite":
        template = tmp_path_factory.mktemp("template")
        open_database(Settings(data=template)).close()  # made by the migrations once, copied for each test

        def make(data: Path) -> dict[str, str]:
            data.mkdir(parents=True, exist_ok=True)
            shutil.copy(template / "hub.sqlite", data / "hub.sqlite")
            return {}

        yield Stores(make, "sqlite")
        return
    with contextlib.ExitStack() as ends:
        try:
            database = ends.enter_context(postgresql())
        except NoPostgres as error:
            if BACKENDS:  # asked for by name
                raise
            pytest.skip(str(error))
        bucket = ends.enter_context(s3())
        yield Stores(lambda data: {**database.make(), **bucket()}, "postgresql", database)


@pytest.fixture
def settings(stores: Stores, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a fresh hub."""
    data = tmp_path / "hub"
    with stores.passing():
        yield Settings(data=data, log_level="warning", private_addresses=True, **stores.make(data))  # type: ignore[arg-type]


@pytest.fixture
def hub(settings: Settings) -> Iterator[Hub]:
    """A running hub."""
    with hub_module.serve(settings) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid adapter folder."""
    return write_folder(tmp_path / "adapter")
