"""The model card written beside an adapter: what it is, for which model, and the lines that load it."""

from __future__ import annotations

from adapterhub.core.formats.checkpoint import AdapterCheckpoint
from adapterhub.spec.config import BottleneckConfig

__all__ = ["card"]

_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "multilabel_classification": "AutoAdapterModel",
    "image_classification": "AutoModelForImageClassification",
    "tagging": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "multiple_choice": "AutoModelForMultipleChoice",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
}


def card(checkpoint: AdapterCheckpoint) -> str:
    """Markdown with a YAML head, ready for a hub page."""
    base = checkpoint.base_model.name
    count = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    size = sum(tensor.numel() * tensor.element_size() for tensor in checkpoint.tensors.values())
    shown = base or "the base model"
    lines = [
        "---",
        "library_name: adapterhub",
        *([f"base_model: {_quoted(base)}"] if base else []),
        "tags:",
        "- adapterhub",
        f"- {checkpoint.config.method}",
        *([f"- {_quoted(checkpoint.base_model.family)}"] if checkpoint.base_model.family else []),
        "---",
        "",
        f"# {checkpoint.name}",
        "",
        f"An adapter for `{shown}`: {_what(checkpoint)}, {count:,} parameters ({size / 1e6:.1f} MB)"
        + (f", with a {_head(checkpoint)} head." if checkpoint.head else "."),
        "",
        "## Use",
        "",
        "```python",
        "import adapterhub.core as ah",
        f"from adapterhub.core import {_model_class(checkpoint)}",
        "",
        f'model = {_model_class(checkpoint)}.from_pretrained("{base or "…"}"{_labels(checkpoint)})',
        f'name = model.load_adapter("path/or/reference/of/{checkpoint.name}")',
        "model.active_adapters = name",
        "```",
        "",
        "## Config",
        "",
        *(f"- `{key}`: `{value}`" for key, value in _told(checkpoint).items()),
        "",
    ]
    return "\n".join(lines)


def _what(checkpoint: AdapterCheckpoint) -> str:
    config = checkpoint.config
    if isinstance(config, BottleneckConfig):
        places = [
            place
            for place, there in (
                ("attention", config.mh_adapter),
                ("cross-attention", config.cross_adapter),
                ("feed-forward", config.output_adapter),
            )
            if there
        ]
        return f"bottlenecks after {' and '.join(places)}" if places else "an invertible adapter on the embeddings"
    return {"lora": "LoRA", "ia3": "(IA)³", "prefix": "prefix tuning", "prompt": "prompt tuning", "reft": "ReFT"}.get(
        config.method, config.method
    )


def _head(checkpoint: AdapterCheckpoint) -> str:
    assert checkpoint.head is not None
    config = checkpoint.head.config
    return (config.model_class or "static") if config.head_type == "static" else config.head_type.replace("_", " ")


def _model_class(checkpoint: AdapterCheckpoint) -> str:
    from adapterhub.core.heads.kinds import kind_of_head

    if checkpoint.head is None:
        return "AutoAdapterModel"
    config = checkpoint.head.config
    if config.head_type != "static":
        return "AutoAdapterModel"
    return _CLASSES.get(kind_of_head(config.model_class or "") or "", "AutoAdapterModel")


def _labels(checkpoint: AdapterCheckpoint) -> str:
    head = checkpoint.head
    if head is None or head.config.head_type != "static" or head.config.num_labels is None:
        return ""
    return f", num_labels={head.config.num_labels}"


def _told(checkpoint: AdapterCheckpoint) -> dict[str, object]:
    """The fields that say most: those that differ from the defaults of the method."""
    expanded = checkpoint.config.expand()
    default = {name: field.default for name, field in type(checkpoint.config).model_fields.items()}
    told = {key: value for key, value in expanded.items() if key == "method" or value != default.get(key)}
    return {key: value for key, value in told.items() if value not in ([], {}, None)}


def _quoted(text: str | None) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
