"""Adapters for transformers: inject, train, save, load, stack and fuse, without copying model code.

    import adapterhub.core as ah
    ah.init(model); model.add_adapter("sst-2", config="pfeiffer"); model.train_adapter("sst-2")

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from adapterhub.core.__about__ import __version__

_SPEC_NAMES = (
    "AdapterConfig",
    "AdapterPlusConfig",
    "Average",
    "BapnaConfig",
    "BatchSplit",
    "BottleneckConfig",
    "CompacterConfig",
    "CompacterPlusPlusConfig",
    "Composition",
    "DiReftConfig",
    "DoRAConfig",
    "DoubleSeqBnConfig",
    "DoubleSeqBnInvConfig",
    "Fuse",
    "FusionConfig",
    "HeadConfig",
    "HoulsbyConfig",
    "HoulsbyInvConfig",
    "IA3Config",
    "LoRAConfig",
    "LoReftConfig",
    "MAMConfig",
    "ModelFamily",
    "NoReftConfig",
    "ParBnConfig",
    "Parallel",
    "ParallelConfig",
    "PfeifferConfig",
    "PfeifferInvConfig",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "ReftConfig",
    "ScaledParallelConfig",
    "SeqBnConfig",
    "SeqBnInvConfig",
    "Split",
    "Stack",
    "UniPELTConfig",
    "UnionConfig",
    "load_family",
    "load_preset",
    "parse_config",
)

#: public name → module that defines it
_HOME: dict[str, str] = {
    **dict.fromkeys(("init", "detach", "AdapterModelMixin"), "adapterhub.core.model"),
    "AdapterSetup": "adapterhub.core.adapter_setup",
    "fusion_attention": "adapterhub.core.overrides",
    **dict.fromkeys(("Adapter", "Fusion", "Pool", "pool_of"), "adapterhub.core.pool"),
    **dict.fromkeys(
        (
            "AdapterType",
            "AutoAdapterModel",
            "AutoModelForCausalLM",
            "AutoModelForImageClassification",
            "AutoModelForMaskedLM",
            "AutoModelForMultipleChoice",
            "AutoModelForQuestionAnswering",
            "AutoModelForSeq2SeqLM",
            "AutoModelForSequenceClassification",
            "AutoModelForTokenClassification",
            "AutoModelWithHeads",
        ),
        "adapterhub.core.auto",
    ),
    **dict.fromkeys(("AdapterTrainer", "Seq2SeqAdapterTrainer"), "adapterhub.core.training"),
    "LoadReport": "adapterhub.core.formats",
    "load_report": "adapterhub.core.checkpoints",
}
_HOME.update(dict.fromkeys(_SPEC_NAMES, "adapterhub.spec"))

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - names of strings, computed


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


if TYPE_CHECKING:
    from adapterhub.core.adapter_setup import AdapterSetup as AdapterSetup
    from adapterhub.core.model import AdapterModelMixin as AdapterModelMixin, detach as detach, init as init
    from adapterhub.core.pool import pool_of as pool_of
