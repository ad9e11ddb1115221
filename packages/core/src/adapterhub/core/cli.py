"""The commands of core: train, eval, predict, convert, inspect. Data goes to stdout, everything else to stderr.

`app` is announced as the entry point `adapterhub.commands`, by which the client's `adapterhub` shows these commands too;
`main` runs them alone. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["app", "main"]

app = typer.Typer(
    name="adapterhub.core",
    help="Train, measure, use, convert and look at adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
_Text = Annotated[str | None, typer.Option("--text-column", help="Column with the text.")]
_Pair = Annotated[str | None, typer.Option("--pair-column", help="Column with a second text.")]
_Label = Annotated[str | None, typer.Option("--label-column", help="Column with the label.")]
_Tokens = Annotated[str | None, typer.Option("--tokens-column", help="Column with the tokens (tagging).")]
_Tags = Annotated[str | None, typer.Option("--tags-column", help="Column with the tags (tagging).")]
_Target = Annotated[str | None, typer.Option("--target-column", help="Column with the answer (seq2seq).")]
_Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Rows a step.")]
_Length = Annotated[int, typer.Option("--max-length", min=2, help="Longest text in tokens; longer ones are cut.")]
_Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, …; by default what there is.")]
_ModelName = Annotated[str | None, typer.Option("--model-name", help="The base model's id, where MODEL is a folder.")]


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Base model: a name or a folder.")],
    data: Annotated[str, typer.Argument(help="CSV, TSV, JSON, JSON-lines file, or datasets:NAME.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the adapter, metrics.json and curve.png.")],
    task: Annotated[
        str,
        typer.Option(
            "--task", "-t", help="classification, regression, multilabel, tagging, masked-lm, causal-lm, seq2seq."
        ),
    ] = "classification",
    config: Annotated[
        str, typer.Option("--config", "-c", help='Preset, such as "pfeiffer[reduction_factor=12]", or JSON file.')
    ] = "pfeiffer",
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the adapter; by default that of the output folder.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option("--eval-data", help="Validation rows; by default a share of DATA.")
    ] = None,
    eval_share: Annotated[
        float, typer.Option("--eval-share", min=0.0, max=0.9, help="Share of DATA kept for validation.")
    ] = 0.1,
    split: Annotated[str | None, typer.Option("--split", help="Split of a datasets: source.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 3,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", min=0.0)] = 1e-3,
    batch_size: _Batch = 32,
    max_length: _Length = 128,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0.0)] = 0.01,
    warmup: Annotated[
        float, typer.Option("--warmup", min=0.0, max=1.0, help="Share of the steps the rate rises.")
    ] = 0.06,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    text_column: _Text = None,
    pair_column: _Pair = None,
    label_column: _Label = None,
    tokens_column: _Tokens = None,
    tags_column: _Tags = None,
    target_column: _Target = None,
    device: _Device = None,
    model_name: _ModelName = None,
    prefix_cache: Annotated[
        bool,
        typer.Option(
            "--prefix-cache", help="Compute layers below the first that trains once a row (no dropout there)."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in the output folder.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Train an adapter and its head; write the adapter, metrics.json and curve.png."""
    from adapterhub.core.commands import training

    columns = (text_column, pair_column, label_column, tokens_column, tags_column, target_column)
    recipe = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "warmup": warmup,
        "seed": seed,
    }
    report = training.train(
        model,
        data,
        output,
        task,
        config,
        name,
        columns,
        recipe,
        split=split,
        eval_data=eval_data,
        eval_share=eval_share,
        max_length=max_length,
        overwrite=overwrite,
        device=device,
        model_name=model_name,
        prefix_cache=prefix_cache,
    )
    if as_json:
        _print_json(report)
    else:
        _print_fields(
            {
                "adapter": report["adapter"],
                **report["metrics"],
                "parameters": report["parameters"],
                "curve": report["curve"],
            }
        )


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Base model: a name or a folder.")],
    adapter: Annotated[str, typer.Argument(help="Adapter: a folder or a reference.")],
    data: Annotated[str, typer.Argument(help="CSV, TSV, JSON, JSON-lines file, or datasets:NAME.")],
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Kind of task, where the adapter does not tell.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of a datasets: source.")] = None,
    batch_size: _Batch = 32,
    max_length: _Length = 128,
    text_column: _Text = None,
    pair_column: _Pair = None,
    label_column: _Label = None,
    tokens_column: _Tokens = None,
    tags_column: _Tags = None,
    target_column: _Target = None,
    device: _Device = None,
    model_name: _ModelName = None,
    as_json: _Json = False,
) -> None:
    """Measure an adapter on labelled rows."""
    from adapterhub.core.commands import using

    columns = (text_column, pair_column, label_column, tokens_column, tags_column, target_column)
    found = using.evaluate(
        model,
        adapter,
        data,
        task,
        columns,
        split,
        batch_size=batch_size,
        max_length=max_length,
        device=device,
        model_name=model_name,
    )
    _print_json(found) if as_json else _print_fields(found)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Base model: a name or a folder.")],
    adapter: Annotated[str, typer.Argument(help="Adapter: a folder or a reference.")],
    data: Annotated[
        str | None, typer.Argument(help="Rows to answer: a file, datasets:NAME, or - for lines on stdin.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text to answer; may be given several times.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON-lines file; by default stdout.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Kind of task, where the adapter does not tell.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of a datasets: source.")] = None,
    batch_size: _Batch = 32,
    max_length: _Length = 128,
    text_column: _Text = None,
    pair_column: _Pair = None,
    tokens_column: _Tokens = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer of a generating model.")
    ] = 64,
    device: _Device = None,
    model_name: _ModelName = None,
) -> None:
    """Answer rows with an adapter: one JSON object a line, in the order of the rows."""
    from adapterhub.core.commands import using

    columns = (text_column, pair_column, None, tokens_column, None, None)
    rows = using.rows_to_answer(data, text, split)
    answers = using.predict(
        model,
        adapter,
        rows,
        task,
        columns,
        batch_size=batch_size,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        device=device,
        model_name=model_name,
    )
    if output is None:
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False))
    else:
        using.write_lines(output, answers)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Adapter: a folder or a reference, of any format.")],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    format: Annotated[str, typer.Option("--format", "-f", help="native, adapters or peft.")] = "native",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Base model; by default the one the adapter names.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, float16 or bfloat16; by default as it is.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the adapter in the new folder.")] = None,
    as_json: _Json = False,
) -> None:
    """Write an adapter in another format; weights of the base model are not needed."""
    from adapterhub.core.commands import converting

    report = converting.convert(source, target, format, model, dtype, name)
    _print_json(report) if as_json else _print_fields(report)


@app.command()
def inspect(
    folder: Annotated[str, typer.Argument(help="Adapter: a folder or a reference, of any format.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: _Json = False,
) -> None:
    """Show what an adapter folder holds: config, base model, head, sizes."""
    from adapterhub.core.commands import inspecting

    report = inspecting.inspect(folder)
    if as_json:
        _print_json(report)
        return
    listed = report.pop("tensors")
    _print_fields(report)
    if tensors:
        for key, (dtype, shape) in listed.items():
            print(f"{key}\t{dtype}\t{'x'.join(map(str, shape))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors of ours are one line and a hint, without a traceback."""
    from adapterhub.spec.errors import AdapterHubError, exit_code

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = typer.main.get_command(app)(
            args=arguments or ["--help"], prog_name="python -m adapterhub.core", standalone_mode=True
        )
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else 1)
    except AdapterHubError as error:
        if os.environ.get("ADAPTERHUB_DEBUG"):
            raise
        print(f"Error: {error.message}", file=sys.stderr)
        for candidate in error.candidates:
            print(f"  {candidate}", file=sys.stderr)
        if error.hint:
            print(f"Hint: {error.hint}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if os.environ.get("ADAPTERHUB_DEBUG"):
            raise
        told = " ".join(str(error).split()) or type(error).__name__
        print(f"Error: {told} ({type(error).__name__}).", file=sys.stderr)
        print("Hint: Run again with ADAPTERHUB_DEBUG=1 for the details.", file=sys.stderr)
        return 1


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def _print_fields(fields: dict[str, Any]) -> None:
    shown = {key: value for key, value in fields.items() if value not in (None, "", [], {})}
    width = max((len(key) for key in shown), default=0)
    for key, value in shown.items():
        text = (
            f"{value:.4f}"
            if isinstance(value, float)
            else value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False)
        )
        print(f"{key:<{width}}  {text}" if sys.stdout.isatty() else f"{key}\t{text}")
