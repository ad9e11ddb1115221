"""transformers' Auto classes whose models have adapters from the start, and the one with flexible heads.

from adapterhub.core import AutoModelForSequenceClassification, AutoAdapterModel

model = AutoModelForSequenceClassification.from_pretrained("roberta-base")   # transformers' class, then `init`
model = AutoAdapterModel.from_pretrained("roberta-base")                     # the bare transformer and heads to add
"""

from __future__ import annotations

import enum
import warnings
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from adapterhub.core.model import init
from adapterhub.core.whole import FOLDER, INDEX, load_all_adapters

__all__ = [
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
]


class AdapterType(enum.StrEnum):
    """What an adapter is for; the first two are the paper's."""

    text_task = "text_task"
    text_lang = "text_lang"
    image_task = "image_task"
    audio_task = "audio_task"
    multimodal_task = "multimodal_task"


class _AutoModel:
    """Base of the classes here; not to be instantiated."""

    _auto: ClassVar[str] = "AutoModel"

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} is not instantiated; call from_pretrained or from_config.")

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *args: Any, base_model_name: str | None = None, **kwargs: Any) -> Any:
        """transformers' `from_pretrained`, then `init`; adapters that `save_pretrained` left in the folder come back.

        Args:
            name_or_path: a name on the model hub or a folder.
            base_model_name: the base model's id on its hub where `name_or_path` is a folder.
            args, kwargs: of transformers.
        """
        model = cls._class().from_pretrained(name_or_path, *args, **kwargs)
        text = str(name_or_path)
        model = cls._ready(model, base_model_name or (None if Path(text).is_dir() else text))
        if (Path(text) / FOLDER / INDEX).is_file():
            load_all_adapters(model, text)
        return model

    @classmethod
    def from_config(cls, config: Any, *, base_model_name: str | None = None, **kwargs: Any) -> Any:
        """transformers' `from_config` (random weights), then `init`."""
        return cls._ready(cls._class().from_config(config, **kwargs), base_model_name)

    @classmethod
    def _class(cls) -> Any:
        import transformers

        return getattr(transformers, cls._auto)

    @classmethod
    def _ready(cls, model: nn.Module, name: str | None) -> nn.Module:
        return init(model, model_name=name)


class AutoModelForSequenceClassification(_AutoModel):
    """Text classification and regression."""

    _auto = "AutoModelForSequenceClassification"


class AutoModelForTokenClassification(_AutoModel):
    """Tagging."""

    _auto = "AutoModelForTokenClassification"


class AutoModelForQuestionAnswering(_AutoModel):
    """Extractive question answering."""

    _auto = "AutoModelForQuestionAnswering"


class AutoModelForMultipleChoice(_AutoModel):
    """Multiple choice."""

    _auto = "AutoModelForMultipleChoice"


class AutoModelForMaskedLM(_AutoModel):
    """Masked language modelling."""

    _auto = "AutoModelForMaskedLM"


class AutoModelForCausalLM(_AutoModel):
    """Causal language modelling."""

    _auto = "AutoModelForCausalLM"


class AutoModelForSeq2SeqLM(_AutoModel):
    """Sequence-to-sequence language modelling."""

    _auto = "AutoModelForSeq2SeqLM"


class AutoModelForImageClassification(_AutoModel):
    """Image classification."""

    _auto = "AutoModelForImageClassification"


class AutoAdapterModel(_AutoModel):
    """The bare transformer with flexible heads: `add_classification_head` and the like put them on, by name."""

    @classmethod
    def _ready(cls, model: Any, name: str | None) -> nn.Module:
        from adapterhub.core.heads.flexible import with_flexible_heads

        return init(with_flexible_heads(model), model_name=name)


class AutoModelWithHeads(AutoAdapterModel):
    """The name `AutoAdapterModel` has in the AdapterHub paper (Pfeiffer et al., 2020)."""

    @classmethod
    def _ready(cls, model: Any, name: str | None) -> nn.Module:
        warnings.warn(
            "AutoModelWithHeads is the older name of AutoAdapterModel and stays available.",
            PendingDeprecationWarning,
            stacklevel=3,
        )
        return super()._ready(model, name)
