"""Measure the rows of one library and print them as JSON: `python measure_rows.py ours|adapters|peft [--only TEXT]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "peers")]


def library_of(name: str) -> object:
    """The library called `ours`, `adapters` or `peft`."""
    if name == "adapters":
        from adapters_library import library
    elif name == "peft":
        from peft_library import library
    else:
        from ours import Ours

        return Ours()
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("ours", "adapters", "peft"))
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that everything runs, not for figures")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    import torch
    from rows import ROWS
    from timing import paired

    torch.set_num_threads(arguments.threads)
    library = library_of(arguments.library)
    measured: dict[str, object] = {}
    for row in ROWS:
        if arguments.only not in row.name:
            continue
        try:
            built = row.build(library)  # type: ignore[arg-type]
            few = {"rounds": 3, "warmup": 1, "least": 3, "seconds_a_round": 0.0} if arguments.quick else {}
            measured[row.name] = paired(*built, **{"rounds": arguments.rounds, **few}).to_dict() if built else None
        except Exception as error:  # noqa: BLE001 - a library that cannot do a row must not end the table
            measured[row.name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"  {arguments.library}: {row.name}: {_told(measured[row.name])}", file=sys.stderr, flush=True)
    print(json.dumps({"library": getattr(library, "name", arguments.library), "rows": measured}))


def _told(outcome: object) -> str:
    if not isinstance(outcome, dict):
        return "not measured"
    return f"{outcome['ratio']:.3f}" if "ratio" in outcome else outcome["error"]


if __name__ == "__main__":
    main()
