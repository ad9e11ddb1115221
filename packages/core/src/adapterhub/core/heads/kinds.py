"""Which kind of head a task class of transformers has."""

from __future__ import annotations

__all__ = ["LANGUAGE_MODELS", "kind_of_head"]

#: End of a task class's name → head type, and whether its output layer is the vocabulary.
_KINDS = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "image_classification",
    "ForTokenClassification": "tagging",
    "ForQuestionAnswering": "question_answering",
    "ForMultipleChoice": "multiple_choice",
    "ForMaskedLM": "masked_lm",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq_lm",
}
LANGUAGE_MODELS = frozenset({"masked_lm", "causal_lm", "seq2seq_lm"})


def kind_of_head(model_class: str) -> str | None:
    """The head type of a task class of transformers by its name, or None."""
    return next((kind for suffix, kind in _KINDS.items() if model_class.endswith(suffix)), None)
