"""`adapterhub-server`: run a hub and look after it. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from obstore.exceptions import BaseError as BlobStoreError
from sqlalchemy.exc import DBAPIError

from adapterhub.server.__about__ import __version__
from adapterhub.server.catalogue.commands import add_commands
from adapterhub.server.settings import Settings, unknown_settings
from adapterhub.server.storage import Storage, open_storage
from adapterhub.spec.errors import AdapterHubError, InvalidConfigError, exit_code

__all__ = ["main"]

app = typer.Typer(
    name="adapterhub-server",
    help="Run a hub for adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
org = typer.Typer(help="Organisations: the namespaces adapters are published in.", no_args_is_help=True)
token = typer.Typer(help="Access tokens.", no_args_is_help=True)
app.add_typer(org, name="org")
app.add_typer(token, name="token")

Data = Annotated[
    Path | None, typer.Option(help="The hub's folder.", envvar="ADAPTERHUB_SERVER_DATA", show_default="./hub-data")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME.",
        envvar="ADAPTERHUB_SERVER_DATABASE_URL",
        show_default="hub.sqlite in the folder",
    ),
]
BlobStore = Annotated[
    str | None,
    typer.Option(
        help="A folder or s3://BUCKET/PREFIX.",
        envvar="ADAPTERHUB_SERVER_BLOB_STORE",
        show_default="blobs in the folder",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


@app.callback()
def _options() -> None:
    """Run a hub for adapters, and look after it."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="ADAPTERHUB_SERVER_HOST")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535, envvar="ADAPTERHUB_SERVER_PORT"),
    ] = 8080,
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=256, envvar="ADAPTERHUB_SERVER_WORKERS")] = 1,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    public_url: Annotated[
        str | None, typer.Option(help="The address users see.", envvar="ADAPTERHUB_SERVER_PUBLIC_URL")
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(help="A hub to pull from what this one does not have.", envvar="ADAPTERHUB_SERVER_UPSTREAM"),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", envvar="ADAPTERHUB_SERVER_LOG_LEVEL")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json or text.", envvar="ADAPTERHUB_SERVER_LOG_FORMAT")] = None,
) -> None:
    """Serve the hub until interrupted. Brings the schema up to date first."""
    from adapterhub.server.serving import run

    settings = _settings(
        data=data,
        database_url=database_url,
        blob_store=blob_store,
        public_url=public_url,
        upstream=upstream,
        log_level=log_level,
        log_format=log_format,
    )
    run(settings, host=host, port=port, workers=workers)


@app.command()
def migrate(data: Data = None, database_url: DatabaseUrl = None, blob_store: BlobStore = None) -> None:
    """Bring the database schema up to date (serve does so by itself)."""
    from adapterhub.server.storage.database import open_database
    from adapterhub.server.storage.migrate import HEAD, bring_up_to_date

    settings = _settings(data=data, database_url=database_url, blob_store=blob_store)
    database = open_database(settings, migrate=False, check=False)
    before = bring_up_to_date(database)
    _say(f"The schema is {HEAD}" + ("." if before == HEAD else f" (was {before or 'empty'})."))


@app.command()
def backup(folder: Path, data: Data = None, database_url: DatabaseUrl = None, blob_store: BlobStore = None) -> None:
    """Write everything into a folder while the hub runs. The next backup there copies only new blobs."""
    from adapterhub.server.operations.backup import backup as write

    done = write(_open(data, database_url, blob_store), folder, _say)
    _say(f"Backup of serial {done['serial']} is in {folder}.")


@app.command()
def restore(folder: Path, data: Data = None, database_url: DatabaseUrl = None, blob_store: BlobStore = None) -> None:
    """Fill an empty hub from a backup. The stores may be of another kind than those the backup was taken from."""
    from adapterhub.server.operations.backup import restore as read

    done = read(_open(data, database_url, blob_store), folder, _say)
    _say(f"Restored serial {done['serial']}.")


@app.command()
def verify(
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    fast: Annotated[bool, typer.Option("--fast", help="Compare sizes instead of hashing every blob.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Compute search and counters anew.")] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete blobs no version uses, and what broken uploads left, older than two days."
        ),
    ] = False,
    pulled_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --prune: delete also what was pulled from upstream more than so many days ago.",
            show_default="keep",
        ),
    ] = None,
    drop_corrupt: Annotated[
        bool, typer.Option("--drop-corrupt", help="Delete broken bytes, so that they can be uploaded again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hash every blob, follow every reference, check the audit log. Exit code 6 if anything is wrong."""
    from adapterhub.server.operations import verification

    if pulled_days is not None and not prune:
        raise typer.BadParameter("--pulled-days goes with --prune")
    storage = _open(data, database_url, blob_store)
    report = verification.verify(storage, hash_blobs=not fast, rebuild=rebuild, drop_corrupt=drop_corrupt, tell=_say)
    if prune:
        report.removed += verification.prune(storage)
        if pulled_days is not None:
            report.removed += verification.prune_pulled(storage, days=pulled_days)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        for problem in report.problems:
            typer.echo(problem)
        _say(
            f"{report.versions} versions, {report.blobs} blobs: {len(report.problems) or 'no'} problems; "
            f"{len(report.unused)} blobs unused, {report.removed} removed."
        )
    if report.problems:
        raise typer.Exit(6)


@app.command("export-static")
def export_static(
    folder: Path,
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    url: Annotated[str | None, typer.Option(help="Where the folder will be served, for links and sample code.")] = None,
    pages: Annotated[bool, typer.Option(help="Write the pages as well.")] = True,
) -> None:
    """Write a folder any web server can serve and every client can read. Run it again to bring it up to date."""
    from adapterhub.server.operations.export import export_static as write

    settings = _settings(data=data, database_url=database_url, blob_store=blob_store, public_url=url)
    done = write(open_storage(settings), settings, folder, pages=pages, tell=_say)
    _say(f"{done.written} files written, {done.removed} removed, {done.unchanged} unchanged in {folder}.")


@org.command("create")
def org_create(
    name: str,
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    display_name: Annotated[str, typer.Option(help="The name in full.")] = "",
    private: Annotated[bool, typer.Option(help="Visible to its own tokens only.")] = False,
) -> None:
    """Make an organisation."""
    from adapterhub.server.accounts.organisations import create_organisation
    from adapterhub.server.moderation.audit import record

    with _open(data, database_url, blob_store).database.write() as connection:
        organisation_id = create_organisation(
            connection, name, display_name=display_name, private=private, allow_reserved=True
        )
        record(
            connection,
            "command line",
            "organisation.create",
            f"@{name}",
            organisation_id=organisation_id,
            private=private,
        )
    _say(f"Made the organisation {name}. Next: adapterhub-server token create --org {name}")


@org.command("list")
def org_list(
    data: Data = None, database_url: DatabaseUrl = None, blob_store: BlobStore = None, as_json: AsJson = False
) -> None:
    """List the organisations."""
    from adapterhub.server.accounts.organisations import list_organisations

    with _open(data, database_url, blob_store).database.read() as connection:
        rows = list_organisations(connection)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(f"{row['name']}\t{row['adapters']} adapters{' (private)' if row['private'] else ''}")


@token.command("create")
def token_create(
    org: Annotated[str | None, typer.Option(help="Organisation the token acts for.")] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, publish, yank, review, admin; may be repeated.", show_default="read publish yank"),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Such as 90d, 12h, 15m.", show_default="never")] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    adapters: Annotated[str, typer.Option(help="Limit it to adapters of this name; * stands for anything.")] = "",
    hub: Annotated[
        bool, typer.Option("--hub", help="For the whole hub instead of an organisation (operators).")
    ] = False,
) -> None:
    """Make a token and print it, alone, on stdout. It is shown this once."""
    from adapterhub.server.accounts.organisations import find_organisation
    from adapterhub.server.accounts.tokens import create_token, parse_duration
    from adapterhub.server.moderation.audit import record
    from adapterhub.spec.reference import fold

    if hub == (org is not None):
        raise InvalidConfigError(
            "It is not clear whose token this is.", hint="Give --org NAME, or --hub for operators."
        )
    lifetime = parse_duration(expires) if expires else None
    scopes = scope or (["admin"] if hub else ["read", "publish", "yank"])
    with _open(data, database_url, blob_store).database.write() as connection:
        organisation_id = int(find_organisation(connection, org).id) if org else None
        made = create_token(
            connection,
            organisation_id=organisation_id,
            scopes=scopes,
            expires=lifetime,
            name=name,
            adapters=fold(adapters),
        )
        record(
            connection,
            "command line",
            "token.create",
            f"token {made.id}",
            {"scopes": list(made.scopes), "organisation": org},
            organisation_id=organisation_id,
            private=True,
        )
    typer.echo(made.secret)


@token.command("list")
def token_list(
    org: Annotated[str | None, typer.Option(help="Of one organisation only.")] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their secrets."""
    from adapterhub.server.accounts.organisations import find_organisation
    from adapterhub.server.accounts.tokens import list_tokens

    with _open(data, database_url, blob_store).database.read() as connection:
        rows = list_tokens(connection, int(find_organisation(connection, org).id) if org else None)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "active" if row["active"] else "revoked" if row["revoked_at"] else "expired"
        until = f" until {row['expires_at'][:10]}" if row["expires_at"] else ""
        typer.echo(
            f"{row['id']}\t{row['start']}…\t{row['organisation'] or 'hub'}\t{' '.join(row['scopes'])}\t{state}{until}\t{row['name']}"
        )


@token.command("revoke")
def token_revoke(
    token_id: Annotated[int, typer.Argument(help="The number shown by `token list`.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
) -> None:
    """Make a token useless from now on."""
    from adapterhub.server.accounts.tokens import revoke_token
    from adapterhub.server.moderation.audit import record

    with _open(data, database_url, blob_store).database.change() as connection:
        revoke_token(connection, token_id)
        record(connection, "command line", "token.revoke", f"token {token_id}", private=True)
    _say(f"Token {token_id} is revoked.")


@token.command("approve")
def token_approve(
    code: Annotated[str, typer.Argument(help="The code `adapterhub login --device` shows, such as WDJB-MJHT.")],
    org: Annotated[str, typer.Option(help="Organisation the token will act for.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
    blob_store: BlobStore = None,
    account: Annotated[str, typer.Option(help="Member the token will belong to.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="Of those asked for.", show_default="all of them")] = None,
    expires: Annotated[str, typer.Option(help="Such as 90d, 12h, 15m.")] = "90d",
) -> None:
    """Approve a login by device code. The program that waits for it gets a token of its own."""
    from adapterhub.server.accounts.device import approve
    from adapterhub.server.accounts.tokens import parse_duration

    lifetime = parse_duration(expires)
    with _open(data, database_url, blob_store).database.write() as connection:
        done = approve(connection, code, org, scopes=scope or (), account=account, lifetime=lifetime)
    _say(
        f"Approved {done.user_code} for {org}: {done.client or 'a program'} at {done.address or 'an unknown address'}."
    )


def _settings(**given: Any) -> Settings:
    for name in unknown_settings(os.environ):
        _say(f"Warning: {name} is no setting of this release; it changes nothing.")
    try:
        return Settings.read(**given)
    except ValueError as error:
        raise InvalidConfigError(str(error)) from None


def _open(data: Path | None, database_url: str | None, blob_store: str | None) -> Storage:
    return open_storage(_settings(data=data, database_url=database_url, blob_store=blob_store))


def _say(text: str) -> None:
    typer.echo(text, err=True)


add_commands(app, _open)


def main() -> None:
    """Entry point: every known failure is one line on stderr and an exit code, never a traceback."""
    try:
        app()
    except AdapterHubError as error:
        _say(f"Error: {error}")
        sys.exit(exit_code(error))
    except (DBAPIError, BlobStoreError) as error:
        reason = next(iter(str(getattr(error, "orig", error)).strip().splitlines()), type(error).__name__)
        _say(f"Error: {'database' if isinstance(error, DBAPIError) else 'blob store'}: {reason}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
