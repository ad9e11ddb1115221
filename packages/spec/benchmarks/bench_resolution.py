"""Resolution over many entries: building the index, and one reference of each kind, against reading one index line.

Yardstick: `json.loads` of one index line, timed in turn with each. 100,000 versions of 50,000 adapters for 200 models whose
popularity falls as 1/rank, seed 1. Prints a table; `--json FILE` writes it as well.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapterhub.spec import AdapterHubError, IndexEntry, load_preset
from adapterhub.spec.index import parse_bucket
from adapterhub.spec.index_files import write_bucket
from adapterhub.spec.resolution import EntryIndex, resolve

ROUNDS = 9
MODELS, ADAPTERS = 200, 50_000


def entries(count: int) -> list[IndexEntry]:
    """Versions with Zipf popularity of models, tasks and data sets; two versions of each adapter."""
    random.seed(1)
    weights = [1 / rank for rank in range(1, MODELS + 1)]
    models = random.choices([f"org/model-{number}" for number in range(MODELS)], weights, k=count)
    tasks = random.choices([f"task-{number}" for number in range(100)], [1 / rank for rank in range(1, 101)], k=count)
    sets = random.choices(
        [f"data-set-{number}" for number in range(500)], [1 / rank for rank in range(1, 501)], k=count
    )
    configs = [load_preset(name) for name in ("pfeiffer", "houlsby", "lora")]
    expanded = [(config, config.expand(), config.config_id) for config in configs]
    listed = []
    for number, (model, task, subtask) in enumerate(zip(models, tasks, sets, strict=True)):
        config, fields, config_id = expanded[number % 3]
        for version in ("1", "2"):
            listed.append(
                IndexEntry(
                    namespace=f"org-{number % 5000}",
                    name=f"adapter-{number}",
                    version=version,
                    model_name=model,
                    task=task,
                    subtask=subtask,
                    method=config.method,
                    using=("pfeiffer", "houlsby", "lora")[number % 3],
                    config=fields,
                    config_id=config_id,
                    digest=f"sha256:{number:060x}000{version}",
                )
            )
    return listed


def seconds(work: Callable[[], Any], times: int) -> float:
    """Seconds for one call, of `times` in a row."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


def attempt(ref: str, index: EntryIndex | list[IndexEntry], **context: Any) -> Callable[[], Any]:
    def work() -> Any:
        try:
            return resolve(ref, index, **context)
        except AdapterHubError as error:
            return error

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    listed = entries(ADAPTERS)
    started = time.perf_counter()
    index = EntryIndex(listed)
    built = time.perf_counter() - started
    model, rare = "org/model-0", "org/model-150"
    one = next(entry for entry in listed if entry.model_name == rare)
    line = listed[0].to_json_line()
    bucket = write_bucket([entry for entry in listed if entry.model_name == rare][:110])
    few = parse_bucket(bucket)[0]
    works = {
        "@namespace/name": attempt(one.adapter, index, model_name=rare),
        "task/subtask, a rare model": attempt(f"{one.task}/{one.subtask}@{one.namespace}", index, model_name=rare),
        "a word and a publisher": attempt(f"{one.subtask}@{one.namespace}", index, model_name=rare),
        "task/subtask and config, popular": attempt("task-0/data-set-0", index, model_name=model, config="houlsby"),
        "not found, other models looked at": attempt("no-such-thing", index, model_name=rare),
        "over a plain list of 110 versions": attempt(one.adapter, few, model_name=rare),
        "reading a bucket of 110 versions": lambda: parse_bucket(bucket),
    }
    yardstick = lambda: json.loads(line)  # noqa: E731
    rows = []
    for name, work in works.items():
        once = seconds(work, 3)
        times = max(1, int(0.02 / once))
        pairs = [(seconds(work, times), seconds(yardstick, 500)) for _ in range(ROUNDS)]
        rows.append(
            {
                "work": name,
                "microseconds": round(1e6 * statistics.median(pair[0] for pair in pairs), 1),
                "index lines read in that time": round(statistics.median(pair[0] / pair[1] for pair in pairs), 1),
            }
        )
    print(f"{len(listed):,} versions arranged in {built:.2f} s ({1e6 * built / len(listed):.1f} µs each)\n")
    print(f"{'work':40} {'µs':>10} {'/ reading one line':>20}")
    for row in rows:
        print(f"{row['work']:40} {row['microseconds']:>10,} {row['index lines read in that time']:>20,}")
    if arguments.json:
        report = {"versions": len(listed), "arranged_seconds": built, "seed": 1, "rounds": ROUNDS, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
