"""Adapter folders and static exports, made from the specification alone."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapterhub.spec import build_manifest, load_preset
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.index_files import build_index
from adapterhub.spec.manifest import Manifest, index_entry

MODEL = "bert-base-uncased"


def safetensors(tensors: Mapping[str, tuple[int, ...]], seed: int = 0) -> bytes:
    """A float32 safetensors file of pseudo-random bytes that are finite numbers."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = bytearray(random.Random(seed).randbytes(at))
    noise[3::4] = b"\x3d" * (at // 4)  # exponent bytes: every number is about 0.05
    return struct.pack("<Q", len(text)) + text + bytes(noise)


def write_adapter(
    folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0, model: str = MODEL, reduction: int = 16
) -> Path:
    """A valid bottleneck adapter folder: `layers` FFN adapters of width `hidden`, a head, a card."""
    config = load_preset("pfeiffer", reduction_factor=reduction)
    inner = max(1, hidden // reduction)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "spec_version": "1.0",
        "format": "adapterhub",
        "name": "sst-2",
        "config": config.expand(),
        "config_id": config.config_id,
        "base_model": {"name": model, "revision": None, "family": "bert", "hidden_size": hidden},
        "type": "text_task",
        "library": {"name": "adapterhub-core", "version": "0.1.0"},
        "created_at": "2026-01-02T03:04:05Z",
    }
    (folder / "adapter_config.json").write_text(json.dumps(record, indent=2))
    leaves = {"down.weight": (inner, hidden), "down.bias": (inner,), "up.weight": (hidden, inner), "up.bias": (hidden,)}
    tensors = {f"encoder.{layer}.ffn.{leaf}": shape for layer in range(layers) for leaf, shape in leaves.items()}
    (folder / "adapter.safetensors").write_bytes(safetensors(tensors, seed))
    head = {"head_type": "classification", "num_labels": 2, "layers": 1, "label2id": {"neg": 0, "pos": 1}}
    (folder / "head_config.json").write_text(json.dumps({"spec_version": "1.0", "name": "sst-2", "config": head}))
    (folder / "head.safetensors").write_bytes(
        safetensors({"layers.out.weight": (2, hidden), "layers.out.bias": (2,)}, seed + 1)
    )
    (folder / "README.md").write_text("# sst-2\n")
    return folder


class Export:
    """A static export that grows by publishing into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[IndexEntry] = []
        self.defaults: dict[tuple[str, str, str], str] = {}
        self.aliases: dict[str, str] = {}
        self.write()

    def publish(self, source: Path, reference: str, **options: Any) -> Manifest:
        """Publish a folder; returns its manifest."""
        manifest = build_manifest(source, reference=reference, **options)
        self._put("manifests", manifest.digest, manifest.canonical_bytes())
        for record in manifest.files:
            self._put("blobs", record.digest, (source / record.path).read_bytes())
        self.add([index_entry(manifest)])
        return manifest

    def add(self, entries: Iterable[IndexEntry]) -> None:
        """List further entries."""
        self.entries += entries
        self.write()

    def write(self) -> None:
        """Write the index files anew."""
        for path, data in build_index(self.entries, self.defaults, aliases=self.aliases, config={"api": None}):
            target = self.folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def blob(self, digest: str) -> Path:
        """Where a blob is."""
        return self.folder / "v1" / "blobs" / digest

    def _put(self, kind: str, digest: str, data: bytes) -> None:
        target = self.folder / "v1" / kind / digest
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
