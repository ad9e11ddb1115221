"""Load on a running hub: resolves at a fixed rate, durable publishes, and reads while uploads and idle connections hang on.

    python packages/hub-server/benchmarks/synthetic.py FOLDER --count 1000000
    python packages/hub-server/benchmarks/load.py resolve FOLDER [--rate 1000] [--seconds 60] [--workers 1]
    python packages/hub-server/benchmarks/load.py publish [--count 1000] [--writers 8]
    python packages/hub-server/benchmarks/load.py siege FOLDER [--idle 1000] [--uploads 100]

Requests leave at their appointed times whatever the answers do (open loop), and latency counts from the appointed time, so
that a stalled hub cannot hide. The generator runs in a process of its own on the same machine: it takes a share of the
cores, which the table shows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sqlalchemy import func, select

from adapterhub.server.accounts.organisations import create_organisation
from adapterhub.server.accounts.tokens import create_token
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.server.storage.tables import adapters, organisations
from adapterhub.spec.index import namespace_path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

SEED = 11


@contextlib.contextmanager
def served(folder: Path, workers: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`adapterhub-server serve` on the folder."""
    command = [sys.executable, "-m", "adapterhub.server.cli", "serve", "--data", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", str(workers), "--log-level", "warning"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        found = re.search(r"http://[^ ]+", process.stderr.readline())
        assert found, "the hub did not start"
        yield process, found[0]
    finally:
        process.terminate()
        process.wait(120)


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way; as little work per answer as possible."""

    def __init__(self) -> None:
        self.buffer = b""
        self.waiting: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) >= end + 4 + length and self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            self.buffer = b""
            waiting.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(0)
        self.transport = None

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 if there was none."""
        if self.transport is None:
            return 0
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiting


async def fire(
    url: str, paths: list[str], rate: float, seconds: float, connections: int
) -> tuple[list[float], Counter[int]]:
    """Latencies in seconds, and how often each status came."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    free: deque[Connection] = deque()
    ready = asyncio.Condition()

    async def connect() -> Connection:
        _, protocol = await loop.create_connection(Connection, parts.hostname, parts.port)
        return protocol

    for _ in range(connections):
        free.append(await connect())
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    host = f"{parts.hostname}:{parts.port}"

    async def one(path: str, due: float) -> None:
        async with ready:
            while not free:
                await ready.wait()
            connection = free.popleft()
        status = await connection.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        latencies.append(loop.time() - due)
        statuses[status] += 1
        if connection.transport is None:
            connection = await connect()
        async with ready:
            free.append(connection)
            ready.notify()

    start = loop.time() + 0.1
    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        pause = due - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        task = loop.create_task(one(paths[number % len(paths)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in free:
        if connection.transport is not None:
            connection.transport.abort()
    await asyncio.sleep(0)
    return latencies, statuses


def references(folder: Path, count: int, seed: int = SEED) -> list[str]:
    """Addresses of `/v1/resolve` as people would ask: popular adapters more often (Zipf), by every kind of reference."""
    storage = open_storage(Settings(data=folder))
    rng = random.Random(seed)
    with storage.database.read() as connection:
        newest = connection.execute(select(func.max(adapters.c.id))).scalar_one() or 1
        step = max(1, newest // 20_000)
        rows = connection.execute(
            select(adapters, organisations.c.name.label("ns"))
            .join(organisations, organisations.c.id == adapters.c.organisation_id)
            .where(adapters.c.listed, adapters.c.id % step == 0)
            .limit(20_000)
        ).all()
    storage.close()
    rng.shuffle(rows := list(rows))
    weights = [1 / (rank + 1) for rank in range(len(rows))]
    found = []
    for row in rng.choices(rows, weights, k=count):
        model = f"&model={quote(row.model_name, safe='')}"
        kind = rng.random()
        if kind < 0.40:
            found.append(f"/v1/resolve?ref=@{row.ns}/{quote(row.name)}")
        elif kind < 0.80:
            found.append(f"/v1/resolve?ref={quote(row.task)}/{quote(row.subtask)}@{row.ns}{model}")
        elif kind < 0.90:
            found.append(f"/v1/resolve?ref={quote(row.task)}/{quote(row.subtask)}{model}")
        elif kind < 0.97:
            found.append(f"/v1/resolve?ref={quote(row.subtask)}{model}")
        else:
            found.append(f"/v1/resolve?ref={quote(row.subtask)}x{rng.randrange(1000)}{model}")
    return found


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie, in milliseconds."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000


def show(title: str, latencies: list[float], statuses: Counter[int], **more: Any) -> dict[str, Any]:
    """Print and return one line of figures."""
    figures = {
        "what": title,
        "requests": len(latencies),
        **{f"p{share * 100:g} ms": round(percentile(latencies, share), 2) for share in (0.5, 0.9, 0.99, 0.999)},
        "worst ms": round(max(latencies) * 1000, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        **more,
    }
    print(f"{title:60}", *(f"{name} {value:>8}" for name, value in figures.items() if name not in ("what", "statuses")))
    print(f"{'':60} answers: " + ", ".join(f"{count} × {status}" for status, count in figures["statuses"].items()))
    return figures


def cpu_seconds(process: int) -> float:
    """Processor time a process and its children have used."""
    total = 0.0
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for number in (process, *(int(child) for child in children)):
        fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resolve(folder: Path, rate: float, seconds: float, workers: int, connections: int) -> list[dict[str, Any]]:
    """Resolves at a fixed rate, first with empty caches."""
    paths = references(folder, 50_000)
    with served(folder, workers) as (process, url):
        found = []
        for title, span in (("warm-up", min(5.0, seconds)), (f"resolve at {rate:g}/s", seconds)):
            before, began = cpu_seconds(process.pid), time.perf_counter()
            latencies, statuses = asyncio.run(fire(url, paths, rate, span, connections))
            took = time.perf_counter() - began  # longer than `span` where the hub did not keep up
            used = (cpu_seconds(process.pid) - before) / took
            more = {"answered per second": round(len(latencies) / took), "hub cores": round(used, 2)}
            found.append(show(title, latencies, statuses, **more))
        return found


def publish(count: int, writers: int) -> list[dict[str, Any]]:
    """Whole publishes (three uploads and the manifest commit, durable), from several clients at once."""
    from concurrent.futures import ThreadPoolExecutor

    import httpx
    from adapter_folder import safetensors, write_folder
    from hub import digest_of, manifest_of

    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "hub"
        storage = open_storage(Settings(data=data))
        with storage.database.write() as connection:
            token = create_token(connection, organisation_id=create_organisation(connection, "demo")).secret
        storage.close()
        folder = write_folder(Path(place) / "adapter")
        base = manifest_of(folder).to_json()
        texts = {name: (folder / name).read_bytes() for name in ("adapter_config.json", "README.md")}
        shapes = {tensor["name"]: tuple(tensor["shape"]) for tensor in base["tensors"]}
        prepared = []
        for number in range(count):
            weights = safetensors(shapes, seed=number)
            files = [dict(file) for file in base["files"]]
            for file in files:
                if file["path"] == "adapter.safetensors":
                    file.update(digest=digest_of(weights), size=len(weights))
            prepared.append(({**base, "name": f"adapter-{number}", "files": files}, weights))
        with served(data, 1) as (process, url):
            headers = {"Authorization": f"Bearer {token}"}
            clients = [httpx.Client(base_url=url, headers=headers, timeout=60) for _ in range(writers)]
            for text in texts.values():
                clients[0].post("/v1/uploads", params={"digest": digest_of(text)}, content=text).raise_for_status()

            seen_after: list[float] = []

            def one(number: int) -> float:
                manifest, weights = prepared[number]
                client = clients[number % writers]
                began = time.perf_counter()
                client.post("/v1/uploads", params={"digest": digest_of(weights)}, content=weights).raise_for_status()
                answer = client.post("/v1/publish", json={"manifest": manifest})
                assert answer.status_code == 201, answer.text
                ended = time.perf_counter()
                if number % 20 == 0:  # how long until the index shows it
                    path = namespace_path(manifest["namespace"], manifest["name"])
                    while client.get(path).status_code != 200:
                        time.sleep(0.001)
                    seen_after.append(time.perf_counter() - ended)
                return ended - began

            began = time.perf_counter()
            with ThreadPoolExecutor(writers) as pool:
                latencies = list(pool.map(one, range(count)))
            seconds = time.perf_counter() - began
            seen = httpx.get(f"{url}/v1/resolve", params={"ref": f"@demo/adapter-{count - 1}"}).status_code
            assert seen == 200
            return [
                show(
                    f"publish, {writers} writers",
                    latencies,
                    Counter({201: count}),
                    **{
                        "per second": round(count / seconds, 1),
                        "in the index after ms": round(max(seen_after) * 1000, 1),
                        "hub cores": round(cpu_seconds(process.pid) / seconds, 2),
                    },
                )
            ]


async def hang_on(url: str, idle: int, slow: int, uploads: int, token: str, stop: asyncio.Event) -> None:
    """Idle connections, headers that never end, and uploads that drip."""
    parts = urlsplit(url)
    writers = []
    for number in range(idle + slow + uploads):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writers.append(writer)
        if number < slow:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        elif number < slow + uploads:
            digest = hashlib.sha256(b"a" * 10**6).hexdigest()
            writer.write(
                f"POST /v1/uploads?digest=sha256:{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                "Content-Length: 1000000\r\n\r\n".encode()
            )
    while not stop.is_set():
        for writer in writers[: slow + uploads]:
            if not writer.is_closing():
                writer.write(b"a")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.5)
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.1)


def siege(folder: Path, rate: float, seconds: float, idle: int, uploads: int) -> list[dict[str, Any]]:
    """Resolves before and while others hang on."""
    paths = references(folder, 20_000)
    storage = open_storage(Settings(data=folder))
    with storage.database.write() as connection:
        name = f"siege-{os.getpid()}"
        token = create_token(
            connection, organisation_id=create_organisation(connection, name), scopes=("publish",)
        ).secret
    storage.close()

    async def both(url: str) -> tuple[list[float], Counter[int]]:
        stop = asyncio.Event()
        others = asyncio.create_task(hang_on(url, idle, idle // 5, uploads, token, stop))
        await asyncio.sleep(2)
        result = await fire(url, paths, rate, seconds, 32)
        stop.set()
        await others
        return result

    with served(folder, 1) as (_, url):
        asyncio.run(fire(url, paths, rate, 5, 32))
        alone = show(f"resolve at {rate:g}/s, alone", *asyncio.run(fire(url, paths, rate, seconds, 32)))
        title = f"with {idle} idle, {idle // 5} endless headers, {uploads} dripping uploads"
        return [alone, show(title, *asyncio.run(both(url)))]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("resolve", "publish", "siege"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.what != "publish" and given.folder is None:
        parser.error("a folder made by synthetic.py is needed")
    if given.what == "resolve":
        found = resolve(given.folder, given.rate, given.seconds, given.workers, given.connections)
    elif given.what == "publish":
        found = publish(given.count, given.writers)
    else:
        found = siege(given.folder, given.rate, given.seconds, given.idle, given.uploads)
    if given.json:
        about = {"cores": os.cpu_count(), "load": os.getloadavg(), "seed": SEED, "at": time.time()}
        given.json.write_text(json.dumps({"about": about, "figures": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
