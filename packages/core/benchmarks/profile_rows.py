"""Where the extra time of each row goes: time of the thing less time of its yardstick, operator group by operator group.

    python packages/core/benchmarks/profile_rows.py [--only TEXT] [--calls 20] [--threads 2]

torch's profiler records every operator of some calls of the thing and of the yardstick, in turns. A group's figure is its self time in
a call of the thing less that in a call of the yardstick, as a share of a call of the yardstick (the median over the turns): the shares
add up to what the ratio is above 1. "between operators" is all time in which no operator ran: Python, hooks, and waiting for their
memory; under the profiler, which notes every operator, that part is larger than without it. An operator that waits for its weights
to come from memory counts the wait as its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from ours import Ours
from rows import ROWS
from torch.profiler import ProfilerActivity, profile

#: group → beginnings of the names of its operators
GROUPS = {
    "matrix products": (
        "aten::addmm",
        "aten::mm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::linear",
        "aten::_scaled_dot",
        "mkldnn",
    ),
    "attention": ("aten::scaled_dot", "aten::_flash", "aten::_scaled"),
    "norms": ("aten::native_layer_norm", "aten::layer_norm"),
    "sums and products": ("aten::add", "aten::mul", "aten::sub", "aten::div", "aten::sum", "aten::neg"),
    "activations": (
        "aten::relu",
        "aten::gelu",
        "aten::silu",
        "aten::softmax",
        "aten::_softmax",
        "aten::threshold",
        "aten::sigmoid",
    ),
    "copies and allocation": (
        "aten::copy",
        "aten::clone",
        "aten::empty",
        "aten::cat",
        "aten::index",
        "aten::repeat",
        "aten::fill",
        "aten::zero",
        "aten::contiguous",
        "aten::resize",
        "aten::_to_copy",
        "aten::to",
        "aten::new",
    ),
}


def group_of(name: str) -> str:
    """The group of an operator, by its name."""
    for group, fronts in GROUPS.items():
        if name.startswith(fronts):
            return group
    return "autograd" if "Backward" in name or "autograd" in name or "Accumulate" in name else "other operators"


def profiled(call: Callable[[], Any], calls: int) -> tuple[dict[str, float], int, float]:
    """(microseconds of self time in each group, number of operators, microseconds) of one call."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        whole = 1e6 * (time.perf_counter() - begun) / calls
    groups: dict[str, float] = {}
    operators = 0
    for event in record.key_averages():
        group = group_of(event.key)
        groups[group] = groups.get(group, 0.0) + event.self_cpu_time_total / calls
        operators += event.count
    groups["between operators"] = whole - sum(groups.values())
    return groups, operators // calls, whole


def shares_of(
    thing: Callable[[], Any], yardstick: Callable[[], Any], turns: int, calls: int
) -> tuple[dict[str, float], int, int]:
    """(share of each group, operators of the thing, operators of the yardstick)."""
    found: dict[str, list[float]] = {}
    operators = fewer = 0
    for _ in range(turns):
        more, operators, _ = profiled(thing, calls)
        less, fewer, bare = profiled(yardstick, calls)
        for group in {**more, **less}:
            found.setdefault(group, []).append((more.get(group, 0.0) - less.get(group, 0.0)) / bare)
    return {group: statistics.median(shares) for group, shares in found.items()}, operators, fewer


def plain_seconds(thing: Callable[[], Any], yardstick: Callable[[], Any], calls: int) -> tuple[float, float]:
    """The same without the profiler: the fastest of some calls of each, in turns."""
    best = [float("inf"), float("inf")]
    for _ in range(max(5, calls)):
        for position, call in enumerate((thing, yardstick)):
            begun = time.perf_counter()
            call()
            best[position] = min(best[position], time.perf_counter() - begun)
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    parser.add_argument("--calls", type=int, default=20, help="for the figures without profiler")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, Any] = {}
    for row in ROWS:
        built = row.build(Ours()) if arguments.only in row.name else None
        if built is None:
            continue
        thing, yardstick = plain_seconds(*built, arguments.calls)
        turns, calls = (9, 4) if yardstick < 0.05 else (5, 1)
        shares, operators, fewer = shares_of(*built, turns, calls)
        found[row.name] = {
            "ratio without profiler": thing / yardstick,
            "operators": operators,
            "operators of the yardstick": fewer,
            "shares": shares,
        }
        print(f"\n{row.name}: {thing / yardstick:.3f}, goal {row.goal or '-'}")
        print(
            f"  {1e6 * (thing - yardstick):10.0f} us more a call than {1e6 * yardstick:.0f}; {operators} operators, not {fewer}"
        )
        for group, share in sorted(shares.items(), key=lambda item: -abs(item[1])):
            if abs(share) >= 0.0005:
                print(f"  {100 * share:+8.2f} %  {group}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
