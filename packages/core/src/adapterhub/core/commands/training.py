"""`train`: rows to an adapter, its metrics, its curve and its card."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from adapterhub.core import plots
from adapterhub.core.commands.loading import columns_of, load_model, note, quiet, tokenizer_of, which_device
from adapterhub.core.formats.files import write_json
from adapterhub.core.training.data import Row, column, read_rows, split_rows
from adapterhub.core.training.loop import Recipe, TrainingResult, evaluate, fit
from adapterhub.core.training.tasks import Task, task_named
from adapterhub.spec.config import parse_config
from adapterhub.spec.errors import AdapterHubError, InvalidConfigError

__all__ = ["train"]


def train(
    model: str,
    data: str,
    output: Path,
    task_name: str,
    config: str,
    name: str | None,
    columns: tuple[str | None, ...],
    recipe: dict[str, Any],
    *,
    split: str | None,
    eval_data: str | None,
    eval_share: float,
    max_length: int,
    overwrite: bool,
    device: str | None,
    model_name: str | None,
    prefix_cache: bool = False,
) -> dict[str, Any]:
    """Trains, writes below `output`, and returns the report that metrics.json holds."""
    quiet()
    parsed = parse_config(config)
    task = Task(task_named(task_name), None, [], columns_of(columns), max_length)
    if output.exists() and any(output.iterdir()) and not overwrite:
        raise InvalidConfigError(
            f"{output} is not empty.", hint="Pass --overwrite to replace the run in it, or another folder."
        )
    rows = read_rows(data, split)
    validation = read_rows(eval_data, None) if eval_data is not None else []
    if eval_data is None and eval_share > 0:
        rows, validation = split_rows(rows, eval_share, _key(task, rows))
    if not rows:
        raise InvalidConfigError("No rows are left to train on.", hint="Lower --eval-share.")
    task.learn_labels([*rows, *validation])
    task.tokenizer = tokenizer_of(model)
    encoded, held = task.encode(rows), task.encode(validation) if validation else []
    if not held:
        note("No validation rows: the last epoch is kept, and there are no measures.")
    adapter = name or output.name
    where = which_device(device)
    torch.manual_seed(int(recipe["seed"]))
    found = load_model(task, model, model_name)
    found.add_adapter(adapter, config=parsed)
    found.train_adapter(adapter)
    note(f"{len(encoded):,} rows to train on, {len(held):,} to validate, {_trained(found):,} parameters train.")
    result = fit(found, task, encoded, held, Recipe(**recipe), device=where, prefix_cache=prefix_cache)
    measured = evaluate(found, task, held, int(recipe["batch_size"]), device=where) if held else {}
    return _write(
        found, adapter, task, output, parsed.expand(), recipe, result, measured, data, len(encoded), len(held)
    )


def _write(
    model: Any,
    adapter: str,
    task: Task,
    output: Path,
    config: dict[str, Any],
    recipe: dict[str, Any],
    result: TrainingResult,
    measured: dict[str, float],
    data: str,
    count: int,
    held: int,
) -> dict[str, Any]:
    for stale in ("adapter", "metrics.json", "curve.png"):
        path = output / stale
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder = output / "adapter"
    model.to("cpu")
    model.save_adapter(folder, adapter)
    source = Path(data).name if Path(data).exists() else data
    record = {
        "task": task.name,
        "labels": task.labels,
        "data": source,
        "rows": {"train": count, "validation": held},
        "recipe": recipe,
        "max_length": task.length,
        "best_epoch": result.best_epoch,
        "metrics": measured,
    }
    write_json(folder / "training.json", record)
    _extend_card(folder / "README.md", record)
    curve: str | None = None
    try:
        title = f"{adapter} ({config['method']})"
        curve = str(
            plots.plot_curve(result.losses, result.epochs, output / "curve.png", metric=task.main_metric, title=title)
        )
    except AdapterHubError as error:
        note(f"No curve: {error}")
    report = {
        "adapter": str(folder),
        "parameters": sum(p.numel() for p in model.get_adapter(adapter).values()),
        "curve": curve,
        **record,
        "config": config,
        "history": asdict(result),
    }
    write_json(output / "metrics.json", report)
    return report


def _extend_card(path: Path, record: dict[str, Any]) -> None:
    lines = ["## Training", "", f"Task: {record['task']}. Data: {record['data']}, {record['rows']['train']:,} rows."]
    if record["metrics"]:
        lines += ["", "| measure (validation) | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4f} |" for key, value in record["metrics"].items()]
    recipe = ", ".join(f"{key} {json.dumps(value)}" for key, value in record["recipe"].items())
    lines += ["", f"Recipe: {recipe}.", ""]
    path.write_text(path.read_text(encoding="utf-8") + "\n" + "\n".join(lines), encoding="utf-8")


def _key(task: Task, rows: list[Row]) -> str:
    """The column by whose content rows are split."""
    if task.name == "tagging":
        return column(rows, "tokens", task.columns.tokens)
    return column(rows, "text", task.columns.text)


def _trained(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
