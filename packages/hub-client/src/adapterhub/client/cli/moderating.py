"""Commands about the versions of others: review (ls, pull, approve, refuse) and report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.client.cli.options import Json, Source
from adapterhub.client.cli.output import note, print_json, print_table, readable_bytes

if TYPE_CHECKING:
    from adapterhub.client.client import HubClient
    from adapterhub.client.settings import Hub
    from adapterhub.spec.reference import AdapterReference

__all__ = ["register"]

Submission = Annotated[str, typer.Argument(help="@namespace/name:version.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    review = typer.Typer(help="Look at submissions and decide (organisations that want review).", no_args_is_help=True)
    review.command("ls", epilog="Example: adapterhub review ls acme")(waiting)
    review.command("pull", epilog="Example: adapterhub review pull @acme/bert-sst-2:1.0 --to look")(pull)
    review.command("approve", epilog="Example: adapterhub review approve @acme/bert-sst-2:1.0")(approve)
    review.command("refuse", epilog="Example: adapterhub review refuse @acme/bert-sst-2:1.0 --reason 'no licence'")(
        refuse
    )
    app.add_typer(review, name="review")
    app.command(
        short_help="Tell that something is wrong with a version.",
        epilog="Example: adapterhub report @acme/bert-sst-2:1.0 --kind broken 'Loads, but answers noise.'",
    )(report)


def waiting(
    organisation: Annotated[str, typer.Argument(help="Whose submissions.")], source: Source = None, json: Json = False
) -> None:
    """List the submissions that wait for a decision, oldest first."""
    from adapterhub.client.client import HubClient
    from adapterhub.client.moderation import submissions

    with HubClient() as client:
        found = submissions(client.transport(client.settings.hub(source)), organisation.removeprefix("@"))
    if json:
        print_json(found)
        return
    rows = [
        [item.get(key) for key in ("reference", "task", "subtask", "model_name")]
        + [readable_bytes(int(item.get("size") or 0)), str(item.get("created_at") or "")[:16]]
        for item in found
    ]
    print_table(("submission", "task", "subtask", "model", "size", "since"), rows)
    if not found:
        note("Nothing waits.")


def pull(
    submission: Submission,
    to: Annotated[Path | None, typer.Option("--to", help="A new folder.", show_default="the adapter's name")] = None,
    source: Source = None,
    json: Json = False,
) -> None:
    """Bring a submission's files here to look at them. Every byte is hashed."""
    from adapterhub.client.moderation import fetch_submission
    from adapterhub.client.sources.hub import HubSource

    with _asked(submission, source) as (client, hub, reference):
        folder = to or Path(reference.name or "submission")
        here = HubSource(hub, client.transport(hub))
        manifest = fetch_submission(here, reference, folder, show=client.settings.progress)
    if json:
        print_json({"path": str(folder), "manifest": manifest})
    else:
        print(folder)


def approve(submission: Submission, source: Source = None, json: Json = False) -> None:
    """Publish a submission. It needs another person than the one who submitted it."""
    _decide(submission, source, json, yes=True)


def refuse(
    submission: Submission,
    reason: Annotated[str, typer.Option("--reason", help="What the author will read.")],
    source: Source = None,
    json: Json = False,
) -> None:
    """Refuse a submission, with a reason."""
    _decide(submission, source, json, yes=False, reason=reason)


def report(
    version: Annotated[str, typer.Argument(help="@namespace/name:version.")],
    text: Annotated[str, typer.Argument(help="What you saw.")],
    kind: Annotated[str, typer.Option("--kind", help="broken, unsafe, rights, private, spam or other.")] = "other",
    source: Source = None,
    json: Json = False,
) -> None:
    """Tell the publisher of a version and the operators of the hub that something is wrong with it."""
    from adapterhub.client.moderation import report as send

    with _asked(version, source) as (client, hub, reference):
        told = send(client.transport(hub), reference, kind, text)
    if json:
        print_json(told)
    else:
        note(f"Reported {version}; the report is number {told.get('id', '?')}.")


def _decide(submission: str, source: str | None, json: bool, *, yes: bool, reason: str = "") -> None:
    from adapterhub.client.moderation import decide

    with _asked(submission, source) as (client, hub, reference):
        told = decide(client.transport(hub), reference, approve=yes, reason=reason)
    if json:
        print_json(told)
    else:
        note(f"{'Published' if yes else 'Refused'}: {submission}")


@contextmanager
def _asked(text: str, source: str | None) -> Iterator[tuple[HubClient, Hub, AdapterReference]]:
    """A client, the hub a reference belongs to, and the reference taken apart."""
    from adapterhub.client.client import HubClient
    from adapterhub.spec.reference import parse_reference

    reference = parse_reference(text)
    with HubClient() as client:
        yield client, client.hub_of(reference, source), reference
