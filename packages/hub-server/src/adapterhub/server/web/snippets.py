"""Sample code of an adapter's page: complete, and pinned to the version shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapterhub.server.catalogue.views import AdapterDetail

#: kind of head → the Auto class of transformers that carries such a head
AUTO_CLASSES: dict[str, str] = {
    "classification": "AutoModelForSequenceClassification",
    "multilabel_classification": "AutoModelForSequenceClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "extractive_qa": "AutoModelForQuestionAnswering",
    "multiple_choice": "AutoModelForMultipleChoice",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
    "image_classification": "AutoModelForImageClassification",
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """One tab of sample code."""

    id: str
    title: str
    code: str
    note: str = ""


def pinned_reference(detail: AdapterDetail) -> str:
    """`@ns/name:version`: names exactly one published version."""
    return f"{detail.summary.adapter_id}:{detail.version.version}"


def auto_class(head: Mapping[str, Any] | None) -> str:
    """The Auto class to load the base model with, from the head's configuration; `AutoModel` when there is no head."""
    if not head:
        return "AutoModel"
    kind = str(head.get("head_type") or head.get("type") or head.get("kind") or "").lower()
    return AUTO_CLASSES.get(kind, "AutoModel")


def snippets(detail: AdapterDetail, hub_url: str) -> tuple[Snippet, ...]:
    """Python, command line and curl, in this order.

    Args:
        detail: the version to load.
        hub_url: address of this hub, without a trailing slash.
    """
    return (_python(detail), _command_line(detail, hub_url), _curl(detail, hub_url))


def _python(detail: AdapterDetail) -> Snippet:
    reference = pinned_reference(detail)
    summary = detail.summary
    model = _quote(summary.model_name)
    auto = auto_class(detail.head)
    activate = (
        'model.active_adapters = ah.Stack(language, "your-task-adapter")  # or the language alone\n'
        if summary.type == "text_lang"
        else "model.active_adapters = name\n"
    )
    name = "language" if summary.type == "text_lang" else "name"
    code = (
        f"from transformers import {auto}\n"
        "import adapterhub.core as ah\n"
        "\n"
        f"model = {auto}.from_pretrained({model})\n"
        "ah.init(model)\n"
        f"{name} = model.load_adapter({_quote(reference)})\n"
        f"{activate}"
    )
    return Snippet("python", "Python", code, "needs adapterhub-core and adapterhub-client")


def _command_line(detail: AdapterDetail, hub_url: str) -> Snippet:
    reference = pinned_reference(detail)
    code = (
        "pip install adapterhub-client\n"
        f"export ADAPTERHUB_ENDPOINT={hub_url}\n"
        f"adapterhub info '{reference}'\n"
        f"adapterhub pull '{reference}'\n"
    )
    return Snippet("cli", "Command line", code)


def _curl(detail: AdapterDetail, hub_url: str) -> Snippet:
    summary = detail.summary
    lines = [f"# {summary.adapter_id} {detail.version.version}"]
    fetched = [file for file in detail.files if file.url and file.digest]
    if not fetched:
        lines.append(f"curl -fsS '{hub_url}/v1/adapters/{summary.adapter_id}/versions/{detail.version.version}'")
    else:
        lines.append(f"mkdir -p '{summary.name}' && cd '{summary.name}'")
    lines.extend(f"curl -fsSL -o '{file.path}' '{hub_url}/v1/blobs/{file.digest}'" for file in fetched)
    if fetched:
        lines.append("sha256sum -c <<'EOF'")
        lines.extend(f"{str(file.digest).removeprefix('sha256:')}  {file.path}" for file in fetched)
        lines.append("EOF")
    return Snippet("curl", "curl", "\n".join(lines) + "\n")


def _quote(text: str) -> str:
    """A Python string literal in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def landing_snippets(
    hub_url: str, model_name: str = "bert-base-uncased", reference: str = "sentiment/sst-2@ukp"
) -> tuple[Snippet, ...]:
    """Getting started: load, train, publish. The adapter of the first sample should be one the hub has."""
    load = (
        "from transformers import AutoModel\n"
        "import adapterhub.core as ah\n"
        "\n"
        f"model = AutoModel.from_pretrained({_quote(model_name)})\n"
        "ah.init(model)\n"
        f"model.active_adapters = model.load_adapter({_quote(reference)})\n"
    )
    train = (
        "ah.init(model)\n"
        'model.add_adapter("reviews", config="pfeiffer")\n'
        'model.train_adapter("reviews")   # freezes everything else\n'
        "...                              # your training loop, or a Trainer\n"
        'model.save_adapter("out/reviews", "reviews")\n'
    )
    publish = (
        f"export ADAPTERHUB_ENDPOINT={hub_url}\n"
        "adapterhub login\n"
        "adapterhub push out/reviews sentiment/reviews@your-org --version 1.0\n"
    )
    return (Snippet("load", "Load", load), Snippet("train", "Train", train), Snippet("publish", "Publish", publish))


def docs_samples(hub_url: str) -> dict[str, str]:
    """The samples of the docs page by name."""
    load, train, publish = landing_snippets(hub_url)
    return {
        "load_shell": f"pip install adapterhub-core adapterhub-client\nexport ADAPTERHUB_ENDPOINT={hub_url}\n",
        "load_python": load.code,
        "train_python": train.code,
        "publish_shell": publish.code,
    }
