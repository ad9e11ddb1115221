"""`import adapterhub.core` against `import torch`, each in a fresh process, alternating; prints JSON."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time


def seconds(statement: str) -> float:
    """Wall seconds of a fresh interpreter that runs `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    rounds = 3 if "--quick" in sys.argv else 9
    statements = {"core": "import adapterhub.core", "torch": "import torch", "bare": "pass"}
    for statement in statements.values():
        seconds(statement)
    taken: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(rounds):
        for name, statement in statements.items():
            taken[name].append(seconds(statement))
    bare = statistics.median(taken["bare"])
    ratios = [(core - bare) / (torch - bare) for core, torch in zip(taken["core"], taken["torch"], strict=True)]
    row = {
        "ratio": statistics.median(ratios),
        "thing": statistics.median(taken["core"]),
        "yardstick": statistics.median(taken["torch"]),
        "goal": 1.1,
    }
    print(json.dumps({"library": "adapterhub", "rows": {"import adapterhub.core / import torch": row}}))


if __name__ == "__main__":
    main()
