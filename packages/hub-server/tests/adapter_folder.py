"""A small, valid adapter folder, written by hand: weights are random bytes, which no rule of the hub looks into."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

from adapterhub.spec import load_preset


def safetensors(tensors: dict[str, tuple[int, ...]], seed: int = 0) -> bytes:
    """A safetensors file of float32 tensors with small random values."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        size = 4
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = random.Random(seed)
    return (
        struct.pack("<Q", len(text))
        + text
        + struct.pack(f"<{at // 4}f", *(values.gauss(0, 0.02) for _ in range(at // 4)))
    )


def write_folder(
    folder: Path,
    *,
    seed: int = 0,
    preset: str = "pfeiffer",
    model: str = "bert-base-uncased",
    hidden: int = 24,
    layers: int = 2,
    type: str = "text_task",
    readme: str = "# An adapter\n\nMade for a test.\n",
) -> Path:
    """Write adapter_config.json, adapter.safetensors and README.md into `folder`."""
    config = load_preset(preset, reduction_factor=12)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "spec_version": "1.0",
        "format": "adapterhub",
        "name": "sst-2",
        "config": config.expand(),
        "config_id": config.config_id,
        "base_model": {"name": model, "revision": None, "family": "bert", "hidden_size": hidden},
        "type": type,
        "library": {"name": "adapterhub-core", "version": "0.1.0"},
    }
    (folder / "adapter_config.json").write_text(json.dumps(record, indent=2))
    leaves = {"down.weight": (2, hidden), "down.bias": (2,), "up.weight": (hidden, 2), "up.bias": (hidden,)}
    tensors = {f"encoder.{layer}.ffn.{leaf}": shape for layer in range(layers) for leaf, shape in leaves.items()}
    (folder / "adapter.safetensors").write_bytes(safetensors(tensors, seed))
    (folder / "README.md").write_text(readme)
    return folder
