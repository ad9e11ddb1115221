"""`inspect`: what a folder holds, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapterhub.core.commands.loading import adapter_folder
from adapterhub.core.formats import detect, detect_fusion
from adapterhub.core.formats.adapters_v1 import ADAPTER_WEIGHTS, FUSION_WEIGHTS, weights_file
from adapterhub.core.formats.files import read_json, read_tensors
from adapterhub.spec.adapters_config import from_adapters
from adapterhub.spec.config import parse_config
from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.packaging import preset_of

__all__ = ["inspect"]


def inspect(reference: str) -> dict[str, Any]:
    """Format, name, method, base model, head, sizes and tensors of an adapter or a fusion.

    Raises:
        CheckpointError: no adapter, or a malformed one.
    """
    folder = adapter_folder(reference)
    if not (folder / "adapter_config.json").is_file():
        return _fusion(folder)
    form = detect(folder)
    document = read_json(folder / "adapter_config.json")
    report: dict[str, Any] = {"folder": str(folder), "format": form}
    if form == "peft":
        report |= {"method": document.get("peft_type"), "base_model": document.get("base_model_name_or_path")}
        report["config"] = {key: value for key, value in document.items() if value not in (None, [], {}, False)}
    else:
        config = (
            parse_config(document["config"])
            if form == "native"
            else from_adapters(document["config"], version=document.get("version"))
        )
        base = document.get("base_model") or {}
        report |= {
            "name": document.get("name"),
            "type": document.get("type"),
            "method": config.method,
            "preset": preset_of(config),
            "base_model": base.get("name") if form == "native" else document.get("model_name"),
            "hidden_size": base.get("hidden_size") if form == "native" else document.get("hidden_size"),
            "config_id": config.config_id,
            "config": config.expand(),
        }
    names = {
        "native": ("adapter.safetensors",),
        "adapters": ADAPTER_WEIGHTS,
        "peft": ("adapter_model.safetensors", "adapter_model.bin"),
    }
    return report | _head(folder) | _tensors(folder, names[form])


def _fusion(folder: Path) -> dict[str, Any]:
    form = detect_fusion(folder)
    document = read_json(folder / ("fusion_config.json" if form == "native" else "adapter_fusion_config.json"))
    names = ("fusion.safetensors",) if form == "native" else FUSION_WEIGHTS
    adapters = document.get("adapters") or document.get("adapter_names")
    report = {
        "folder": str(folder),
        "format": form,
        "name": document.get("name"),
        "method": "fusion",
        "adapters": adapters,
    }
    return {**report, "config": document.get("config"), **_tensors(folder, names)}


def _head(folder: Path) -> dict[str, Any]:
    path = folder / "head_config.json"
    if not path.is_file():
        return {"head": None}
    document = read_json(path)
    fields = document.get("config") or {
        "head_type": "static",
        "model_class": document.get("model_class"),
        "num_labels": document.get("num_labels"),
    }
    return {"head": {key: value for key, value in fields.items() if value not in (None, False)}}


def _tensors(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    path = weights_file(folder, names)
    if path is None:
        raise CheckpointError(f"{folder} has none of {', '.join(names)}.")
    tensors = read_tensors(path)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "tensors": {
            key: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            for key, tensor in sorted(tensors.items())
        },
    }
