"""Search and explore over HTTP on a large hub: latency by shape of question, cold start and memory.

    python packages/hub-server/benchmarks/synthetic.py FOLDER --count 1000000
    python packages/hub-server/benchmarks/search_and_explore.py FOLDER [--rounds 40] [--links 100] [--json FILE]

Starts `adapterhub-server serve` on the folder, takes the time until the first answer, then asks questions of every shape,
one at a time over one connection, shapes taking turns; each round asks for other words, so that next to nothing is answered
from what was drawn before. Latency is from the first byte sent to the last one received. Prints a table of p50, p99 and the
worst in milliseconds with the number of requests, and the processor time of the server for an answer.

At last it follows links of explore pages at random and fails if one leads to nothing.
"""

from __future__ import annotations

import argparse
import http.client
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
from urllib.parse import quote, urlencode, urlsplit

#: milliseconds: p50 and p99
GOALS = {"search": (5.0, 50.0), "explore": (None, 20.0)}
COMMON = ["adapter", "trained", "language", "sentiment", "dataset", "model", "base", "pfeiffer", "houlsby", "lora"]
#: words of which an adapter has one only, so that two of them find nothing
EXCLUSIVE = ["pfeiffer", "houlsby", "lora", "ia3", "compacter", "parallel"]


class Connection:
    """One connection that stays open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)

    def ask(self, address: str) -> tuple[float, int, bytes]:
        """Milliseconds, status and body."""
        began = time.perf_counter()
        self._http.request("GET", address)
        answer = self._http.getresponse()
        body = answer.read()
        return (time.perf_counter() - began) * 1000, answer.status, body

    def body(self, address: str) -> bytes:
        """The body of an answer that has to be good."""
        _, status, body = self.ask(address)
        if status != 200:
            raise SystemExit(f"{address}: {status} {body[:200].decode()}")
        return body

    def json(self, address: str) -> Any:
        return json.loads(self.body(address))


def resident_megabytes(process: int) -> float:
    """Memory of a process, as Linux counts it: without the pages of mapped files other processes could share."""
    text = Path(f"/proc/{process}/status").read_text()
    anonymous = re.search(r"RssAnon:\s+(\d+)", text)
    whole = re.search(r"VmRSS:\s+(\d+)", text)
    found = anonymous or whole
    assert found is not None
    return int(found[1]) / 1024


def cpu_seconds(process: int) -> float:
    """Processor time a process has used so far, to the nanosecond where the kernel tells."""
    try:
        tasks = Path(f"/proc/{process}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def find(text: str = "", **given: str) -> str:
    """The address of a search."""
    return f"/v1/adapters?{urlencode({'q': text, **given} if text else given)}"


def search_questions(http: Connection, rng: random.Random, samples: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """One (shape, address) of every shape."""
    one, other = rng.choice(samples), rng.choice(samples)
    word, second = rng.sample(COMMON, 2)
    rare = rng.choice(one["description"].split() or ["adapter"])
    yield "common word", find(f"{word} ")
    yield "two common words", find(f"{word} {second} ")
    yield "three common words", find(f"{' '.join(rng.sample(COMMON, 3))} ")
    yield "six common words", find(f"{' '.join(rng.sample(COMMON[:7], 6))} ")
    yield "word of a description", find(f"{rare} ")
    yield "common and rare word", find(f"{word} {rare} ")
    yield "two rare words, mostly no hit", find(f"{rare} {other['name'].split('-')[-1]} ")
    yield "three common words, no hit", find(f"{' '.join(rng.sample(EXCLUSIVE, 3))} ")
    yield "exact name", find(one["name"])
    yield "task/data set", find(f"{one['task']}/{one['subtask']}")
    yield "prefix of 1", find(rng.choice("abcdefghij"))
    yield "prefix of 2", find(word[:2])
    yield "prefix of 3", find(word[:3])
    yield "prefix of 5", find(word[:5])
    yield "word and prefix of 3", find(f"{word} {rare[:3]}")
    yield "one filter", find(model=one["model_name"])
    yield "three filters", find(model=one["model_name"], method=one["method"], kind="task")
    yield "word and filter", find(word, task=one["task"])
    yield "word, newest first", find(f"{word} ", sort="newest")
    yield "rare word, newest first", find(f"{rare} ", sort="newest")
    yield "filter, by name", find(using=one["using"], sort="name")
    yield "word and filter, by downloads", find(word, task=one["task"], sort="downloads")
    yield "typing error", find(f"{word[:2]}{word[3:]}x{word[-1]}q ")
    yield "three typing errors", find(f"{word[:-2]}q{word[-1]} {second[:1]}{second[2:]}z {rare[:2]}x{rare[2:]} ")
    yield "200 letters of nothing", find("".join(rng.choices("abcdefghij", k=200)))
    yield "twelve words of nothing", find(" ".join("".join(rng.choices("klmnopqr", k=12)) for _ in range(12)))
    yield "no question", find(limit="20")
    yield "search page", f"/search?{urlencode({'q': word})}"
    address = find(f"{word} {second if rng.random() < 0.5 else ''}")
    for _ in range(rng.randint(1, 4)):
        following = http.json(address)["next"]
        if not following:
            break
        address = f"{address.split('&cursor=')[0]}&cursor={following}"
    yield "a later page", address


def explore_questions(
    rng: random.Random, kinds: dict[str, Any], samples: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """One (shape, address) of every shape."""
    one = rng.choice(samples)
    task = rng.choice(kinds["task"])
    pair = rng.choice(task["subtasks"])
    tongue = rng.choice(kinds["language"])
    top = max(kinds["task"][0]["subtasks"], key=lambda item: int(item["count"]))
    here, full = f"/explore/task/{quote(pair['task'])}/{quote(pair['id'])}", f"/explore/task/{top['task']}/{top['id']}"
    yield "start page", "/"
    yield "level 1, tasks", "/explore/task"
    yield "level 1, tasks with a word", f"/explore/task?q={pair['id'][:3]}"
    yield "level 1, languages", "/explore/language"
    yield "level 2", f"/explore/task/{quote(task['id'])}"
    yield "level 3", here
    yield "level 3, fullest", full
    yield "level 3, filtered", f"{here}?using=pfeiffer"
    yield "level 3, fullest, one model", f"{full}?{urlencode({'model': one['model_name']})}"
    yield "level 3, fullest, rare variant", f"{full}?using=compacter&non_linearity=gelu&reduction_factor=2"
    yield "level 3, language", f"/explore/language/{tongue['id']}/{quote(tongue['subtasks'][0]['id'])}"
    yield "adapter page", str(one["page"])
    yield "publisher page", f"/@{one['namespace']}"


def questions(http: Connection, rng: random.Random) -> Iterator[list[tuple[str, str, str]]]:
    """Rounds of (goal, shape, address), one of every shape each."""
    samples = [item for sort in ("newest", "name") for item in http.json(find(limit="100", sort=sort))["items"]]
    samples += [item for word in COMMON for item in http.json(find(word, limit="40"))["items"]]
    samples = [item for item in samples if item["description"] and item["task"] and item["using"]]
    kinds = {kind: http.json(f"/v1/explore/{kind}")["items"] for kind in ("task", "language")}
    while True:
        found = [("search", *shape) for shape in search_questions(http, rng, samples)]
        yield [*found, *(("explore", *shape) for shape in explore_questions(rng, kinds, samples))]


def start(folder: Path, database_url: str) -> tuple[subprocess.Popen[bytes], str, float]:
    """The server on a free port, and how long it took to answer that it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "adapterhub.server.cli", "serve", "--data", str(folder), "--port", str(port)]
    if database_url:
        command += ["--database-url", database_url]
    settings = {"OMP_NUM_THREADS": "1", "ADAPTERHUB_RATE_PER_MINUTE": "0"}
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, **settings})
    url = f"http://127.0.0.1:{port}"
    while time.perf_counter() - began < 120:
        try:
            if Connection(url).ask("/readyz")[1] == 200:
                return process, url, time.perf_counter() - began
        except OSError:
            time.sleep(0.005)
    process.terminate()
    raise SystemExit("The server did not become ready.")


def measure(folder: Path, rounds: int, links: int, seed: int, database_url: str = "") -> dict[str, Any]:
    """Figures of one run."""
    process, url, seconds = start(folder, database_url)
    try:
        start_cpu = cpu_seconds(process.pid)
        first_memory = resident_megabytes(process.pid)
        took: dict[tuple[str, str], list[tuple[float, float]]] = {}
        http, rng = Connection(url), random.Random(seed)
        asked = questions(http, rng)
        for number in range(rounds + 1):
            for goal, shape, address in next(asked):
                used = cpu_seconds(process.pid)
                elapsed, status, body = http.ask(address)
                if status != 200:
                    raise SystemExit(f"{address}: {status} {body[:200].decode()}")
                if number:  # the first round warms up
                    processor = (cpu_seconds(process.pid) - used) * 1000
                    took.setdefault((goal, shape), []).append((elapsed, processor))
        return {
            "adapters": http.json("/v1/counts")["adapters"],
            "cold_start_s": round(seconds, 3),
            "cold_start_cpu_s": round(start_cpu, 2),
            "memory_at_start_mb": round(first_memory, 1),
            "memory_at_end_mb": round(resident_megabytes(process.pid), 1),
            "rounds": rounds,
            "seed": seed,
            "load_average": os.getloadavg()[0],
            "shapes": [{"goal": goal, "shape": shape, **summary(found)} for (goal, shape), found in took.items()],
            "all": {
                goal: summary([one for (kind, _), found in took.items() if kind == goal for one in found])
                for goal in GOALS
            },
            "links_followed": follow(http, rng, links),
        }
    finally:
        process.terminate()
        process.wait(20)


def summary(found: list[tuple[float, float]]) -> dict[str, float]:
    """How many; median, 99th percentile and worst of the latencies; median and 99th percentile of the processor time."""
    latencies, processor = sorted(one for one, _ in found), sorted(one for _, one in found)

    def ninety_nine(values: list[float]) -> float:
        return values[min(len(values) - 1, int(len(values) * 0.99))]

    figures = {
        "p50": statistics.median(latencies), "p99": ninety_nine(latencies), "max": latencies[-1],
        "cpu_p50": statistics.median(processor), "cpu_p99": ninety_nine(processor),
    }  # fmt: skip
    return {"requests": len(found), **{name: round(value, 2) for name, value in figures.items()}}


def follow(http: Connection, rng: random.Random, count: int) -> int:
    """Walks down the explore pages `count` times: each link has to lead to adapters, as many as it says."""
    for _ in range(count):
        kind = rng.choice(("task", "language"))
        page = http.body(f"/explore/{kind}").decode()
        second = rng.choice(re.findall(rf'href="(/explore/{kind}/[^/"]+)"', page))
        third = rng.choice(re.findall(rf'href="({re.escape(second)}/[^/"]+)"', http.body(second).decode()))
        found = http.json(f"/v1{third}")
        if not found["items"] or not re.search(r'href="/@[^"]+/[^"]+"', http.body(third).decode()):
            raise SystemExit(f"{third} is linked and empty.")
        facets = [(name, choice) for name, facet in found["facets"].items() for choice in facet["choices"]]
        if facets:
            name, choice = rng.choice(facets)
            left = http.json(f"/v1{third}?{urlencode({name: choice['value']})}")["total"]
            if left != choice["count"] or not left:
                raise SystemExit(f"{third}: {name}={choice['value']} promises {choice['count']} and gives {left}.")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--links", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measure(given.folder, given.rounds, given.links, given.seed, given.database_url)
    print(
        f"{result['adapters']:,} adapters; ready after {result['cold_start_s']} s ({result['cold_start_cpu_s']} s of processor time); "
        f"memory {result['memory_at_start_mb']} MB at start, {result['memory_at_end_mb']} MB at the end; "
        f"load average {result['load_average']:.1f}"
    )
    print(f"{'':9}{'shape':34}{'requests':>9}{'p50':>9}{'p99':>9}{'max':>9}   ms{'cpu p50':>10}{'cpu p99':>9}   ms")
    for row in [*result["shapes"], *({"goal": goal, "shape": "ALL", **row} for goal, row in result["all"].items())]:
        print(
            f"{row['goal']:9}{row['shape']:34}{row['requests']:9}{row['p50']:9.2f}{row['p99']:9.2f}{row['max']:9.2f}"
            f"     {row['cpu_p50']:10.2f}{row['cpu_p99']:9.2f}"
        )
    for goal, (half, most) in GOALS.items():
        limits, found = f"p50 ≤ {half:g} ms, " if half else "", result["all"][goal]
        met = found["p99"] <= most and (half is None or found["p50"] <= half)
        print(
            f"{goal}: goal {limits}p99 ≤ {most:g} ms: {'reached' if met else 'missed'} over {found['requests']} requests"
        )
    print(f"{result['links_followed']} ways down the explore pages followed: no link led to nothing")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
