"""All core benchmarks: us and both peers, each against its own yardsticks; prints a table and writes a JSON file.

    python packages/core/benchmarks/bench_core.py [--no-peers] [--only TEXT] [--quick] [--json .bench/core.json]

The peers are installed into environments of their own beside the JSON file (some hundred MB, once).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
PEERS = {
    "adapters": [TORCH, "adapters==1.3.0", "transformers==4.57.6"],
    "peft": [TORCH, "peft==0.21.2", "transformers==5.23.0"],
}


def peer_python(name: str, folder: Path) -> Path | None:
    """The Python of a peer's own environment, made on first use; None where that fails. The environment variables PIP_FLAGS
    and TORCH_PIP_FLAGS are given to pip, as the Makefile does."""
    place = folder / f"peer-{name}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"installing {name} into {place} …", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-q", *shlex.split(os.environ.get("PIP_FLAGS", ""))]
        torch = [*shlex.split(os.environ.get("TORCH_PIP_FLAGS", "")), TORCH]
        for wanted in (torch, PEERS[name]):
            if subprocess.run([*install, *wanted], check=False).returncode:
                print(f"{name} could not be installed: its column stays empty", file=sys.stderr)
                return None
        (place / "complete").touch()
    return python


def measured(python: str | Path, script: str, *arguments: str) -> dict[str, Any]:
    """The JSON a measuring program prints, run in that Python."""
    done = subprocess.run([python, HERE / script, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{script} ended with status {done.returncode}", file=sys.stderr)
        return {"library": script, "rows": {}, "failed": done.returncode}
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def cell(outcome: Any) -> str:
    """One figure as text."""
    if not isinstance(outcome, dict):
        return "-"
    if "ratio" in outcome:
        return f"{outcome['ratio']:.3f}"
    if "milliseconds" in outcome:
        return f"{outcome['milliseconds']:.3f} ms"
    return "failed" if "error" in outcome else "-"


def _prefix(peer: Path | None, *, quick: bool) -> tuple[str, ...]:
    wanted = ("--rounds", "1", "--examples", "16") if quick else ()
    return (*wanted, "--peer", str(peer)) if peer else wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-peers", action="store_true", help="leave adapters 1.3.0 and peft 0.21.2 out")
    parser.add_argument("--only", default="", help="only model rows whose name contains this text")
    parser.add_argument("--rounds", default="15")
    parser.add_argument("--count", default="1000", help="how many adapters the loading rows load")
    parser.add_argument("--json", type=Path, default=Path(".bench/core.json"))
    quickly = bool(os.environ.get("BENCH_QUICK"))
    parser.add_argument(
        "--quick", action="store_true", default=quickly, help="a few rounds of everything: does it run, not how fast"
    )
    arguments = parser.parse_args()
    quick = ("--quick",) if arguments.quick else ()
    rows = ("--only", arguments.only, "--rounds", arguments.rounds, *quick)
    wanted = () if arguments.no_peers else tuple(PEERS)
    found = {name: peer_python(name, arguments.json.parent.absolute()) for name in wanted}
    peers = {name: python for name, python in found.items() if python is not None}
    columns = {"ours": measured(sys.executable, "measure_rows.py", "ours", *rows)}
    if not arguments.only:
        for script, extra in (
            ("loading.py", ("--count", arguments.count, *quick)),
            ("imports.py", quick),
            ("prefix.py", _prefix(peers.get("adapters"), quick=arguments.quick)),
        ):
            columns["ours"]["rows"] |= measured(sys.executable, script, *extra)["rows"]
    for name, python in peers.items():
        some = ("--only", arguments.only or "one bottleneck") if arguments.quick else ()  # the last --only counts
        columns[name] = measured(python, "measure_rows.py", name, *rows, *some)

    sys.path.insert(0, str(HERE))
    from rows import ROWS

    goals = {row.name: row.goal for row in ROWS}
    names = [name for name in columns["ours"]["rows"] if isinstance(columns["ours"]["rows"][name], dict)]
    width = max(map(len, names), default=20)
    print(f"\n{'':{width}}  {'goal':>8}" + "".join(f"  {name:>12}" for name in columns))
    for name in names:
        goal = goals.get(name) or columns["ours"]["rows"][name].get("goal")
        figures = "".join(f"  {cell(column['rows'].get(name)):>12}" for column in columns.values())
        print(f"{name:{width}}  {f'{goal:.3f}' if goal else '':>8}{figures}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    about = {"python": platform.python_version(), "machine": platform.machine(), "threads": 2, "seed": 20200714}
    arguments.json.write_text(json.dumps({"about": about, "goals": goals, "columns": columns}, indent=1))
    print(f"\nwritten to {arguments.json}")


if __name__ == "__main__":
    main()
