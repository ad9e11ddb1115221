"""Start-up: what importing the client and starting the command cost over bare Python, and a warm resolve and download.

Every round runs bare Python and each command once, in turn; the figures are medians over the rounds of processor time
(user + system), which other work on the machine disturbs little, and of wall time. Prints a table, writes JSON.

    python packages/hub-client/benchmarks/bench_startup.py [--rounds 11] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exports import MODEL, Export, write_adapter

CODE = {
    "bare python": "pass",
    "import adapterhub.client": "import adapterhub.client",
    "… and its functions": "from adapterhub.client import resolve, download",
    "import httpx (yardstick)": "import httpx",
}
WARM = """
import sys, time
import adapterhub.client
from adapterhub.client import HubClient
client = HubClient()
began = time.perf_counter(); client.resolve(sys.argv[1]); first = time.perf_counter() - began
began = time.perf_counter(); client.download(sys.argv[1]); second = time.perf_counter() - began
times = []
for _ in range(50):
    began = time.perf_counter(); HubClient().download(sys.argv[1]); times.append(time.perf_counter() - began)
times.sort()
print(first, second, times[25], client._sources.get("x") is None)
"""


def once(line: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Processor and wall milliseconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used * 1000, wall * 1000


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        export = Export(root / "export")
        export.publish(write_adapter(root / "adapter", hidden=768, layers=12), "sentiment/sst-2@ukp", version="1")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ADAPTERHUB_")},
            "ADAPTERHUB_HOME": str(root / "home"),
            "ADAPTERHUB_ENDPOINT": str(export.folder),
        }
        command = str(Path(sys.executable).parent / "adapterhub")
        lines = {name: [sys.executable, "-c", code] for name, code in CODE.items()}
        lines["adapterhub --version"] = [command, "--version"]
        lines["adapterhub --help"] = [command, "cache", "--help"]
        lines["adapterhub resolve, cached"] = [command, "--offline", "resolve", "sst-2", "--model", MODEL]
        pull = [command, "pull", "sst-2", "--model", MODEL]
        subprocess.run(pull, env=environment, stdout=subprocess.DEVNULL, check=True)
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
        for number in range(options.rounds + 1):
            for name, line in lines.items():
                result = once(line, environment)
                if number:
                    measured[name].append(result)
        cpu = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in measured.items()}
        wall = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in measured.items()}
        entry = export.entries[0]
        pinned = f"{entry.adapter}:{entry.version}@{entry.digest}"
        warm = [
            [float(word) for word in _run(WARM, pinned, environment).split()[:3]]
            for _ in range(max(3, options.rounds // 2))
        ]
    first, second, repeated = (statistics.median(column) * 1000 for column in zip(*warm, strict=True))
    bare = cpu["bare python"]
    print(f"{'':34}{'cpu ms':>9}{'over bare':>11}{'wall ms':>9}")
    for name in lines:
        print(f"{name:34}{cpu[name]:9.1f}{cpu[name] - bare:11.1f}{wall[name]:9.1f}")
    print(
        f"\npinned, warm: first resolve {first:.2f} ms, download after it {second:.2f} ms, a fresh client's {repeated:.2f} ms"
    )
    result = {
        "cpu_ms": cpu,
        "wall_ms": wall,
        "import_over_bare_ms": cpu["import adapterhub.client"] - bare,
        "warm_first_resolve_ms": first,
        "warm_download_ms": second,
        "warm_resolve_and_download_ms": repeated,
        "rounds": options.rounds,
        "load": os.getloadavg()[0],
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2))


def _run(code: str, argument: str, environment: dict[str, str]) -> str:
    line = [sys.executable, "-c", code, argument]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
