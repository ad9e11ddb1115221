"""Where hundreds of adapters could be meant, the hub reads few of them and answers as the spec does over all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import records
from hub import Hub
from sqlalchemy import Connection, insert, select, update

from adapterhub.server.accounts.viewer import ANONYMOUS
from adapterhub.server.resolving import crowds
from adapterhub.server.resolving.service import alias_table, default_pointers, resolve_reference
from adapterhub.server.storage.records import entry_of, refresh_lines
from adapterhub.server.storage.tables import adapters, pair_defaults, versions
from adapterhub.spec.errors import AdapterHubError, AmbiguousAdapterError
from adapterhub.spec.index import IndexEntry, model_bucket_of
from adapterhub.spec.lookup import PartlyListedError
from adapterhub.spec.resolution import resolve

MODEL = "bert-base-uncased"


@pytest.fixture
def crowd(hub: Hub) -> Hub:
    """A pair with 45 publishers, one with 14, one with 70, a small one, and some for another model."""
    items: list[Any] = []
    for number in range(45):
        items.append(records.entry(f"pub{number}", task="sentiment", subtask="sst-2"))
    items.append(records.entry("pub3", task="sentiment", subtask="sst-2", config="lora", using="lora"))
    items.append(records.entry("lang", task="sentiment", subtask="sst-2", type="text_lang"))
    items += [records.entry(f"nli{number}", task="nli", subtask="rte") for number in range(14)]
    items += [records.entry(f"many{number}", task="qa", subtask="squad2") for number in range(70)]
    items += [records.entry("solo", task="nli", subtask="sst-2-plus"), records.entry("pub1", model="other", task="nli")]
    ids = records.fill(hub, items)
    with hub.storage.database.write() as connection:
        yanked = ids[5]
        connection.execute(update(versions).where(versions.c.adapter_id == yanked).values(yanked=True))
        refresh_lines(connection, yanked, 1000)
        pointer = connection.execute(select(adapters).where(adapters.c.id == ids[-20])).one()
        connection.execute(
            insert(pair_defaults).values(
                model_name=MODEL,
                task_key=pointer.task_key,
                subtask_key=pointer.subtask_key,
                model_bucket=model_bucket_of(MODEL),
                adapter_id=pointer.id,
            )
        )
    return hub


def everything(connection: Connection) -> list[IndexEntry]:
    """All entries, in the order they were published."""
    return [entry_of(row.line) for row in connection.execute(select(versions.c.line).order_by(versions.c.serial))]


CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sentiment/sst-2@pub7", {}),
    ("sst-2@pub7", {}),
    ("sst@pub7", {}),
    ("sentiment/sst-2@pub3", {}),
    ("sentiment/sst-2@pub3", {"config": "lora"}),
    ("sentiment/sst-2@pub3", {"config": "houlsby"}),
    ("sentiment/sst-2@pub5", {}),
    ("sentiment/sst-2@pub5:1", {}),
    ("sentiment/sst-2@pub7:9", {}),
    ("sentiment/sst-2@nobody", {}),
    ("sentiment/sst-2@solo", {}),
    ("sentiment/sst-2", {}),
    ("sentiment/sst-2", {"type": "text_lang"}),
    ("sentiment/sst-2", {"config": "lora"}),
    ("sentiment/sst-2", {"config": "pfeiffer"}),
    ("sentiment", {}),
    ("nli/rte", {}),
    ("nli/rte@nli4", {}),
    ("nli", {}),
    ("nli@solo", {}),
    ("qa/squad2", {}),
    ("qa/squad2", {"type": "text_lang"}),
    ("qa/squad2@many3", {}),
    ("sst-2-plus", {}),
    ("nothing", {}),
)


@pytest.mark.parametrize("listed", [crowds.LISTED, 50])
def test_the_answer_is_that_of_the_spec_over_all_entries(
    crowd: Hub, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    monkeypatch.setattr(crowds, "LISTED", listed)
    with crowd.storage.database.read() as connection:
        keys = [("sentiment", "sst-2"), ("nli", "rte"), ("qa", "squad2")]
        defaults = default_pointers(connection, MODEL, keys)
        assert len(defaults) == 1
        entries = everything(connection)
        for text, options in CASES:
            context = {"model_name": MODEL, **options}
            expected = answer(partial(resolve, text, entries, aliases=alias_table(), defaults=defaults, **context))
            found = answer(partial(resolve_reference, connection, text, ANONYMOUS, **context))
            compare(expected, found, f"{text} {options}")


def answer(ask: Callable[[], Any]) -> Any:
    """What is returned or raised."""
    try:
        return ask()
    except AdapterHubError as error:
        return error


def compare(expected: Any, found: Any, what: str) -> None:
    """Both are the same resolution, or errors that say the same; of too many candidates some are enough."""
    if isinstance(expected, AmbiguousAdapterError) and len(expected.candidates) > crowds.LISTED:
        assert isinstance(found, PartlyListedError), what
        assert len(found.candidates) == crowds.LISTED, what
        assert {one["adapter"] for one in found.candidates} < {one["adapter"] for one in expected.candidates}, what
    elif isinstance(expected, AdapterHubError):
        assert (type(found), found.candidates) == (type(expected), expected.candidates), what
        assert found.details.get("models") == expected.details.get("models"), what
    else:
        assert found == expected, what
