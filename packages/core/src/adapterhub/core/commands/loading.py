"""Models and tokenizers for the commands: a base model by name or folder, an adapter by folder or reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from adapterhub.core.training.tasks import Columns, Task, task_named
from adapterhub.spec.errors import AdapterHubError, InvalidConfigError

__all__ = ["adapted", "adapter_folder", "columns_of", "note", "quiet", "task_of", "tokenizer_of", "which_device"]

#: Kinds of heads → tasks.
_TASK_OF_KIND = {
    "classification": "classification",
    "multilabel_classification": "multilabel",
    "tagging": "tagging",
    "masked_lm": "masked-lm",
    "causal_lm": "causal-lm",
    "seq2seq_lm": "seq2seq",
}


def note(text: str) -> None:
    """A remark on stderr."""
    print(text, file=sys.stderr)


def quiet() -> None:
    """No bars and no load reports of transformers: missing heads are what we expect."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def columns_of(given: tuple[str | None, ...]) -> Columns:
    """Column names in the order text, pair, label, tokens, tags, target."""
    return Columns(*given)


def which_device(name: str | None) -> str:
    """The device asked for, else an accelerator if there is one."""
    if name is not None:
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a base model; padding falls back to the end-of-text token.

    Raises:
        AdapterHubError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise AdapterHubError(
            f"There is no tokenizer for {model!r}: {_first(error)}",
            hint="Give a model folder with a tokenizer in it, or a model's name.",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def adapter_folder(adapter: str, model_name: str | None = None) -> Path:
    """The folder of an adapter; of a run of `train` the adapter in it."""
    from adapterhub.core.resolvers import resolve_to_folder

    inner = Path(adapter).expanduser() / "adapter"
    if (inner / "adapter_config.json").is_file():
        return inner
    return resolve_to_folder(adapter, model_name=model_name)


def task_of(folder: Path, wanted: str | None) -> tuple[str, list[str]]:
    """(task, labels) of an adapter: from its training record, else from its head, else as `wanted`.

    Raises:
        InvalidConfigError: nothing tells.
    """
    from adapterhub.core.formats.files import read_json
    from adapterhub.core.formats.heads import read_any_head
    from adapterhub.core.heads.kinds import kind_of_head

    labels: list[str] = []
    task = None if wanted is None else task_named(wanted)
    record = read_json(folder / "training.json") if (folder / "training.json").is_file() else {}
    if isinstance(record.get("labels"), list):
        labels = [str(label) for label in record["labels"]]
    if task is None and isinstance(record.get("task"), str):
        task = task_named(record["task"])
    if (folder / "head_config.json").is_file():
        config = read_any_head(folder).config
        if not labels and config.label2id:
            labels = [label for label, _ in sorted(config.label2id.items(), key=lambda item: item[1])]
        kind = kind_of_head(config.model_class or "") if config.head_type == "static" else config.head_type
        if task is None:
            task = (
                "regression" if kind == "classification" and config.num_labels == 1 else _TASK_OF_KIND.get(kind or "")
            )
    if task is None:
        raise InvalidConfigError("The adapter does not tell what kind of task it is for.", hint="Name it with --task.")
    return task, labels


def adapted(
    model: str, adapter: str, wanted: str | None, columns: tuple[str | None, ...], length: int, model_name: str | None
) -> tuple[Any, Task]:
    """The base model with the adapter active, ready to predict, and its task."""
    quiet()
    folder = adapter_folder(adapter, model_name or (None if Path(model).is_dir() else model))
    name, labels = task_of(folder, wanted)
    task = Task(name, tokenizer_of(model), labels, columns_of(columns), length)
    found = load_model(task, model, model_name)
    found.load_adapter(folder, set_active=True)
    return found.eval(), task


def load_model(task: Task, model: str, model_name: str | None) -> Any:
    """The model of a task.

    Raises:
        AdapterHubError: there is no such model.
    """
    try:
        found = task.model(model, base_model_name=model_name)
    except OSError as error:
        raise AdapterHubError(
            f"The model {model!r} cannot be loaded: {_first(error)}",
            hint="Give a folder, or the name of a model that can be reached.",
        ) from error
    if getattr(found.config, "pad_token_id", None) is None:
        found.config.pad_token_id = task.tokenizer.pad_token_id
    return found


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


__all__ += ["load_model"]
