"""Training: transformers' Trainer with adapters, a plain loop, and what a run leaves behind. Loaded on first use."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AdapterTrainer": "trainer",
    "Seq2SeqAdapterTrainer": "trainer",
    "fit": "loop",
    "TrainingResult": "loop",
    "restore_trained": "state",
    "save_trained": "state",
    "decays": "decay",
    "fusion_regularisation": "regularisation",
    "without_regularisation": "regularisation",
    "PrefixCache": "prefix_cache",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - computed from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
