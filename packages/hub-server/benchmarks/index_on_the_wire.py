"""What resolving over the index costs a client that has nothing yet: requests, and bytes on the wire.

    python packages/hub-server/benchmarks/index_on_the_wire.py FOLDER [--count 600] [--seed 7] [--json FILE]

Takes a hub (synthetic.py makes one of a million adapters), draws adapters, asks for each in every way a user may write it, and
adds up what the hub sends: bodies as compressed as they are sent, and the 620 bytes of each answer's head. Adapters are drawn
three ways: each alike; by downloads (what is asked for most); and each (model, task, subtask) alike. The answer is compared
with the hub's own for a part of them.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from adapterhub.server.accounts.viewer import ANONYMOUS
from adapterhub.server.resolving.files import index_file
from adapterhub.server.resolving.service import resolve_reference
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.server.storage.tables import adapters, organisations
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.lookup import look_up
from adapterhub.spec.resolution import load_aliases

HEAD = 620
#: digests of made-up adapters are numbers; real ones cannot be compressed
MADE_UP = re.compile(rb"(?<=sha256:)0{40}[0-9a-f]{24}")
#: how often a user writes it so, by our estimate
FORMS = {
    "@ns/name": 20,
    "task/subtask@ns": 30,
    "task/subtask@ns, config": 15,
    "task/subtask": 8,
    "task/subtask, config": 5,
    "subtask": 4,
    "subtask@ns": 6,
    "subtask, config": 2,
    "task": 2,
    "task@ns": 2,
    "alias or prefix": 4,
    "unknown": 2,
}


def questions(row: Any, dice: random.Random, aliases: dict[str, list[str]]) -> Iterator[tuple[str, str, str | None]]:
    """(form, reference, config) for one adapter."""
    path = f"{row.task}/{row.subtask}"
    yield "@ns/name", f"@{row.ns}/{row.name}", None
    yield "task/subtask@ns", f"{path}@{row.ns}", None
    yield "task/subtask@ns, config", f"{path}@{row.ns}", row.using
    yield "task/subtask", path, None
    yield "task/subtask, config", path, row.using
    yield "subtask", row.subtask, None
    yield "subtask@ns", f"{row.subtask}@{row.ns}", None
    yield "subtask, config", row.subtask, row.using
    yield "task", row.task, None
    yield "task@ns", f"{row.task}@{row.ns}", None
    other = [*aliases.get(row.task, ()), *aliases.get(row.subtask, ()), *aliases.get(path, ())]
    other += (
        [row.subtask.rsplit("-", 1)[0], f"{row.task}/{row.subtask.rsplit('-', 1)[0]}"] if "-" in row.subtask else []
    )
    if other:
        yield "alias or prefix", f"{dice.choice(other)}@{row.ns}", None
    yield "unknown", f"{row.task}/{row.subtask}x", None


def quantile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    settings = Settings(data=options.folder)
    storage = open_storage(settings)
    aliases: dict[str, list[str]] = defaultdict(list)
    for key, target in load_aliases().items():
        aliases[target].append(key)
    result: dict[str, Any] = {"seed": options.seed}
    with storage.database.read() as connection:
        sent: dict[str, tuple[int, float]] = {}

        def fetch(path: str) -> tuple[bytes | None, int, float]:
            """The file, its bytes on the wire, and the seconds it took to make."""
            began = time.perf_counter()
            body = index_file(connection, settings, path.removeprefix("/index/"), ANONYMOUS)
            if path not in sent:
                sent_body = MADE_UP.sub(
                    lambda found: hashlib.sha256(found[0]).hexdigest().encode(), body or b"{}" * 100
                )
                wire = len(sent_body)
                if body is not None and wire > 1000:
                    wire = len(gzip.compress(sent_body, 6, mtime=0))
                sent[path] = wire + HEAD, time.perf_counter() - began
            return body, *sent[path]

        def ask(reference: str, model: str, config: str | None) -> tuple[Any, int, int, list[float]]:
            steps, requests, wire, took = look_up(reference, model_name=model, config=config), 0, 0, []
            try:
                paths = next(steps)
                while True:
                    answers = {path: fetch(path) for path in paths}
                    requests += len(paths)
                    wire += sum(size for _, size, _ in answers.values())
                    took += [seconds for _, _, seconds in answers.values()]
                    paths = steps.send({path: answer[0] for path, answer in answers.items()})
            except StopIteration as done:
                return done.value, requests, wire, took
            except AdapterHubError as error:
                return error, requests, wire, took

        last = connection.execute(select(func.max(adapters.c.id))).scalar_one()
        of = (
            select(
                *(adapters.c[name] for name in ("id", "name", "model_name", "task", "subtask", "using", "downloads")),
                organisations.c.name.label("ns"),
            )
            .join(organisations, organisations.c.id == adapters.c.organisation_id)
            .where(adapters.c.listed, adapters.c.task != "")
        )

        def row(number: int) -> Any:
            return connection.execute(of.where(adapters.c.id >= number).order_by(adapters.c.id).limit(1)).first()

        alike = [row(dice.randint(1, last)) for _ in range(options.count)]
        downloads = connection.execute(select(adapters.c.id, adapters.c.downloads)).all()
        popular = [
            row(n) for n in dice.choices([r.id for r in downloads], [r.downloads for r in downloads], k=options.count)
        ]
        pairs = connection.execute(
            select(func.min(adapters.c.id)).group_by(adapters.c.model_name, adapters.c.task_key, adapters.c.subtask_key)
        ).scalars()
        places = [row(n) for n in dice.sample(list(pairs), options.count)]
        compared = 0
        for name, rows in (("by downloads", popular), ("by adapter", alike), ("by (model, task, subtask)", places)):
            by_form: dict[str, list[tuple[int, int]]] = defaultdict(list)
            for which, about in enumerate(row for row in rows if row is not None):
                for form, reference, config in questions(about, dice, aliases):
                    answer, requests, wire, _ = ask(reference, about.model_name, config)
                    by_form[form].append((requests, wire))
                    if which % 20 == 0:
                        compared += 1
                        check(connection, answer, reference, about.model_name, config)
            weighted = [
                (requests, wire, FORMS[form] / len(found))
                for form, found in by_form.items()
                for requests, wire in found
            ]
            print(f"\n{name}: {len(rows):,} adapters")
            print(
                f"{'asked as':26}{'share':>6}{'requests p50':>14}{'p99':>5}{'max':>5}{'bytes p50':>11}{'p99':>9}{'max':>9}"
            )
            table = {}
            for form in [*FORMS, "all"]:
                found = by_form.get(form, []) if form != "all" else spread(weighted)
                if found:
                    counts, sizes = [one[0] for one in found], [one[1] for one in found]
                    figures = [
                        *(quantile(counts, q) for q in (0.5, 0.99, 1)),
                        *(quantile(sizes, q) for q in (0.5, 0.99, 1)),
                    ]
                    table[form] = figures
                    share = f"{FORMS[form]} %" if form in FORMS else ""
                    print(f"{form:26}{share:>6}{figures[0]:>14}{figures[1]:>5}{figures[2]:>5}", end="")
                    print("".join(f"{figure:>{width},}" for figure, width in zip(figures[3:], (11, 9, 9), strict=True)))
            result[name] = table
        seconds = sorted(took for _, took in sent.values())
        result["make_ms"] = {
            "p50": statistics.median(seconds) * 1e3,
            "p99": seconds[int(len(seconds) * 0.99)] * 1e3,
            "max": seconds[-1] * 1e3,
        }
        print(
            f"\n{len(sent):,} files; making and packing one: "
            + ", ".join(f"{k} {v:.1f} ms" for k, v in result["make_ms"].items())
        )
        print(f"{compared:,} answers compared with the hub's own: the same")
    storage.close()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2))


def spread(weighted: list[tuple[int, int, float]]) -> list[tuple[int, int]]:
    """A list in which each figure stands as often as its weight says, in parts of ten thousand."""
    total = sum(weight for _, _, weight in weighted)
    found, left = [], 0.0
    for requests, wire, weight in weighted:
        left += weight / total * 100_000
        found += [(requests, wire)] * int(left)
        left -= int(left)
    return found


def check(connection: Any, answer: Any, reference: str, model: str, config: str | None) -> None:
    """Stop if the hub's own answer is another one."""
    try:
        told: Any = resolve_reference(connection, reference, ANONYMOUS, model_name=model, config=config)
    except AdapterHubError as error:
        told = error
    same = (
        answer.code == told.code
        if isinstance(told, AdapterHubError) and isinstance(answer, AdapterHubError)
        else answer == told
    )
    if not same:
        sys.exit(f"{reference} for {model} ({config}): {answer!r} over the index, {told!r} from the hub")


if __name__ == "__main__":
    main()
