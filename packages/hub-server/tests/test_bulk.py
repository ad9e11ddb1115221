"""Rows written in one go are the rows that were given, whatever order their members are in."""

from __future__ import annotations

import pytest
from hub import Hub
from sqlalchemy import inspect, select

from adapterhub.server.storage.bulk import bulk_insert, indexes_afterwards
from adapterhub.server.storage.tables import pair_words, pairs


def test_many_rows_arrive_as_they_were_given(hub: Hub) -> None:
    rows = [
        {
            "bucket": "00ff",
            "type": f"type{n}",
            "subtask": f"sub{n}",
            "task": f"task{n}",
            "word": f"word{n}",
            "model_name": "m",
        }
        for n in range(120)
    ]
    with hub.storage.database.write() as connection:
        assert bulk_insert(connection, pair_words, rows) == 120
    with hub.storage.database.read() as connection:
        found = connection.execute(select(pair_words)).mappings().all()
    assert sorted((dict(row) for row in found), key=repr) == sorted(
        ({column.key: row[column.key] for column in pair_words.columns} for row in rows), key=repr
    )


def test_indexes_are_there_again_afterwards_and_after_a_failure(hub: Hub) -> None:
    def names() -> set[str]:
        with hub.storage.database.read() as connection:
            return {str(index["name"]) for index in inspect(connection).get_indexes("pairs")}

    before = names()
    assert before
    with hub.storage.database.write() as connection, indexes_afterwards(connection, pairs):
        pass
    assert names() == before
    with (
        pytest.raises(RuntimeError),
        hub.storage.database.write() as connection,
        indexes_afterwards(connection, pairs),
    ):
        raise RuntimeError("half way")
    assert names() == before
