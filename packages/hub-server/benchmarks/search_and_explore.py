"""Search and explore over HTTP on a large hub: latency by shape of question, cold start and memory.

    python packages/hub-server/benchmarks/synthetic.py FOLDER --count 1000000
    python packages/hub-server/benchmarks/search_and_explore.py FOLDER [--rounds 40] [--json FILE]

Starts `adapterhub-server serve` on the folder, takes the time until the first answer, then asks questions of every shape,
one at a time over one connection, shapes taking turns; each round asks for other words, so that nothing is answered from a
cache of answers (there is none). Prints a table of p50, p99 and the worst in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

GOALS = {"search": (5.0, 50.0), "explore": (None, 20.0)}


def resident_megabytes(process: int) -> float:
    """Memory of a process, as Linux counts it: without the pages of mapped files other processes could share."""
    text = Path(f"/proc/{process}/status").read_text()
    anonymous = re.search(r"RssAnon:\s+(\d+)", text)
    whole = re.search(r"VmRSS:\s+(\d+)", text)
    found = anonymous or whole
    assert found is not None
    return int(found[1]) / 1024


def cpu_seconds(process: int) -> float:
    """Processor time a process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def questions(http: httpx.Client, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """One address of every shape: (goal, shape, address)."""
    common = ["adapter", "trained", "language", "sentiment", "dataset", "model", "base", "pfeiffer", "houlsby", "lora"]
    page = http.get("/v1/adapters", params={"limit": 100, "sort": "newest", "facets": False}).json()
    samples: list[dict[str, Any]] = page["items"]
    kinds = {kind: http.get(f"/v1/explore/{kind}").json()["items"] for kind in ("task", "language")}
    while True:
        one, other = rng.choice(samples), rng.choice(samples)
        word = rng.choice(common)
        rare = rng.choice(one["description"].split() or ["adapter"])
        yield "search", "common word", f"/v1/adapters?q={word}%20"
        yield "search", "two common words", f"/v1/adapters?q={word}+{rng.choice(common)}%20"
        yield "search", "three common words", f"/v1/adapters?q={'+'.join(rng.sample(common, 3))}%20"
        yield "search", "word of a description", f"/v1/adapters?q={rare}%20"
        yield "search", "common and rare word", f"/v1/adapters?q={word}+{rare}%20"
        yield "search", "two rare words, mostly no hit", f"/v1/adapters?q={rare}+{other['name'].split('-')[-1]}%20"
        yield "search", "exact name", f"/v1/adapters?q={one['name']}"
        yield "search", "task/data set", f"/v1/adapters?q={one['task']}/{one['subtask']}"
        yield "search", "prefix of 1", f"/v1/adapters?q={rng.choice('abcdefghij')}"
        yield "search", "prefix of 2", f"/v1/adapters?q={word[:2]}"
        yield "search", "prefix of 3", f"/v1/adapters?q={word[:3]}"
        yield "search", "prefix of 5", f"/v1/adapters?q={word[:5]}"
        yield "search", "one filter", f"/v1/adapters?model={one['model_name']}"
        yield "search", "three filters", f"/v1/adapters?model={one['model_name']}&method={one['method']}&kind=task"
        yield "search", "word and filter", f"/v1/adapters?q={word}&task={one['task']}"
        yield "search", "word, newest first", f"/v1/adapters?q={word}%20&sort=newest"
        yield "search", "filter, by name", f"/v1/adapters?using={one['using']}&sort=name"
        yield "search", "typing error", f"/v1/adapters?q={word[:2]}{word[3:]}x{word[-1]}q%20"
        yield "search", "no question", "/v1/adapters"
        yield "search", "search page", f"/search?q={word}"
        task = rng.choice(kinds["task"])
        pair = rng.choice(task["subtasks"])
        tongue = rng.choice(kinds["language"])
        top = max((item for item in kinds["task"][0]["subtasks"]), key=lambda item: int(item["count"]))
        yield "explore", "start page", "/"
        yield "explore", "level 1, tasks", "/explore/task"
        yield "explore", "level 1, languages", "/explore/language"
        yield "explore", "level 2", f"/explore/task/{task['id']}"
        yield "explore", "level 3", f"/explore/task/{pair['task']}/{pair['id']}"
        yield "explore", "level 3, fullest", f"/explore/task/{top['task']}/{top['id']}"
        yield "explore", "level 3, filtered", f"/explore/task/{pair['task']}/{pair['id']}?using=pfeiffer"
        yield "explore", "level 3, language", f"/explore/language/{tongue['id']}/{tongue['subtasks'][0]['id']}"
        yield "explore", "adapter page", str(one["page"])
        yield "explore", "publisher page", f"/@{one['namespace']}"


def start(folder: Path, database_url: str) -> tuple[subprocess.Popen[bytes], str, float]:
    """The server on a free port, and how long it took to answer that it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "adapterhub.server.cli", "serve", "--data", str(folder), "--port", str(port)]
    if database_url:
        command += ["--database-url", database_url]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url) as http:
        while time.perf_counter() - began < 120:
            try:
                if http.get("/readyz").status_code == 200:
                    return process, url, time.perf_counter() - began
            except httpx.TransportError:
                time.sleep(0.01)
    process.terminate()
    raise SystemExit("The server did not become ready.")


def measure(folder: Path, rounds: int, seed: int, database_url: str = "") -> dict[str, Any]:
    """Figures of one run."""
    process, url, seconds = start(folder, database_url)
    try:
        start_cpu = cpu_seconds(process.pid)
        first_memory = resident_megabytes(process.pid)
        took: dict[tuple[str, str], list[float]] = {}
        with httpx.Client(base_url=url, timeout=120) as http:
            asked = questions(http, random.Random(seed))
            shapes = 30
            for number in range((rounds + 1) * shapes):
                goal, shape, address = next(asked)
                began = time.perf_counter()
                answer = http.get(address)
                elapsed = (time.perf_counter() - began) * 1000
                if answer.status_code != 200:
                    raise SystemExit(f"{address}: {answer.status_code} {answer.text[:200]}")
                if number >= shapes:  # the first round warms up
                    took.setdefault((goal, shape), []).append(elapsed)
            start_of = {shape: address for _ in range(shapes) for _, shape, address in (next(asked),)}
            processor = {
                shape: processor_milliseconds(process.pid, http, address) for shape, address in start_of.items()
            }
            total = http.get("/v1/counts").json()["adapters"]
        return {
            "adapters": total,
            "cold_start_s": round(seconds, 3),
            "cold_start_cpu_s": round(start_cpu, 2),
            "memory_at_start_mb": round(first_memory, 1),
            "memory_at_end_mb": round(resident_megabytes(process.pid), 1),
            "rounds": rounds,
            "seed": seed,
            "load_average": os.getloadavg()[0],
            "shapes": [
                {"goal": goal, "shape": shape, **percentiles(values), "cpu": processor[shape]}
                for (goal, shape), values in took.items()
            ],
            "all": {
                goal: percentiles([value for (kind, _), values in took.items() if kind == goal for value in values])
                for goal in GOALS
            },
        }
    finally:
        process.terminate()
        process.wait(20)


def processor_milliseconds(process: int, http: httpx.Client, address: str, repeats: int = 20) -> float:
    """Processor time of the server for one answer; unlike the wall clock it does not see what else the machine does."""
    began = cpu_seconds(process)
    for _ in range(repeats):
        http.get(address).raise_for_status()
    return round((cpu_seconds(process) - began) / repeats * 1000, 1)


def percentiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and worst."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "max": round(ordered[-1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measure(given.folder, given.rounds, given.seed, given.database_url)
    print(
        f"{result['adapters']:,} adapters; ready after {result['cold_start_s']} s ({result['cold_start_cpu_s']} s of processor time); "
        f"memory {result['memory_at_start_mb']} MB at start, {result['memory_at_end_mb']} MB at the end; "
        f"load average {result['load_average']:.1f}"
    )
    print(f"{'':9}{'shape':34}{'p50':>9}{'p99':>9}{'max':>9}{'cpu':>8}   ms")
    for row in [*result["shapes"], *({"goal": goal, "shape": "ALL", **row} for goal, row in result["all"].items())]:
        print(
            f"{row['goal']:9}{row['shape']:34}{row['p50']:9.2f}{row['p99']:9.2f}{row['max']:9.2f}{row.get('cpu', 0):8.1f}"
        )
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
