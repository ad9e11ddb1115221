"""Commands that move bytes: pull, push, yank, lock, sync."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from adapterhub.client.cli.config_option import parse_config_option
from adapterhub.client.cli.options import Config, Json, Model, Source, Type, Version
from adapterhub.client.cli.output import note, print_json, readable_bytes, style

__all__ = ["register"]

LockPath = Annotated[Path, typer.Option("--lockfile", help="The lock file.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: adapterhub pull sentiment/sst-2@ukp --model bert-base-uncased")(pull)
    app.command(
        short_help="Publish an adapter folder.",
        epilog="Example: adapterhub push out/sst-2 sentiment/sst-2@me --version 1.0",
    )(push)
    app.command(
        short_help="Check a folder or file the way the hub does.", epilog="Example: adapterhub validate out/sst-2"
    )(validate)
    app.command(
        short_help="Withdraw a version, or bring it back.",
        epilog="Example: adapterhub yank @me/bert-sst-2:1.0 --reason 'trained on test data'",
    )(yank)
    app.command(
        short_help="Write down which bytes references stand for.",
        epilog="Example: adapterhub lock sentiment/sst-2@ukp --model bert-base-uncased",
    )(lock)
    app.command(epilog="Example: adapterhub sync")(sync)


def pull(
    references: Annotated[list[str], typer.Argument(help="One or more references.")],
    model: Model = None,
    config: Config = None,
    version: Version = None,
    type: Type = None,
    source: Source = None,
    local_dir: Annotated[Path | None, typer.Option("--local-dir", help="Copy the files here.")] = None,
    locked: Annotated[bool, typer.Option("--locked", help="Only what adapterhub.lock lists.")] = False,
    json: Json = False,
) -> None:
    """Download adapters, verify every byte, and print their folders."""
    from concurrent.futures import ThreadPoolExecutor

    from adapterhub.client.client import HubClient

    wanted = parse_config_option(config)
    with HubClient(locked=locked) as client, ThreadPoolExecutor(min(4, len(references))) as pool:

        def one(reference: str) -> Path:
            several = local_dir is not None and len(references) > 1
            return client.download(
                reference,
                model_name=model,
                config=wanted,
                version=version,
                type=type,
                source=source,
                local_dir=local_dir / _as_folder(reference) if local_dir and several else local_dir,
            )

        folders = []
        jobs = [pool.submit(one, reference) for reference in references]
        try:
            for job in jobs:
                folders.append(job.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if not json:  # what arrived before a failure is said as well; below the bars, never between them
                for folder in folders:
                    print(folder)
    if json:
        print_json([{"reference": ref, "path": str(path)} for ref, path in zip(references, folders, strict=True)])


def push(
    folder: Annotated[Path, typer.Argument(help="What save_adapter wrote.")],
    reference: Annotated[str, typer.Argument(help="task/subtask@namespace, or @namespace/name.")],
    version: Version = None,
    name: Annotated[str | None, typer.Option("--name", help="The adapter's own name.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Base model, if the folder does not say.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="SPDX name, such as Apache-2.0.")] = None,
    language: Annotated[list[str] | None, typer.Option("--language", help="BCP 47 tag; repeatable.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Training data; repeatable.")] = None,
    author: Annotated[list[str] | None, typer.Option("--author", help="Repeatable.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="A few sentences.")] = None,
    citation: Annotated[str | None, typer.Option("--citation", help="BibTeX or plain text.")] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="name=value[@dataset]; repeatable.")] = None,
    source: Source = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    json: Json = False,
) -> None:
    """Publish an adapter folder: all problems at once, then only the files the hub lacks, then the version as a whole."""
    from adapterhub.client.client import HubClient

    metadata: dict[str, Any] = {
        "model_name": model,
        "license": license,
        "languages": language,
        "datasets": dataset,
        "authors": author,
        "description": description,
        "citation": citation,
        "metrics": [_metric(text) for text in metric] if metric else None,
    }
    given = {key: value for key, value in metadata.items() if value is not None}
    with HubClient() as client:
        result = client.publish(folder, reference, version=version, name=name, source=source, dry_run=dry_run, **given)
    if json:
        print_json(result.to_json())
        return
    for warning in result.warnings:
        note(f"Note: {warning.get('file', '')} {warning.get('message', '')}".replace("  ", " "))
    print(result.reference)
    amount = f"{len(result.sent)} file{'s' if len(result.sent) != 1 else ''} ({readable_bytes(result.sent_bytes)})"
    if dry_run:
        note(f"Nothing was sent. Would send {amount}; {len(result.skipped)} there already. Manifest {result.digest}")
    else:
        what = "Published" if result.created else "Was published already, unchanged"
        what = "Waits for review" if result.state == "pending" else what
        note(f"{what}: {result.full_id}; sent {amount}. {result.page or ''}".rstrip())


def validate(
    path: Annotated[Path, typer.Argument(help="An adapter folder, manifest, metadata, weights or zip file.")],
    json: Json = False,
) -> None:
    """Check a folder or file the way the hub does and list every problem; exit code 2 if there is an error."""
    from adapterhub.spec.errors import ValidationFailedError
    from adapterhub.spec.validate import validate_path

    problems = [problem.to_json() for problem in validate_path(path)]
    errors = [problem for problem in problems if problem.get("severity", "error") == "error"]
    if json:
        print_json({"problems": problems})
        raise typer.Exit(2 if errors else 0)
    if errors:
        raise ValidationFailedError(f"{path} has {len(errors)} problem{'s'[: len(errors) > 1]}.", problems=problems)
    for problem in problems:
        note(f"Note: {problem.get('message')}")
    note(f"{path} is fine.")


def yank(
    reference: Annotated[str, typer.Argument(help="@namespace/name:version.")],
    reason: Annotated[str, typer.Option("--reason", help="Shown to everybody.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    source: Source = None,
    json: Json = False,
) -> None:
    """Withdraw a version: only references that name it still find it; its bytes stay."""
    from adapterhub.client.client import HubClient

    with HubClient() as client:
        answer = client.yank(reference, reason=reason, undo=undo, source=source)
    if json:
        print_json(answer)
    else:
        note(f"{'Brought back' if undo else 'Yanked'}: {reference}")


def lock(
    references: Annotated[
        list[str] | None, typer.Argument(help="References; everything locked is renewed without.")
    ] = None,
    model: Model = None,
    config: Config = None,
    version: Version = None,
    type: Type = None,
    source: Source = None,
    lockfile: LockPath = Path("adapterhub.lock"),
    json: Json = False,
) -> None:
    """Write down in adapterhub.lock which bytes references stand for, so that later runs use the same."""
    from adapterhub.client.client import HubClient

    with HubClient() as client:
        file = client.lock(
            references or [],
            model_name=model,
            config=parse_config_option(config),
            version=version,
            type=type,
            source=source,
            path=lockfile,
        )
    items = file.items()
    if json:
        print_json([item._asdict() for item in items])
        return
    for item in items:
        print(f"{item.reference}\t{item.adapter}:{item.version}@{item.digest}")
    note(f"{len(items)} locked in {lockfile}.")


def sync(lockfile: LockPath = Path("adapterhub.lock"), json: Json = False) -> None:
    """Download everything adapterhub.lock lists and print the folders."""
    from adapterhub.client.client import HubClient

    with HubClient() as client:
        found = client.sync(lockfile, progress=False if style.quiet else None)
    if json:
        print_json({reference: str(path) for reference, path in found.items()})
        return
    for reference, path in found.items():
        print(f"{reference}\t{path}")


def _as_folder(reference: str) -> str:
    """A name for a folder that every system allows."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", reference).strip("-.")


def _metric(text: str) -> dict[str, object]:
    from adapterhub.spec.errors import InvalidManifestError

    name, _, rest = text.partition("=")
    value, at, dataset = rest.partition("@")
    try:
        return {"name": name, "value": float(value), **({"dataset": dataset} if at else {})}
    except ValueError:
        raise InvalidManifestError(
            f"--metric {text!r} is not understood.", hint="Write it as accuracy=0.93 or accuracy=0.93@sst-2."
        ) from None
