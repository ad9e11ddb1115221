"""Rows about moving and keeping adapters: load against a raw read, the 1,000th load against the 5th, switching, memory of idle
adapters, bytes on disk.

Prints JSON: `python loading.py [--count 1000]`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
import workloads
from safetensors.torch import load_file
from timing import paired

import adapterhub.core as ah
from adapterhub.spec import preset_names


def load_against_raw_read(folder: Path, rounds: int) -> dict[str, object]:
    """BERT-base, pfeiffer (3.6 MB): `load_adapter` and `delete_adapter` against reading the same file."""
    model = workloads.bert("base")
    ah.init(model)
    model.add_adapter("a", config="pfeiffer")
    model.save_adapter(str(folder / "a"), "a")
    weights = folder / "a" / "adapter.safetensors"
    loads: list[float] = []

    def load() -> None:
        start = time.perf_counter()
        model.load_adapter(str(folder / "a"), load_as="b", set_active=False)
        loads.append(time.perf_counter() - start)
        model.delete_adapter("b")

    def read() -> None:
        sum(float(tensor.view(-1)[0]) for tensor in load_file(weights).values())

    outcome = paired(load, read, rounds=rounds)
    raw = outcome.yardstick
    loaded = statistics.median(loads)
    return {
        "load_adapter / raw read": {"ratio": loaded / raw, "thing": loaded, "yardstick": raw, "goal": 2.0},
        "load and delete / raw read": outcome.to_dict(),
        "bytes": weights.stat().st_size,
    }


def thousandth_against_fifth(folder: Path, count: int) -> dict[str, object]:
    """MiniLM size: seconds of each of `count` loads; late ones against early ones."""
    model = workloads.bert("minilm")
    ah.init(model)
    model.add_adapter("a", config="pfeiffer")
    model.save_adapter(str(folder / "m"), "a")
    for _ in range(3):
        model.load_adapter(str(folder / "m"), load_as="warm", set_active=False)
        model.delete_adapter("warm")
    seconds = []
    for position in range(count):
        start = time.perf_counter()
        model.load_adapter(str(folder / "m"), load_as=f"n{position}", set_active=False)
        seconds.append(time.perf_counter() - start)
    early = statistics.median(seconds[4 : 4 + max(9, count // 20)])
    late = statistics.median(seconds[-max(9, count // 20) :])
    switch: list[float] = []
    for position in range(200):
        start = time.perf_counter()
        model.set_active_adapters(f"n{position % count}")
        switch.append(time.perf_counter() - start)
    return {
        f"load number {count} / load number 5": {"ratio": late / early, "thing": late, "yardstick": early, "goal": 1.1},
        f"switch with {count} adapters, ms": {"milliseconds": 1e3 * statistics.median(switch), "goal": 0.1},
    }


def switch_time() -> dict[str, object]:
    """BERT-base, two adapters: milliseconds of `set_active_adapters`."""
    model = workloads.bert("base")
    ah.init(model)
    model.add_adapter("a", config="pfeiffer")
    model.add_adapter("b", config="pfeiffer")
    seconds = []
    for position in range(400):
        start = time.perf_counter()
        model.set_active_adapters("ab"[position % 2])
        seconds.append(time.perf_counter() - start)
    return {"switch, BERT-base, ms": {"milliseconds": 1e3 * statistics.median(seconds), "goal": 0.1}}


#: shape and config whose idle adapters are weighed: large tensors, and many small ones (compacter: 73 in 57 kB), for which
#: torch's own weight of a parameter, some 900 bytes, would be as much as they are
IDLE = (
    ("base", "pfeiffer"),
    ("base", "compacter"),
    ("minilm", "pfeiffer"),
    ("minilm", "pfeiffer[reduction_factor=64]"),
    ("minilm", "houlsby"),
    ("minilm", "lora"),
    ("minilm", "ia3"),
    ("minilm", "compacter"),
)
IDLE_GOAL = 1.1


def memory_when_idle(count: int) -> dict[str, object]:
    """Memory of adapters that only wait, over the bytes of their tensors; counted in two ways.

    "all": growth of the process's private memory (`Anonymous` of /proc/self/smaps_rollup: Python, torch's C++ objects, what
    the allocator rounds up) over `count` new adapters, the first of which may find room that building left free (below 1). "Python": what `tracemalloc` counts, with the bytes of the tensors.
    """
    found: dict[str, object] = {}
    for shape, preset in IDLE:
        for how in ("all", "Python"):
            script = [sys.executable, __file__, "--idle", shape, preset, how, "--count", str(count)]
            done = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                found[f"idle adapter / its tensors, {preset}, {shape} size, {how}"] = {"error": "failed"}
            else:
                found[f"idle adapter / its tensors, {preset}, {shape} size, {how}"] = {
                    **json.loads(done.stdout),
                    "goal": IDLE_GOAL,
                }
    return found


def weigh(shape: str, preset: str, how: str, count: int) -> dict[str, float]:
    """One figure of `memory_when_idle`, in a process of its own."""
    model = workloads.bert(shape)
    ah.init(model)
    model.add_adapter("first", config=preset)
    model.add_adapter("second", config=preset)
    tensors = sum(p.numel() * p.element_size() for p in model.get_adapter("first").values())
    count = max(10, min(count, 300, 2**28 // tensors))  # not more than a quarter of a gigabyte
    gc.collect()
    if how == "Python":
        tracemalloc.start()
    before = _private() if how == "all" else tracemalloc.get_traced_memory()[0]
    for position in range(count):
        model.add_adapter(f"n{position}", config=preset)
    gc.collect()
    after = _private() if how == "all" else tracemalloc.get_traced_memory()[0] + count * tensors
    return {"ratio": (after - before) / count / tensors, "tensor_bytes": tensors, "adapters": count}


def _private() -> int:
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        raise SystemExit("Private memory is read from /proc, which only Linux has.")
    return sum(1024 * int(line.split()[1]) for line in rollup.read_text().splitlines() if line.startswith("Anonymous:"))


def bytes_on_disk(folder: Path, presets: Iterable[str]) -> dict[str, object]:
    """Bytes of the weights file against bytes of the trainable parameters, for every preset that can be added."""
    found: dict[str, object] = {}
    for preset in presets:
        model = workloads.bert("base")
        ah.init(model)
        try:
            model.add_adapter("a", config=preset)
            model.train_adapter("a")
            model.save_adapter(str(folder / preset), "a")
        except Exception as error:  # noqa: BLE001 - a method without an implementation must not end the table
            found[f"bytes on disk / trainable bytes, {preset}"] = {"error": f"{type(error).__name__}: {error}"}
            continue
        trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        written = (folder / preset / "adapter.safetensors").stat().st_size
        found[f"bytes on disk / trainable bytes, {preset}"] = {"ratio": written / trainable, "goal": 1.02}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="few adapters and presets: to see that everything runs")
    parser.add_argument("--idle", nargs=3, metavar=("SHAPE", "PRESET", "HOW"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.idle:
        print(json.dumps(weigh(*arguments.idle, arguments.count)))
        return
    torch.set_num_threads(2)
    measured: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.quick:
            arguments.count = min(arguments.count, 50)
        measured |= load_against_raw_read(folder, 9 if arguments.quick else 15)
        measured |= thousandth_against_fifth(folder, arguments.count)
        measured |= switch_time()
        measured |= memory_when_idle(arguments.count)
        measured |= bytes_on_disk(folder, ("pfeiffer", "lora") if arguments.quick else preset_names())
    print(json.dumps({"library": "adapterhub", "rows": measured}))


if __name__ == "__main__":
    main()
