"""Download: the client, hashing and syncing included, against curl fetching the same files from the same server.

The server is `adapterhub-server` where it is installed, else a small threaded file server. curl and the client alternate;
each writes to the same disk. Beside them stand the parts: sha256 alone, writing and syncing alone. The ratio is the median
over the rounds of curl's time divided by the client's. An adapter of BERT-base size and a large one. Prints tables, writes JSON.

    python packages/hub-client/benchmarks/bench_download.py [--megabytes 3.6 100] [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exports import MODEL, Export, write_adapter
from loopback import LoopbackHub

from adapterhub.client import HubClient


@contextmanager
def serving(adapter: Path, root: Path) -> Iterator[tuple[str, str]]:
    """A running server that has the adapter; gives its address and its name."""
    command = Path(sys.executable).parent / "adapterhub-server"
    if not command.exists():
        export = Export(root / "export")
        export.publish(adapter, "sentiment/sst-2@bench", version="1")
        hub = LoopbackHub(export.folder)
        yield hub.url, "loopback file server"
        hub.close()
        return
    data = ["--data", str(root / "data")]
    subprocess.run([command, "org", "create", "bench", *data], check=True, capture_output=True)
    token = subprocess.run(
        [command, "token", "create", "--org", "bench", *data], check=True, capture_output=True, text=True
    ).stdout.strip()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (root / "log").open("wb") as log:
        server = subprocess.Popen([command, "serve", *data, "--port", str(port)], stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        with HubClient(endpoint=url, token=token, cache_dir=root / "publisher") as client:
            client.publish(adapter, "sentiment/sst-2@bench", version="1", progress=False)
        yield url, "adapterhub-server"
    finally:
        server.terminate()
        server.wait(20)


def measure(megabytes: float, rounds: int) -> dict[str, object]:
    """One size of adapter."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if megabytes < 8:
            adapter = write_adapter(root / "adapter", hidden=768, layers=max(1, round(megabytes * 1e6 / 299_000)))
        else:
            layers = max(1, round(megabytes * 1e6 / (2 * 4096 * 256 * 4)))
            adapter = write_adapter(root / "adapter", hidden=4096, layers=layers)
        data = (adapter / "adapter.safetensors").read_bytes()
        times: dict[str, list[float]] = {name: [] for name in ("curl", "client", "sha256", "write")}
        used: dict[str, list[float]] = {name: [] for name in ("curl", "client")}
        with serving(adapter, root) as (url, server):
            with HubClient(endpoint=url, cache_dir=root / "warm") as client:
                found = client.resolve("sst-2@bench", model_name=MODEL)
            line = ["curl", "-sS"]  # the same files over one connection: the manifest, and what it lists
            for digest in (found.digest, *(f"sha256:{_hash(path)}" for path in sorted(adapter.iterdir()))):
                kind = "manifests" if digest == found.digest else "blobs"
                line += ["-o", str(root / "curl" / str(digest)[7:]), f"{url}/v1/{kind}/{digest}"]
            for number in range(rounds + 1):
                (root / "curl").mkdir()
                processor, began = _children(), time.perf_counter()
                subprocess.run(line, check=True)
                middle, own = time.perf_counter(), time.process_time()
                with HubClient(endpoint=url, cache_dir=root / "cache") as client:
                    client.download(found, progress=False)
                after, owned = time.perf_counter(), time.process_time()
                hashlib.sha256(data)
                hashed = time.perf_counter()
                with (root / "written").open("wb") as stream:
                    stream.write(data)
                    os.fsync(stream.fileno())
                written = time.perf_counter()
                if number:
                    steps = (middle - began, after - middle, hashed - after, written - hashed)
                    for name, step in zip(times, steps, strict=True):
                        times[name].append(step)
                    used["curl"].append(_children() - processor)
                    used["client"].append(owned - own)
                shutil.rmtree(root / "cache")
                shutil.rmtree(root / "curl")
                (root / "written").unlink()
    size_mb = len(data) / 1e6
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(curl / ours for curl, ours in zip(times["curl"], times["client"], strict=True))
    print(f"{size_mb:.1f} MB from {server}, {rounds} rounds")
    for name, seconds in medians.items():
        processor = f"{statistics.median(used[name]) * 1000:9.0f} ms of processor" if name in used else ""
        print(f"{name:8}{seconds * 1000:9.0f} ms {size_mb / seconds:9.0f} MB/s{processor}")
    print(f"client / curl rate: {ratio:.2f}\n")
    return {
        "megabytes": size_mb,
        "server": server,
        "median_seconds": medians,
        "processor_seconds": {name: statistics.median(values) for name, values in used.items()},
        "rate_over_curl": ratio,
        "rounds": rounds,
        "load": os.getloadavg()[0],
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[3.6, 100])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("curl") is None:
        raise SystemExit("curl is the yardstick and is not installed")
    result = [measure(megabytes, options.rounds) for megabytes in options.megabytes]
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
