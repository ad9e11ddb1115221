"""`eval` and `predict`: an adapter at work."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from adapterhub.core.commands.loading import adapted, which_device
from adapterhub.core.training.data import Row, read_rows
from adapterhub.core.training.loop import batches_of, evaluate as measure, progress
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["evaluate", "predict", "rows_to_answer", "write_lines"]


def evaluate(
    model: str,
    adapter: str,
    data: str,
    task_name: str | None,
    columns: tuple[str | None, ...],
    split: str | None,
    *,
    batch_size: int,
    max_length: int,
    device: str | None,
    model_name: str | None,
) -> dict[str, Any]:
    """The measures on labelled rows, and how many there are."""
    rows = read_rows(data, split or "test" if data.startswith("datasets:") else split)
    found, task = adapted(model, adapter, task_name, columns, max_length, model_name)
    if not task.labels:
        task.learn_labels(rows)
    measured = measure(found, task, task.encode(rows), batch_size, device=which_device(device))
    return {"task": task.name, "rows": len(rows), **measured}


def rows_to_answer(data: str | None, texts: list[str] | None, split: str | None) -> list[Row]:
    """Rows from a file or a data set, lines from stdin (`-`), or texts given one by one."""
    if (data is None) == (not texts):
        raise InvalidConfigError("Give either DATA or --text.", hint="--text may be given several times.")
    if texts:
        return [{"text": text} for text in texts]
    assert data is not None
    if data == "-":
        return [{"text": line.rstrip("\n")} for line in sys.stdin if line.strip()]
    return read_rows(data, split)


@torch.no_grad()
def predict(
    model: str,
    adapter: str,
    rows: list[Row],
    task_name: str | None,
    columns: tuple[str | None, ...],
    *,
    batch_size: int,
    max_length: int,
    max_new_tokens: int,
    device: str | None,
    model_name: str | None,
) -> list[dict[str, Any]]:
    """One answer for each row, in their order."""
    if not rows:
        return []
    found, task = adapted(model, adapter, task_name, columns, max_length, model_name)
    where = which_device(device)
    found.to(where)
    generating = task.name in ("causal-lm", "seq2seq")
    if task.name == "masked-lm":
        raise InvalidConfigError("A masked language model has nothing to predict for whole texts.", hint="Use eval.")
    if generating:
        task.tokenizer.padding_side = "left" if task.name == "causal-lm" else task.tokenizer.padding_side
    encoded = task.encode(rows, with_labels=False)
    answers: list[dict[str, Any]] = []
    with progress(
        -(-len(encoded) // batch_size), "predicting", None if len(encoded) > batch_size else False
    ) as advance:
        for items in batches_of(encoded, batch_size):
            batch = {key: value.to(where) for key, value in task.batch(items).items()}
            if generating:
                made = found.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
                cut = batch["input_ids"].shape[1] if task.name == "causal-lm" else 0
                answers += [
                    {"text": text} for text in task.tokenizer.batch_decode(made[:, cut:], skip_special_tokens=True)
                ]
            else:
                answers += task.answers(found(**batch).logits.cpu(), batch, items)
            advance()
    return answers


def write_lines(path: Path, answers: list[dict[str, Any]]) -> None:
    """JSON lines, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(_lines(answers))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(answers: list[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
