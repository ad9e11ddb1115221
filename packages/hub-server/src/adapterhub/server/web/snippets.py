"""Sample code of an adapter's page: complete, and pinned to the version shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapterhub.server.catalogue.views import AdapterDetail

#: end of a task class's name → the Auto class of transformers that makes it, and whether it is told the number of labels
AUTO_CLASSES: dict[str, tuple[str, bool]] = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", True),
    "ForTokenClassification": ("AutoModelForTokenClassification", True),
    "ForImageClassification": ("AutoModelForImageClassification", True),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", False),
    "ForMultipleChoice": ("AutoModelForMultipleChoice", False),
    "ForMaskedLM": ("AutoModelForMaskedLM", False),
    "ForCausalLM": ("AutoModelForCausalLM", False),
    "LMHeadModel": ("AutoModelForCausalLM", False),
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """One tab of sample code."""

    id: str
    title: str
    code: str


def pinned_reference(detail: AdapterDetail) -> str:
    """`@ns/name:version`: names exactly one published version."""
    return f"{detail.summary.adapter_id}:{detail.version.version}"


def model_lines(model_name: str, head: Mapping[str, Any] | None) -> list[str]:
    """Python that loads the base model in a class that takes the head: the bare model where there is none, the task class
    a static head comes from, with its number of labels, and a model with flexible heads for the others."""
    name = _quote(model_name)
    if head and head.get("head_type") != "static":
        return ["import adapterhub.core as ah", "", f"model = ah.AutoAdapterModel.from_pretrained({name})"]
    task_class = str((head or {}).get("model_class") or "")
    known = (found for ending, found in AUTO_CLASSES.items() if task_class.endswith(ending))
    loader, labelled = next(known, (task_class if task_class.isidentifier() else "AutoModel", False))
    labels = (head or {}).get("num_labels") if labelled else None
    options = f", num_labels={labels}" if labels is not None else ""
    return [
        f"from transformers import {loader}",
        "import adapterhub.core as ah",
        "",
        f"model = {loader}.from_pretrained({name}{options})",
        "ah.init(model)",
    ]


def snippets(detail: AdapterDetail, hub_url: str, *, static: bool = False) -> tuple[Snippet, ...]:
    """Python, command line and curl, in this order.

    Args:
        detail: the version to load.
        hub_url: address of this hub, without a trailing slash.
        static: the hub is a folder of files.
    """
    return (_python(detail, hub_url), _command_line(detail, hub_url), _curl(detail, hub_url, static))


def _python(detail: AdapterDetail, hub_url: str) -> Snippet:
    is_language = detail.summary.type == "text_lang"
    name = "language" if is_language else "name"
    active = 'language  # or ah.Stack(language, "your-task-adapter")' if is_language else name
    lines = [
        "# pip install adapterhub-core adapterhub-client",
        f"# export ADAPTERHUB_ENDPOINT={hub_url}",
        "",
        *model_lines(detail.summary.model_name, detail.head),
        f"{name} = model.load_adapter({_quote(pinned_reference(detail))})",
        f"model.active_adapters = {active}",
    ]
    return Snippet("python", "Python", "\n".join(lines) + "\n")


def _command_line(detail: AdapterDetail, hub_url: str) -> Snippet:
    reference = pinned_reference(detail)
    code = (
        "pip install adapterhub-client\n"
        f"export ADAPTERHUB_ENDPOINT={hub_url}\n"
        f"adapterhub info '{reference}'\n"
        f"adapterhub pull '{reference}'\n"
    )
    return Snippet("cli", "Command line", code)


def _curl(detail: AdapterDetail, hub_url: str, static: bool) -> Snippet:
    summary = detail.summary
    page = f"/{summary.adapter_id}/versions/{detail.version.version}"
    lines = [f"# {summary.adapter_id} {detail.version.version}"]
    fetched = [file for file in detail.files if file.url and file.digest]
    if not fetched:
        lines.append(
            f"curl -fsS '{hub_url}{page}/index.json'" if static else f"curl -fsS '{hub_url}/v1/adapters{page}'"
        )
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
    return json.dumps(text, ensure_ascii=False)


#: what the samples load and train where the hub has nothing to show: two classes, on BERT
_SAMPLE_MODEL = "bert-base-uncased"
_SAMPLE_HEAD = {"head_type": "static", "model_class": "BertForSequenceClassification", "num_labels": 2}


def landing_snippets(hub_url: str, sample: AdapterDetail | None = None) -> tuple[Snippet, ...]:
    """Getting started: load, train, publish. `sample` is an adapter that can be loaded from this hub."""
    model_name, head = (sample.summary.model_name, sample.head) if sample else (_SAMPLE_MODEL, _SAMPLE_HEAD)
    reference = sample.summary.adapter_id if sample else "sentiment/sst-2@ukp"
    load = [*model_lines(model_name, head), f"model.active_adapters = model.load_adapter({_quote(reference)})"]
    train = [
        *model_lines(_SAMPLE_MODEL, _SAMPLE_HEAD),
        'model.add_adapter("reviews", config="pfeiffer")',
        'model.train_adapter("reviews")  # freezes everything else',
        "...  # your training loop, or a Trainer",
        'model.save_adapter("out/reviews", "reviews")',
    ]
    publish = [
        f"export ADAPTERHUB_ENDPOINT={hub_url}",
        "adapterhub login",
        "adapterhub push out/reviews sentiment/reviews@your-org --version 1.0",
    ]
    titled = (("load", "Load", load), ("train", "Train", train), ("publish", "Publish", publish))
    return tuple(Snippet(name, title, "\n".join(lines) + "\n") for name, title, lines in titled)


def docs_samples(hub_url: str) -> dict[str, str]:
    """The samples of the docs page by name."""
    load, train, publish = landing_snippets(hub_url)
    return {
        "load_shell": f"pip install adapterhub-core adapterhub-client\nexport ADAPTERHUB_ENDPOINT={hub_url}\n",
        "load_python": load.code,
        "train_python": train.code,
        "publish_shell": publish.code,
    }
