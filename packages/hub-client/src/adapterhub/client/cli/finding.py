"""Commands that look: search, info, resolve."""

from __future__ import annotations

from typing import Annotated

import typer

from adapterhub.client.cli import resolving
from adapterhub.client.cli.config_option import parse_config_option
from adapterhub.client.cli.options import Config, Json, Model, Source, Type, Version
from adapterhub.client.cli.output import note, print_fields, print_json, print_table, readable_bytes

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: adapterhub search sentiment --model bert-base-uncased --json")(search)
    app.command(epilog="Example: adapterhub info sentiment/sst-2@ukp --model bert-base-uncased")(info)
    app.command(
        short_help="Say which version a reference stands for.",
        epilog="Example: adapterhub resolve sst-2 --model bert-base-uncased --config pfeiffer",
    )(resolve)


def search(
    query: Annotated[str | None, typer.Argument(help="Words to look for; all adapters without.")] = None,
    model: Model = None,
    task: Annotated[str | None, typer.Option("--task", help="Task or language.")] = None,
    subtask: Annotated[str | None, typer.Option("--subtask", help="Data set or domain.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="bottleneck, lora, prefix, …")] = None,
    language: Annotated[str | None, typer.Option("--language", help="BCP 47 tag, such as de.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="SPDX name, such as Apache-2.0.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Publisher.")] = None,
    type: Type = None,
    sort: Annotated[str | None, typer.Option("--sort", help="relevance, downloads, created or name.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")] = 20,
    source: Annotated[
        str, typer.Option("--source", "-s", help="ah, hf, all (both), or the name of a configured hub.")
    ] = "ah",
    json: Json = False,
) -> None:
    """Find adapters by words and filters."""
    from adapterhub.client.client import HubClient

    with HubClient() as client:
        found = client.list_adapters(
            None if source == "all" else source,
            model,
            query=query,
            task=task,
            subtask=subtask,
            method=method,
            language=language,
            license=license,
            namespace=namespace,
            type=type,
            sort=sort,
            limit=limit,
        )
    if json:
        print_json([item.to_json() for item in found])
        return
    print_table(
        ("adapter", "reference", "model", "method", "version", "downloads", "size"),
        [
            (
                f"{item.hub}::{item.adapter_id}" if item.hub else item.adapter_id,
                item.reference,
                item.model_name,
                item.using or item.method,
                item.version,
                item.downloads,
                readable_bytes(item.size),
            )
            for item in found
        ],
        optional=("reference", "size", "downloads", "version", "model"),
    )
    if not found:
        note("Nothing found.")
    elif len(found) == limit:
        note(f"The first {limit}; more with --limit.")


def info(
    reference: Annotated[str, typer.Argument(help="Such as sentiment/sst-2@ukp or @ukp/name:1.0.")],
    model: Model = None,
    config: Config = None,
    version: Version = None,
    type: Type = None,
    source: Source = None,
    json: Json = False,
) -> None:
    """Show what is known about one adapter; nothing is downloaded."""
    from adapterhub.client.client import HubClient

    with HubClient() as client:
        found = client.get_adapter_info(
            reference,
            model_name=model,
            config=parse_config_option(config),
            version=version,
            type=type,
            source=source,
        )
    if json:
        print_json(found.to_json())
        return
    fields = found.to_json()
    shown = fields.pop("adapter_config") or {}
    fields["size"] = readable_bytes(found.size)
    fields["adapter_config"] = ", ".join(f"{key}={value}" for key, value in shown.items() if value)
    print_fields(fields)


def resolve(
    reference: Annotated[str, typer.Argument(help="Such as sst-2, sentiment/sst-2@ukp, @ukp/name:1.0.")],
    model: Model = None,
    config: Config = None,
    version: Version = None,
    type: Type = None,
    source: Source = None,
    locked: Annotated[bool, typer.Option("--locked", help="Only what adapterhub.lock lists.")] = False,
    json: Json = False,
) -> None:
    """Say which version a reference stands for: the pinned reference on stdout, the reason on stderr."""
    resolving.resolve(
        reference, model=model, config=config, version=version, type=type, source=source, locked=locked, json=json
    )
