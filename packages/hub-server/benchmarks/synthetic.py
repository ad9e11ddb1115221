"""A hub with as many made-up adapters as asked for, beside the real catalogue if it is at hand.

    python packages/hub-server/benchmarks/synthetic.py FOLDER [--count 1000000] [--seed 7] [--catalogue PATH]

Popularity of models, tasks, data sets, publishers, words and downloads follows Zipf's law, so that a few words stand in a
large part of all adapters and most words in a handful: hard for a search index, and what real registries look like. Rows
are written straight into the records; search index and counters are then computed by the hub's own projections.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage, open_storage
from adapterhub.server.storage.bulk import bulk_insert, indexes_afterwards
from adapterhub.server.storage.changes import rebuild_all
from adapterhub.server.storage.tables import adapters, hub, now, organisations, versions
from adapterhub.spec.config import parse_config
from adapterhub.spec.index import IndexEntry, bucket_of, model_bucket_of
from adapterhub.spec.reference import fold

CONFIGS = (
    *(
        "pfeiffer",
        "houlsby",
        "lora",
        "pfeiffer[reduction_factor=12]",
        "pfeiffer[reduction_factor=2]",
        "parallel",
        "ia3",
    ),
    *("prefix_tuning", "compacter", "houlsby[reduction_factor=8]", "lora[r=16]", "pfeiffer[non_linearity=gelu]"),
)
LICENSES = ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0", "GPL-3.0-only", None)
BATCH = 10_000
LAST_MINUTES = 2_000_000


class Zipf:
    """Draws members of a list, the n-th with weight n^-s."""

    def __init__(self, items: Sequence[Any], exponent: float, rng: random.Random) -> None:
        self.items = items
        self.rng = rng
        self.sums = list(itertools.accumulate((n + 1) ** -exponent for n in range(len(items))))

    def __call__(self) -> Any:
        return self.items[bisect_left(self.sums, self.rng.random() * self.sums[-1])]


def syllables(rng: random.Random, count: int) -> list[str]:
    """Pronounceable made-up words, all different."""
    onsets, vowels = (
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "kl", "st", "tr"],
        ["a", "e", "i", "o", "u", "ai", "ou"],
    )
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.randint(2, 4)))] = None
    return list(found)


def entries(count: int, seed: int) -> Iterator[tuple[IndexEntry, str, int]]:
    """Index entry, description and downloads of each made-up adapter."""
    rng = random.Random(seed)
    words = [
        "adapter",
        "trained",
        "language",
        "sentiment",
        "dataset",
        "model",
        "task",
        "question",
        "english",
        "news",
        *syllables(rng, 20_000),
    ]
    real_models = [
        "bert-base-uncased",
        "roberta-base",
        "bert-base-multilingual-cased",
        "xlm-roberta-base",
        "gpt2",
        "distilbert-base-uncased",
    ]
    model = Zipf(
        [
            *real_models,
            *(
                f"{a}/{b}-{c}"
                for a, b, c in zip(
                    syllables(rng, 600), syllables(rng, 600), itertools.cycle(("base", "large", "small", "7b"))
                )
            ),
        ],
        1.0,
        rng,
    )
    families = ("bert", "roberta", "gpt2", "llama", "t5", "mistral", "qwen2", "distilbert")
    family = {name: families[n % len(families)] for n, name in enumerate(model.items)}
    tasks = ["sentiment", "nli", "qa", "sts", "ner", "pos", "sum", "mt", *syllables(rng, 52)]
    pairs = Zipf(
        [
            (task, sub)
            for task, sub in (
                (rng.choice(tasks), word) for word in ["sst-2", "imdb", "multinli", "squad2", *syllables(rng, 1500)]
            )
        ],
        0.9,
        rng,
    )
    languages = Zipf(
        [a + b + c for a, b, c in itertools.islice(itertools.product("abcdefghij", "klmnopqrst", "uvwxyz"), 220)],
        0.9,
        rng,
    )
    publishers = Zipf([f"{a}{n % 97 or ''}" for n, a in enumerate(syllables(rng, 20_000))], 0.8, rng)
    configs = [parse_config(text) for text in CONFIGS]
    made = [
        (config, config.expand(), config.config_id, text.split("[")[0])
        for config, text in zip(configs, CONFIGS, strict=True)
    ]
    config = Zipf(made, 1.0, rng)
    word = Zipf(words, 0.85, rng)
    for number in range(count):
        name = model()
        _, expanded, config_id, using = config()
        is_language = rng.random() < 0.25
        task, subtask = (languages(), rng.choice(("wiki", "cc100", "news"))) if is_language else pairs()
        yield (
            IndexEntry(
                namespace=publishers(),
                name=f"{name.split('/')[-1]}-{task}-{subtask}-{using.replace('_', '-')}-{number}",
                version="1.0",
                digest=f"sha256:{number:064x}",
                model_name=name,
                task=task,
                subtask=subtask,
                type="text_lang" if is_language else "text_task",
                method=expanded["method"],
                using=using,
                config=expanded,
                config_id=config_id,
                hidden_size=768,
                license=rng.choice(LICENSES),
                language=task if is_language else "en",
                size=rng.randint(500_000, 20_000_000),
                created_at="2026-01-01T00:00:00Z",
            ),
            " ".join(word() for _ in range(rng.randint(5, 20))),
            int(rng.paretovariate(0.9)) - 1,
        )
    assert family


def generate(storage: Storage, count: int, seed: int = 7) -> dict[str, float]:
    """Write `count` adapters and compute everything derived. Returns how long each part took, in seconds."""
    began = time.perf_counter()
    with unprotected(storage):
        with storage.database.write(durable=False) as connection, indexes_afterwards(connection, adapters, versions):
            write_records(connection, entries(count, seed))
        written = time.perf_counter()
        with storage.database.write(durable=False) as connection:
            rebuild_all(connection)
        rebuilt = time.perf_counter()
    with storage.database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    return {
        "records_s": round(written - began, 1),
        "projections_s": round(rebuilt - written, 1),
        "analyze_s": round(time.perf_counter() - rebuilt, 1),
    }


@contextlib.contextmanager
def unprotected(storage: Storage) -> Iterator[None]:
    """Write each page of an SQLite file once, without a journal: a hub that is made up can be made up again."""
    if not storage.database.is_sqlite:
        yield
        return
    with storage.database.read() as connection:
        connection.connection.cursor().execute("PRAGMA journal_mode=OFF")
    yield
    with storage.database.read() as connection:
        connection.connection.cursor().execute("PRAGMA journal_mode=WAL")


def write_records(connection: Connection, lines: Iterator[tuple[IndexEntry, str, int]]) -> None:
    """The rows of `organisations`, `adapters` and `versions` that publishing these entries would have left."""
    owners: dict[str, int] = {
        row.key: row.id for row in connection.execute(select(organisations.c.key, organisations.c.id))
    }
    next_owner = max(owners.values(), default=0) + 1
    last = connection.execute(select(adapters.c.id).order_by(adapters.c.id.desc()).limit(1)).scalar() or 0
    serial = connection.execute(select(hub.c.number).where(hub.c.key == "serial")).scalar_one()
    folded, bucket = lru_cache(fold), lru_cache(bucket_of)
    model_bucket = lru_cache(model_bucket_of)
    while batch := list(itertools.islice(lines, BATCH)):
        new = {}
        adapter_rows, version_rows = [], []
        for entry, description, downloads in batch:
            key = folded(entry.namespace)
            if key not in owners:
                owners[key] = new[key] = next_owner
                next_owner += 1
            last += 1
            serial += 1
            moment = now(hours=(last - LAST_MINUTES) / 60 if last < LAST_MINUTES else 0)  # one a minute
            adapter_rows.append(
                {
                    "id": last, "organisation_id": owners[key], "name": entry.name, "key": fold(entry.name),
                    "model_name": entry.model_name, "task": entry.task, "subtask": entry.subtask,
                    "task_key": folded(entry.task), "subtask_key": folded(entry.subtask), "type": entry.type,
                    "method": entry.method, "using": entry.using, "license": entry.license, "language": entry.language,
                    "description": description, "downloads": downloads, "created_at": moment, "updated_at": moment,
                    "listed": True, "serial": serial,
                }
            )  # fmt: skip
            version_rows.append(
                {
                    "adapter_id": last, "version": entry.version, "digest": entry.digest, "state": "published",
                    "line": entry.to_json_line(), "bucket": bucket(entry.model_name, entry.task, entry.subtask),
                    "model_bucket": model_bucket(entry.model_name), "config_id": entry.config_id, "size": entry.size,
                    "created_at": moment, "published_at": moment, "serial": serial,
                }
            )  # fmt: skip
        owner_rows = ({"id": id_, "name": key, "key": key, "created_at": now()} for key, id_ in new.items())
        bulk_insert(connection, organisations, owner_rows)
        bulk_insert(connection, adapters, adapter_rows)
        bulk_insert(connection, versions, version_rows)
    connection.execute(update(hub).where(hub.c.key == "serial").values(number=serial))
    if connection.dialect.name == "postgresql":  # ids were given, so the sequence has to be told
        for table in (organisations, adapters):
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT max(id) FROM {table.name}))"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--catalogue", type=Path)
    parser.add_argument("--database-url", default="")
    given = parser.parse_args()
    if given.folder.exists() and any(given.folder.iterdir()) and not given.database_url:
        raise SystemExit(f"{given.folder} is there already.")
    # under another name until it is whole: what is broken off is not taken for a hub
    place = given.folder
    if not given.database_url:
        place = given.folder.with_name(f"{given.folder.name}.unfinished")
        shutil.rmtree(place, ignore_errors=True)
    storage = open_storage(Settings(data=place, database_url=given.database_url))
    if given.catalogue:
        from adapterhub.server.catalogue.importing import import_catalogue

        import_catalogue(storage, given.catalogue)
    print(json.dumps({"count": given.count, "seed": given.seed, **generate(storage, given.count, given.seed)}))
    storage.close()
    if place != given.folder:
        place.rename(given.folder)


if __name__ == "__main__":
    main()
