"""The sparse index at a million adapters: bytes on the wire and requests of a cold look-up.

Draws (model, task, subtask, config, publisher) of a million made-up adapters with Zipf popularity, puts them into the 65,536
buckets of the index, writes sampled bucket files as the specification does and compresses them as the hub does. Told three
ways: a bucket picked at random, the bucket of a (model, task, subtask) picked at random, and that of an adapter picked at
random, which falls on the crowded ones. Then times resolving in a bucket of median and of 99th-percentile size.

    python packages/hub-client/benchmarks/bench_index.py [--count 1000000] [--seed 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import bisect
import gzip
import itertools
import json
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

from adapterhub.spec import load_preset
from adapterhub.spec.index import IndexEntry, bucket_of, parse_bucket, write_bucket
from adapterhub.spec.resolution import resolve

PRESETS = ("pfeiffer", "houlsby", "lora", "parallel", "ia3", "prefix_tuning", "compacter")
SAMPLE = 2000


class Zipf:
    """Draws numbers below `count`, the n-th with weight (n + 1)^-exponent."""

    def __init__(self, count: int, exponent: float, dice: random.Random) -> None:
        self.sums = list(itertools.accumulate((number + 1) ** -exponent for number in range(count)))
        self.dice = dice

    def __call__(self) -> int:
        return bisect.bisect_left(self.sums, self.dice.random() * self.sums[-1])


def quantile(values: list[int], share: float) -> int:
    """The value below which `share` of them lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    model, pair, config, publisher = (
        Zipf(606, 1.0, dice),
        Zipf(1504, 0.9, dice),
        Zipf(len(PRESETS), 1.0, dice),
        Zipf(20_000, 0.8, dice),
    )
    expanded = [load_preset(name) for name in PRESETS]
    configs = [(name, made.method, made.expand(), made.config_id) for name, made in zip(PRESETS, expanded, strict=True)]
    buckets: dict[str, list[tuple[int, int, int, int, int]]] = defaultdict(list)
    names: dict[tuple[int, int], str] = {}
    for number in range(options.count):
        key = model(), pair()
        if key not in names:
            names[key] = bucket_of(f"maker{key[0]}/model-{key[0]}-base", f"task-{key[1] % 60}", f"data-{key[1]}")
        buckets[names[key]].append((*key, config(), publisher(), number))

    def entries(bucket: str) -> list[IndexEntry]:
        found = []
        for which, what, how, who, number in buckets[bucket]:
            name, method, fields, config_id = configs[how]
            found.append(
                IndexEntry(
                    namespace=f"publisher-{who}",
                    name=f"model-{which}-base-task-{what % 60}-data-{what}-{name}-{number}",
                    version="1.0",
                    model_name=f"maker{which}/model-{which}-base",
                    task=f"task-{what % 60}",
                    subtask=f"data-{what}",
                    digest=f"sha256:{random.Random(number).getrandbits(256):064x}",
                    method=method,
                    using=name,
                    config=fields,
                    config_id=config_id,
                    hidden_size=768,
                    license="Apache-2.0",
                    size=3_600_000,
                    created_at="2026-01-01T00:00:00Z",
                )
            )
        return found

    sizes: dict[str, tuple[int, int]] = {}

    def size(bucket: str) -> tuple[int, int]:
        if bucket not in sizes:
            body = write_bucket(entries(bucket)).encode()
            sizes[bucket] = len(body), len(gzip.compress(body, 6, mtime=0))
        return sizes[bucket]

    listed, keys = sorted(buckets), sorted(names)
    by_adapter = list(itertools.accumulate(len(buckets[bucket]) for bucket in listed))
    views = {
        "a bucket": [dice.choice(listed) for _ in range(SAMPLE)],
        "a (model, task, subtask)": [names[dice.choice(keys)] for _ in range(SAMPLE)],
        "an adapter": [listed[bisect.bisect_left(by_adapter, dice.uniform(1, by_adapter[-1]))] for _ in range(SAMPLE)],
    }
    result: dict[str, object] = {"count": options.count, "buckets": len(buckets), "seed": options.seed}
    print(f"{options.count:,} adapters in {len(buckets):,} buckets")
    print(f"{'picked at random':28}{'p50 wire':>10}{'p99 wire':>10}{'max wire':>10}{'p99 plain':>11}")
    for name, picked in views.items():
        wire, plain = [size(bucket)[1] for bucket in picked], [size(bucket)[0] for bucket in picked]
        row = {
            "p50": quantile(wire, 0.5),
            "p99": quantile(wire, 0.99),
            "max": max(wire),
            "p99_plain": quantile(plain, 0.99),
        }
        result[name] = row
        print(f"{name:28}" + "".join(f"{row[key]:>10,}" for key in ("p50", "p99", "max")) + f"{row['p99_plain']:>11,}")
    for share in (0.5, 0.99):
        ordered = sorted(listed, key=lambda bucket: len(buckets[bucket]))
        bucket = ordered[int(len(ordered) * share)]
        text = write_bucket(entries(bucket))
        first = entries(bucket)[0]
        times = []
        for _ in range(9):
            began = time.perf_counter()
            found, defaults = parse_bucket(text)
            resolve(f"{first.adapter}:{first.version}", found, defaults=defaults)
            times.append((time.perf_counter() - began) * 1000)
        result[f"parse_and_resolve_ms_p{int(share * 100)}"] = statistics.median(times)
        print(f"parse and resolve, bucket of {len(buckets[bucket]):,} lines: {statistics.median(times):.2f} ms")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
