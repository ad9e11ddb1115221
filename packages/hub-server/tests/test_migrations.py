"""A hub of an older release keeps everything when it is brought up to date."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import hub as hub_module
import pytest
from adapter_folder import write_folder
from alembic import command
from hub import publish
from sqlalchemy import inspect, select

from adapterhub.server.operations.verification import verify
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.server.storage.database import open_database
from adapterhub.server.storage.migrate import HEAD, _config, bring_up_to_date
from adapterhub.server.storage.tables import audit, tokens
from adapterhub.spec.errors import StorageError

PATHS = (
    "/v1/resolve?ref=sst&model=bert-base-uncased",
    "/v1/resolve?ref=@demo/mine:1",
    "/index/ns/de/demo/mine.jsonl",
    "/v1/audit",
)


def downgraded(settings: Settings) -> None:
    """Take the schema back to the first one, rows and all."""
    database = open_database(settings, migrate=False)
    with database.write() as connection:
        command.downgrade(_config(connection), "0001")
    with database.read() as connection:
        assert "device_codes" not in inspect(connection).get_table_names()
    database.close()


@pytest.fixture
def old(settings: Settings, tmp_path: Path) -> tuple[Settings, str, list[bytes]]:
    """Settings of a hub with the first schema, a token of it, and what it answered."""
    with hub_module.serve(settings) as hub:
        secret = hub.token(hub.organisation("demo"))
        for version in ("1", "2"):
            folder = write_folder(tmp_path / version, seed=int(version))
            publish(hub.client(secret), folder, version=version, name="mine").raise_for_status()
        answers = [hub.http.get(path).content for path in PATHS]
    downgraded(settings)
    return settings, secret, answers


def test_everything_is_there_after_the_schema_was_brought_up_to_date(
    old: tuple[Settings, str, list[bytes]], tmp_path: Path
) -> None:
    settings, secret, answers = old
    with pytest.raises(StorageError, match="migrate"):
        open_storage(settings, migrate=False)
    database = open_database(settings, migrate=False, check=False)
    assert bring_up_to_date(database) == "0001"
    assert bring_up_to_date(database) == HEAD
    with database.read() as connection:
        assert len(connection.execute(select(audit)).all()) == 2
        assert connection.execute(select(tokens.c.approved_by)).scalar_one() is None
    database.close()
    with hub_module.serve(settings) as hub:
        assert [hub.http.get(path).content for path in PATHS] == answers
        assert verify(hub.storage).problems == []
        again = publish(hub.client(secret), write_folder(tmp_path / "3", seed=3), version="3", name="mine")
        assert again.status_code == 201


def test_tokens_made_before_learn_from_the_audit_log_who_made_them(settings: Settings) -> None:
    with hub_module.serve(settings) as hub:
        admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
        made = admin.post("/v1/tokens", json={}).json()["id"]
    database = open_database(settings)
    with database.write() as connection:
        command.downgrade(_config(connection), "0007")
    bring_up_to_date(database)
    with database.read() as connection:
        assert {row.id: row.made_by for row in connection.execute(select(tokens))} == {1: None, made: 1}
    database.close()


def test_replicas_that_start_together_migrate_once(old: tuple[Settings, str, list[bytes]]) -> None:
    settings, _, _ = old

    def start(_: int) -> str | None:
        database = open_database(settings, migrate=False, check=False)
        try:
            return bring_up_to_date(database)
        finally:
            database.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        before = list(pool.map(start, range(4)))
    assert set(before) <= {"0001", HEAD} and "0001" in before
    storage = open_storage(settings, migrate=False)
    assert verify(storage).problems == []
    storage.close()
