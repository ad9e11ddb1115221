"""Checkpoint formats: `native` (ours), `adapters` (adapter-transformers 1.x to adapters 1.3) and `peft`."""

from __future__ import annotations

from pathlib import Path

from adapterhub.core.formats.checkpoint import LoadReport
from adapterhub.core.formats.files import read_json
from adapterhub.spec.errors import CheckpointError

__all__ = ["FORMATS", "LoadReport", "detect", "detect_fusion"]

FORMATS = ("native", "adapters", "peft")


def detect(folder: Path) -> str:
    """The format of the adapter in `folder`: one of `FORMATS`.

    Raises:
        CheckpointError: there is no adapter_config.json, or it is of no known format.
    """
    document = read_json(folder / "adapter_config.json")
    if document.get("format") == "adapterhub":
        return "native"
    if "peft_type" in document:
        return "peft"
    if isinstance(document.get("config"), dict):
        return "adapters"
    raise CheckpointError(
        f"{folder / 'adapter_config.json'} is of no known format.",
        hint="Known are the native format, that of adapters / adapter-transformers, and that of PEFT.",
    )


def detect_fusion(folder: Path) -> str:
    """The format of the fusion layer in `folder`: `native` or `adapters`.

    Raises:
        CheckpointError: there is neither.
    """
    if (folder / "fusion_config.json").is_file():
        return "native"
    if (folder / "adapter_fusion_config.json").is_file():
        return "adapters"
    raise CheckpointError(
        f"There is no adapter fusion in {folder}.", hint="Give a folder written by save_adapter_fusion."
    )
