"""Prediction heads: one file a flexible head, `static` for the heads of transformers' own task classes."""

from __future__ import annotations

from typing import Any

from adapterhub.core.heads.base import HeadInput, PredictionHead
from adapterhub.core.heads.causal_lm import CausalLMHead
from adapterhub.core.heads.classification import ClassificationHead
from adapterhub.core.heads.dependency_parsing import DependencyParsingHead
from adapterhub.core.heads.image_classification import ImageClassificationHead
from adapterhub.core.heads.masked_lm import MaskedLMHead
from adapterhub.core.heads.multilabel_classification import MultilabelClassificationHead
from adapterhub.core.heads.multiple_choice import MultipleChoiceHead
from adapterhub.core.heads.question_answering import QuestionAnsweringHead
from adapterhub.core.heads.seq2seq_lm import Seq2SeqLMHead
from adapterhub.core.heads.tagging import TaggingHead
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.heads import HeadConfig

__all__ = ["HEADS", "HeadInput", "PredictionHead", "build_head", "register_head"]

#: `head_type` → class.
HEADS: dict[str, type[PredictionHead]] = {
    head.head_type: head
    for head in (
        CausalLMHead,
        ClassificationHead,
        DependencyParsingHead,
        ImageClassificationHead,
        MaskedLMHead,
        MultilabelClassificationHead,
        MultipleChoiceHead,
        QuestionAnsweringHead,
        Seq2SeqLMHead,
        TaggingHead,
    )
}


def build_head(config: HeadConfig, model_config: Any) -> PredictionHead:
    """A freshly initialised head.

    Raises:
        InvalidConfigError: a head type without a class, `static` among them.
    """
    kind = HEADS.get(config.head_type)
    if kind is None:
        raise InvalidConfigError(
            f"There is no flexible head of type {config.head_type!r}.", hint=f"Types: {', '.join(sorted(HEADS))}."
        )
    return kind(config, model_config)


def register_head(head_type: str, kind: type[PredictionHead]) -> None:
    """Makes heads of a new type loadable.

    Raises:
        InvalidConfigError: the type is taken by another class.
    """
    if HEADS.get(head_type, kind) is not kind:
        raise InvalidConfigError(f"The head type {head_type!r} is taken by {HEADS[head_type].__name__}.")
    HEADS[head_type] = kind
