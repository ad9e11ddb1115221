"""Native adapter folders for the tests, written by hand so that the spec needs no other package."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from adapterhub.spec import AdapterConfig, load_preset


def safetensors(tensors: dict[str, tuple[int, ...]], dtype: str = "F32", width: int = 4) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        size = width
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(at)


def write_folder(folder: Path, config: AdapterConfig | None = None, *, hidden: int = 24, layers: int = 2) -> Path:
    """A small, valid adapter folder with a head and a card."""
    config = config or load_preset("pfeiffer", reduction_factor=12)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "spec_version": "1.0",
        "format": "adapterhub",
        "name": "sst-2",
        "config": config.expand(),
        "config_id": config.config_id,
        "base_model": {"name": "bert-base-uncased", "revision": None, "family": "bert", "hidden_size": hidden},
        "type": "text_task",
        "library": {"name": "adapterhub-core", "version": "0.1.0"},
    }
    (folder / "adapter_config.json").write_text(json.dumps(record, indent=2))
    leaves = {"down.weight": (2, hidden), "down.bias": (2,), "up.weight": (hidden, 2), "up.bias": (hidden,)}
    tensors = {f"encoder.{i}.ffn.{leaf}": shape for i in range(layers) for leaf, shape in leaves.items()}
    (folder / "adapter.safetensors").write_bytes(safetensors(tensors))
    head = {"head_type": "classification", "num_labels": 2, "layers": 1, "label2id": {"neg": 0, "pos": 1}}
    (folder / "head_config.json").write_text(json.dumps({"spec_version": "1.0", "name": "sst-2", "config": head}))
    (folder / "head.safetensors").write_bytes(safetensors({"layers.out.weight": (2, hidden), "layers.out.bias": (2,)}))
    (folder / "README.md").write_text("# sst-2\n")
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Replace members of adapter_config.json; None removes one."""
    path = folder / "adapter_config.json"
    record = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            record.pop(key)
        else:
            record[key] = value
    path.write_text(json.dumps(record))
