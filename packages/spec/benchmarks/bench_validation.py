"""Validating and describing an adapter of BERT-base size, against hashing its bytes; reading a manifest, against `json.loads`.

Yardsticks, timed in turn with each: SHA-256 of the folder's files (nobody can publish without it), and `json.loads` of the
manifest. One pfeiffer adapter with reduction factor 16 on 12 layers of 768 (48 tensors, 3.6 MB). Prints a table; `--json
FILE` writes it as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapterhub.spec import Manifest, build_manifest, load_preset, validate_path
from adapterhub.spec.safetensors_header import read_header

ROUNDS = 9
HIDDEN, SIZE, LAYERS = 768, 48, 12


def write_folder(folder: Path) -> Path:
    """The adapter; its numbers are random and finite."""
    config = load_preset("pfeiffer")
    leaves = {"down.weight": (SIZE, HIDDEN), "down.bias": (SIZE,), "up.weight": (HIDDEN, SIZE), "up.bias": (HIDDEN,)}
    header: dict[str, Any] = {}
    at = 0
    for layer in range(LAYERS):
        for leaf, shape in leaves.items():
            size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
            header[f"encoder.{layer}.ffn.{leaf}"] = entry
            at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = bytearray(os.urandom(at))
    noise[3::4] = b"\x3d" * (at // 4)  # exponents: every number is about 0.05
    (folder / "adapter.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + noise)
    record = {
        "spec_version": "1.0",
        "format": "adapterhub",
        "name": "sst-2",
        "config": config.expand(),
        "config_id": config.config_id,
        "base_model": {"name": "bert-base-uncased", "revision": None, "family": "bert", "hidden_size": HIDDEN},
        "type": "text_task",
        "library": {"name": "adapterhub-core", "version": "0.1.0"},
    }
    (folder / "adapter_config.json").write_text(json.dumps(record))
    (folder / "README.md").write_text("# sst-2\n")
    return folder


def seconds(work: Callable[[], Any], times: int) -> float:
    """Seconds for one call, of `times` in a row."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def hashed(folder: Path) -> list[str]:
    """The digests of the folder's files."""
    found = []
    for path in folder.iterdir():
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def started(program: str) -> float:
    """Seconds of CPU time to run a Python program."""
    before = os.times()
    subprocess.run([sys.executable, "-c", program], check=True)
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the figures to this file")
    options = arguments.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(Path(name))
        assert validate_path(folder) == []
        data = build_manifest(folder, reference="sentiment/sst-2@ukp").canonical_bytes()
        weights = folder / "adapter.safetensors"
        works: list[tuple[str, Callable[[], Any], str, Callable[[], Any], int]] = [
            ("read the header of the weights", lambda: read_header(weights), "SHA-256", lambda: hashed(folder), 20),
            ("validate the folder", lambda: validate_path(folder), "SHA-256", lambda: hashed(folder), 20),
            (
                "make the manifest (validates and hashes)",
                lambda: build_manifest(folder, reference="sentiment/sst-2@ukp"),
                "SHA-256",
                lambda: hashed(folder),
                20,
            ),
            ("read the manifest", lambda: Manifest.from_bytes(data), "json.loads", lambda: json.loads(data), 200),
        ]
        for label, work, against, yardstick, times in works:
            ratios, spent = [], []
            for _ in range(ROUNDS):
                one, other = seconds(work, times), seconds(yardstick, times)
                ratios.append(one / other)
                spent.append(one)
            rows.append(
                {
                    "work": label,
                    "milliseconds": statistics.median(spent) * 1e3,
                    "yardstick": against,
                    "ratio": statistics.median(ratios),
                }
            )
    for label, program in (
        ("parse a reference in a new process", "from adapterhub.spec import parse_reference"),
        ("load a preset in a new process", "from adapterhub.spec import load_preset; load_preset('pfeiffer')"),
    ):
        pairs = [(started(program), started("import pydantic; pydantic.BaseModel")) for _ in range(ROUNDS)]
        rows.append(
            {
                "work": label,
                "milliseconds": statistics.median(one for one, _ in pairs) * 1e3,
                "yardstick": "import pydantic",
                "ratio": statistics.median(one / other for one, other in pairs),
            }
        )
    print(f"{'':42} {'ms':>9}   ratio")
    for row in rows:
        print(f"{row['work']:42} {row['milliseconds']:9.3f}   {row['ratio']:.2f} x {row['yardstick']}")
    if options.json:
        options.json.write_text(json.dumps({"rounds": ROUNDS, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
