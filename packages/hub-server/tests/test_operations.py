"""Backups that can be restored, checks that find damage, and the static twin."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import hub as hub_module
import obstore
import pytest
from adapter_folder import write_folder
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from conftest import Stores
from hub import Hub, digest_of, publish
from sqlalchemy import create_engine, inspect, select, update

from adapterhub.server.operations.backup import backup, restore
from adapterhub.server.operations.export import export_static
from adapterhub.server.operations.verification import prune, verify
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.server.storage.migrate import HEAD, bring_up_to_date
from adapterhub.server.storage.schema import metadata
from adapterhub.server.storage.tables import adapters, blobs, manifests, now, organisations, version_files, versions
from adapterhub.spec.errors import IntegrityError, PolicyError, StorageError

RESOLVE = {"ref": "sst", "model": "bert-base-uncased"}


@pytest.fixture
def filled(hub: Hub, tmp_path: Path) -> Hub:
    """A hub with three versions of two adapters, one yanked."""
    client = hub.member("demo")
    for number, (name, version) in enumerate((("a", "1"), ("a", "2"), ("b", "1"))):
        folder = write_folder(tmp_path / str(number), seed=number, readme=f"# Card {number}\n")
        task = "sentiment/sst-2@demo" if name == "a" else "nli/rte@demo"
        publish(client, folder, task, version, name=name).raise_for_status()
    client.post("/v1/adapters/@demo/a/versions/2/yank", json={"reason": "bad"}).raise_for_status()
    return hub


def fresh(stores: Stores, tmp_path: Path, name: str) -> Settings:
    data = tmp_path / name
    return Settings(data=data, log_level="warning", **stores.make(data))  # type: ignore[arg-type]


def test_a_restored_hub_gives_the_same_answers(filled: Hub, stores: Stores, tmp_path: Path) -> None:
    description = backup(filled.storage, tmp_path / "backup")
    assert description["blobs"] == 7
    settings = fresh(stores, tmp_path, "other")
    target = open_storage(settings)
    restore(target, tmp_path / "backup")
    assert verify(target).problems == []
    target.close()
    with hub_module.serve(settings) as other:
        for path in (
            "/v1/resolve?ref=sst&model=bert-base-uncased",
            "/v1/resolve?ref=@demo/a:2",
            "/index/ns/de/demo/a.jsonl",
            "/v1/audit",
            "/v1/adapters/@demo/a/history",
            "/index/config.json",
        ):
            assert other.http.get(path).content == filled.http.get(path).content, path
        assert other.http.get("/v1/adapters?q=sst").json()["total"] == 1
        manifest = other.http.get("/v1/resolve", params=RESOLVE).json()["digest"]
        assert digest_of(other.http.get(f"/v1/manifests/{manifest}").content) == manifest
        more = other.member("later")
        publish(more, write_folder(tmp_path / "more", seed=77), "sentiment/sst-2@later").raise_for_status()


def test_a_second_backup_copies_what_is_new(filled: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    backup(filled.storage, tmp_path / "backup", said.append)
    backup(filled.storage, tmp_path / "backup", said.append)
    assert said[1].startswith("7 new")
    assert said[3].startswith("0 new")
    assert len(list((tmp_path / "backup").glob("records-*"))) == 1


def test_a_hub_that_is_not_empty_and_a_backup_that_was_changed_are_refused(
    filled: Hub, stores: Stores, tmp_path: Path
) -> None:
    backup(filled.storage, tmp_path / "backup")
    with pytest.raises(PolicyError):
        restore(filled.storage, tmp_path / "backup")
    target = open_storage(fresh(stores, tmp_path, "other"))
    with pytest.raises(StorageError):
        restore(target, tmp_path / "nothing")
    [records] = (tmp_path / "backup").glob("records-*")
    lines = records / "versions.jsonl"
    lines.write_text(lines.read_text().replace("demo", "evil"))
    with pytest.raises(IntegrityError, match="changed"):
        restore(target, tmp_path / "backup")
    with target.database.read() as connection:
        assert connection.execute(select(organisations)).all() == []
    target.close()


def test_a_backup_moves_a_hub_to_the_default_stores(filled: Hub, tmp_path: Path) -> None:
    backup(filled.storage, tmp_path / "backup")
    target = open_storage(Settings(data=tmp_path / "local"))
    restore(target, tmp_path / "backup")
    assert verify(target).problems == []
    target.close()


def test_a_healthy_hub_has_no_problems(filled: Hub) -> None:
    report = verify(filled.storage)
    assert (report.versions, report.blobs, report.problems, report.unused) == (3, 7, [], [])


def test_every_kind_of_damage_is_found(filled: Hub) -> None:
    storage = filled.storage
    with storage.database.read() as connection:
        sizes = {row.digest: row.size for row in connection.execute(select(blobs))}
    first, second, *_ = sorted(sizes)
    obstore.put(storage.blobs.store, storage.blobs.path_of(first), b"x" * sizes[first])
    storage.blobs.delete(second)
    with storage.database.write() as connection:
        body = connection.execute(select(manifests.c.body)).scalars().first()
        connection.execute(update(manifests).where(manifests.c.body == body).values(body=b"{}"))
        connection.execute(update(versions).where(versions.c.id == 2).values(bucket="0000"))
        connection.execute(update(organisations).values(used_bytes=1))
    problems = " | ".join(verify(storage).problems)
    for text in (
        f"blob {first}: hashes to",
        f"blob {second}: its bytes are missing",
        "does not hash",
        "wrong bucket",
        "1 bytes are noted",
    ):
        assert text in problems
    assert verify(storage, hash_blobs=False).problems != []
    report = verify(storage, drop_corrupt=True)
    assert report.removed == 1
    assert storage.blobs.size(first) is None


def test_what_can_be_computed_is_computed_anew(filled: Hub) -> None:
    before = {path: filled.http.get(path).content for path in ("/v1/adapters?q=sst", "/v1/counts", "/v1/explore/task")}
    with filled.storage.database.write() as connection:
        for name in ("pairs", "pair_words", "explore_pairs", "explore_cells", "facet_counts"):
            connection.execute(metadata.tables[name].delete())
    assert filled.http.get("/v1/resolve", params={**RESOLVE, "type": "text_task"}).status_code == 404
    verify(filled.storage, hash_blobs=False, rebuild=True)
    assert filled.http.get("/v1/resolve", params={**RESOLVE, "version": "1"}).status_code == 200
    assert {path: filled.http.get(path).content for path in before} == before


def test_only_blobs_nobody_uses_are_pruned_and_not_at_once(filled: Hub, tmp_path: Path) -> None:
    client = filled.client(filled.token(1))
    stray = client.post("/v1/uploads", params={"digest": digest_of(b"stray")}, content=b"stray").json()["digest"]
    assert prune(filled.storage) == 0
    with filled.storage.database.write() as connection:
        connection.execute(update(blobs).values(created_at=now(hours=-100)))
    assert prune(filled.storage) == 1
    assert filled.storage.blobs.size(stray) is None
    assert verify(filled.storage).problems == []


def test_the_static_twin_has_every_index_file_manifest_blob_and_page(filled: Hub, tmp_path: Path) -> None:
    out = tmp_path / "static"
    export_static(filled.storage, filled.settings, out)
    for path in out.glob("index/*/**/*.json*"):
        if path.parent.name == "list":
            continue  # what a live hub answers searches with
        url = "/" + path.relative_to(out).as_posix()
        assert filled.http.get(url).content == path.read_bytes(), url
    with filled.storage.database.read() as connection:
        digests = set(connection.execute(select(version_files.c.digest)).scalars())
    assert {path.name for path in (out / "v1" / "blobs").iterdir()} == digests
    assert all(digest_of(path.read_bytes()) == path.name for path in (out / "v1").glob("*/*"))
    assert "@demo/a" in (out / "@demo" / "a" / "index.html").read_text()
    assert (out / "index.html").exists()
    assert (out / "static" / "site.css").exists()


def test_an_export_is_brought_up_to_date(filled: Hub, tmp_path: Path) -> None:
    out = tmp_path / "static"
    export_static(filled.storage, filled.settings, out)
    again = export_static(filled.storage, filled.settings, out)
    assert (again.written, again.removed, again.blobs) == (0, 0, 0)
    client = filled.client(filled.token(1))
    publish(client, write_folder(tmp_path / "new", seed=5), "sentiment/sst-2@demo", "3", name="a").raise_for_status()
    client.delete("/v1/adapters/@demo/b/versions/1").raise_for_status()
    with filled.storage.database.write() as connection:  # as the count of downloads does, which takes no serial
        connection.execute(update(adapters).values(downloads=7))
    later = export_static(filled.storage, filled.settings, out)
    assert later.blobs >= 2
    whole = tmp_path / "whole"
    export_static(filled.storage, filled.settings, whole)
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert not (out / "@demo" / "b").is_dir() or not (out / "@demo" / "b" / "index.html").exists()


def test_nothing_private_is_exported_and_foreign_folders_are_left_alone(filled: Hub, tmp_path: Path) -> None:
    owner = filled.member("secret", private=True)
    publish(owner, write_folder(tmp_path / "s", seed=6), "sentiment/hidden@secret", name="hidden").raise_for_status()
    out = tmp_path / "static"
    export_static(filled.storage, filled.settings, out)
    text = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file() and "blobs" not in path.parts)
    assert b"secret" not in text
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(PolicyError):
        export_static(filled.storage, filled.settings, tmp_path / "full")


def test_the_migrations_make_the_schema_of_the_tables(settings: Settings) -> None:
    storage = open_storage(settings)
    engine = storage.database.engine
    found = inspect(engine)
    for table in metadata.tables.values():
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        assert set(columns) - {"tsv"} == set(table.c.keys()), table.name
        for column in table.c:
            assert columns[column.name]["nullable"] == column.nullable, f"{table.name}.{column.name}"
        expected = {index.name for index in table.indexes}
        assert {index["name"] for index in found.get_indexes(table.name)} >= expected, table.name
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        left = [str(change) for change in compare_metadata(context, metadata)]
    # what SQLite and PostgreSQL do not reflect as it was written: partial, full-text and descending indexes
    kept_by_hand = (
        "listings_text",
        "ix_listings_light",
        "ix_listings_tsv",
        "tsv",
        "listings_fts",
        "ix_facet_counts_top",
    )
    assert [change for change in left if not any(name in change for name in kept_by_hand)] == []
    assert bring_up_to_date(storage.database) == HEAD
    storage.close()


def test_databases_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE precious (x)")
    with pytest.raises(StorageError, match="other tables"):
        open_storage(Settings(data=tmp_path / "hub", database_url=f"sqlite:///{path}"))
    newer = Settings(data=tmp_path / "newer")
    storage = open_storage(newer)
    with storage.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    storage.close()
    with pytest.raises(StorageError, match="newer release"):
        open_storage(newer)
    with pytest.raises(StorageError, match="kind"):
        open_storage(dataclasses.replace(newer, blob_store="ftp://x"))
    assert json.dumps(newer.to_environment())
