"""Commands about who you are: login, logout, whoami."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.client.cli.options import Json, Source
from adapterhub.client.cli.output import note, print_fields, print_json

if TYPE_CHECKING:
    from adapterhub.client.settings import Hub, Settings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(short_help="Keep a token for a hub.", epilog="Example: adapterhub login   (asks for the token)")(login)
    app.command()(logout)
    app.command()(whoami)


def login(
    source: Source = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Address of the hub; becomes the default one if there is none yet.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="The token; asked for, or read from stdin, without.")
    ] = None,
    device: Annotated[
        bool, typer.Option("--device", help="Show a code to approve in a browser, instead of asking for a token.")
    ] = False,
    scope: Annotated[
        list[str] | None, typer.Option(help="With --device: what the token shall be for.", show_default="hub's choice")
    ] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Ask the hub whether it is good.")] = True,
) -> None:
    """Keep a token for a hub: in a file only you can read, or in the keyring with ADAPTERHUB_KEYRING=1."""
    from adapterhub.client.credentials import check_token, remember_token
    from adapterhub.client.identity import who_is
    from adapterhub.client.settings import DEFAULT_HUB, Hub, edit_config, load_settings, normal_url

    settings = load_settings()
    if endpoint is not None:
        url = normal_url(endpoint)
        known = next((hub for hub in settings.hubs.values() if hub.url == url), None)
        hub = known or Hub(DEFAULT_HUB, url)
        if known is None and settings.default_hub in settings.hubs:
            note(
                f"Note: the default hub stays {settings.hub().url}; to use this one by name: adapterhub hubs add NAME {url}"
            )
    else:
        hub = settings.hub(source)
    if device and token is not None:
        raise typer.BadParameter("give either --token or --device")
    if token is None and not device:
        if sys.stdin.isatty():
            import getpass

            token = getpass.getpass(f"Token for {hub.url} (nothing: approve a code in a browser): ")
            device = not token.strip()
        else:
            token = sys.stdin.readline()
    if device:
        token = _by_code(settings, hub, scope or ())
    assert token is not None
    token = check_token(token.strip())
    about = who_is(settings, hub, token=token) if check and not settings.offline else {}
    place = remember_token(settings, hub, token)
    if endpoint is not None and settings.default_hub not in settings.hubs:
        edit_config(
            settings.home,
            lambda config: config.setdefault("hubs", {}).setdefault(settings.default_hub, {"url": hub.url}),
        )
    organisation = about.get("organisation") or about.get("organization") or about.get("namespace")
    note(f"Logged in to {hub.url}" + (f" as {organisation}" if organisation else "") + f"; the token is in {place}.")
    if settings.token:
        note("Note: ADAPTERHUB_TOKEN is set and goes before it.")


def _by_code(settings: Settings, hub: Hub, scopes: Iterable[str]) -> str:
    from adapterhub.client.device import begin_login

    waiting = begin_login(settings, hub, scopes)
    note(f"Open {waiting.page_with_code} and approve the code {waiting.user_code}.")
    note(f"Waiting for at most {waiting.expires_in / 60:.0f} minutes (Ctrl-C gives up) ...")
    return waiting.wait()


def logout(source: Source = None) -> None:
    """Forget the token for a hub."""
    from adapterhub.client.credentials import forget_token
    from adapterhub.client.settings import load_settings

    settings = load_settings()
    hub = settings.hub(source)
    note(f"Logged out of {hub.url}." if forget_token(settings, hub) else f"There was no token for {hub.url}.")
    if settings.token:
        note("Note: ADAPTERHUB_TOKEN is still set.")


def whoami(source: Source = None, json: Json = False) -> None:
    """Show whose token is in use and what it may do."""
    from adapterhub.client.credentials import token_for
    from adapterhub.client.identity import who_is
    from adapterhub.client.settings import load_settings
    from adapterhub.spec.errors import AuthenticationError

    settings = load_settings()
    hub = settings.hub(source)
    found = token_for(settings, hub.origin)
    if found is None:
        raise AuthenticationError(
            f"Not logged in to {hub.url}.", hint="Run: adapterhub login, or set ADAPTERHUB_TOKEN."
        )
    about = {"hub": hub.url, **who_is(settings, hub, token=found[0]), "token_from": found[1]}
    if json:
        print_json(about)
    else:
        print_fields(
            {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in about.items()}
        )
