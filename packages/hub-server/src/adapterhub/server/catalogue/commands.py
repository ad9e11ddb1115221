"""Commands of the catalogue on `adapterhub-server`: bring a catalogue in, and bytes for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from adapterhub.server.storage import Storage
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["add_commands"]

Data = Annotated[
    Path | None, typer.Option(help="The hub's folder.", envvar="ADAPTERHUB_SERVER_DATA", show_default="./hub-data")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="sqlite:///FILE or postgresql+psycopg://…", envvar="ADAPTERHUB_SERVER_DATABASE_URL"),
]
BlobStore = Annotated[
    str | None, typer.Option(help="A folder or s3://BUCKET/PREFIX.", envvar="ADAPTERHUB_SERVER_BLOB_STORE")
]


def add_commands(app: typer.Typer, open_stores: Callable[[Path | None, str | None, str | None], Storage]) -> None:
    """Add `import-catalogue` and `mirror` to `app`. `open_stores` opens the storage of the options every command takes."""

    @app.command("import-catalogue")
    def import_catalogue(
        path: Annotated[Path, typer.Argument(help="Folder with adapters/, tasks/, subtasks/, architectures/.")],
        data: Data = None,
        database_url: DatabaseUrl = None,
        blob_store: BlobStore = None,
        report: Annotated[Path | None, typer.Option(help="Write every repair there, as Markdown.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
    ) -> None:
        """Bring the YAML catalogue of the 2020 hub in: browsable and resolvable at once, bytes when they come."""
        from adapterhub.server.catalogue.importing import import_catalogue as run

        try:
            done = run(open_stores(data, database_url, blob_store), path, actor="command line")
        except FileNotFoundError as error:
            raise InvalidConfigError(str(error), hint="Give the folder that holds adapters/ and tasks/.") from None
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(done.report, encoding="utf-8")
        if as_json:
            typer.echo(json.dumps(done.to_json(), indent=2))
            return
        typer.echo(
            f"Added {done.adapters} adapters with {done.versions} versions in {done.organisations} organisations, "
            f"{done.defaults} default pointers, {done.vocabulary} tasks and data sets.",
            err=True,
        )
        if done.known:
            typer.echo(f"{done.known} versions were here already.", err=True)
        for name in done.conflicts:
            typer.echo(f"Left alone, since it is here with other content: {name}", err=True)
        typer.echo(f"Repairs: {sum(done.repairs.values())} of {len(done.repairs)} kinds.", err=True)
        for kind, count in done.repairs.items():
            typer.echo(f"{count:6} {kind}", err=True)
        if report is not None:
            typer.echo(f"The report is in {report}.", err=True)

    @app.command("mirror")
    def mirror(
        sources: Annotated[
            list[str],
            typer.Argument(help="Folders with archives, address prefixes, or RECORDED-PREFIX=OTHER-PREFIX."),
        ],
        data: Data = None,
        database_url: DatabaseUrl = None,
        blob_store: BlobStore = None,
        namespace: Annotated[str | None, typer.Option(help="Only this publisher's.")] = None,
        models: Annotated[
            Path | None, typer.Option(help="Folder with a folder per base model: config.json tells the shape.")
        ] = None,
        converter: Annotated[
            str | None,
            typer.Option(
                help="Program that is run as PROGRAM ARCHIVE-FOLDER TARGET-FOLDER, maybe in a sandbox of yours.",
                show_default="adapterhub-core, installed beside the server",
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Write what was done as JSON.")] = False,
    ) -> None:
        """Bring bytes to imported versions. Every archive must have its recorded SHA-256; nothing else is kept.

        Addresses are only asked for where they begin with a prefix given here. Archives are converted to safetensors by
        adapterhub-core, in a process of its own, and checked like any upload.
        """
        from adapterhub.server.catalogue.mirroring import CONVERTER, check_converter, mirror as run

        command = shlex.split(converter) if converter else CONVERTER
        check_converter(command)
        stores = open_stores(data, database_url, blob_store)
        done = run(
            stores,
            sources,
            namespace=namespace,
            models=models,
            converter=command,
            tell=lambda text: typer.echo(text, err=True),
            actor="command line",
        )
        if as_json:
            typer.echo(json.dumps(done.to_json(), indent=2))
        typer.echo(
            f"{len(done.filled)} versions have their bytes now, {len(done.refused)} refused, {done.absent} not among the sources.",
            err=True,
        )
        if done.refused:
            raise typer.Exit(6)
