"""Commands about hubs and settings: hubs, env, version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from adapterhub.client.cli.options import Json
from adapterhub.client.cli.output import note, print_fields, print_json, print_table

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    hubs = typer.Typer(help="Hubs by name, and namespaces pinned to them.", no_args_is_help=True, rich_markup_mode=None)
    hubs.command("ls")(ls)
    hubs.command("add", epilog="Example: adapterhub hubs add lab https://hub.lab.example --private")(add)
    hubs.command("rm")(rm)
    hubs.command("default")(default)
    hubs.command("pin", epilog="Example: adapterhub hubs pin our-team lab   (@our-team/… only ever comes from lab)")(
        pin
    )
    hubs.command("unpin")(unpin)
    app.add_typer(hubs, name="hubs")
    app.command(short_help="Show the settings in effect.")(env)
    app.command()(version)


def ls(json: Json = False) -> None:
    """List hubs and pins."""
    from adapterhub.client.settings import load_settings

    settings = load_settings()
    pins: dict[str, list[str]] = {}
    for space, name in settings.pins.items():
        pins.setdefault(name, []).append(space)
    hubs = [hub for name, hub in sorted(settings.hubs.items()) if name == hub.name]
    if json:
        print_json(
            [
                {**hub._asdict(), "default": hub.name == settings.default_hub, "pinned": pins.get(hub.name, [])}
                for hub in hubs
            ]
        )
        return
    print_table(
        ("hub", "address", "", "pinned"),
        [
            (
                hub.name,
                hub.url,
                " ".join(
                    word for word, on in (("default", hub.name == settings.default_hub), ("private", hub.private)) if on
                ),
                ", ".join(f"@{space}" for space in pins.get(hub.name, [])),
            )
            for hub in hubs
        ],
    )
    if not hubs:
        note("No hub is configured. Set ADAPTERHUB_ENDPOINT, or: adapterhub hubs add NAME URL --default")


def add(
    name: Annotated[str, typer.Argument(help="What stands before :: in references.")],
    url: Annotated[str, typer.Argument(help="https://… or the folder of a static export.")],
    private: Annotated[bool, typer.Option("--private", help="Mark it as private.")] = False,
    make_default: Annotated[bool, typer.Option("--default", help="Make it the default hub.")] = False,
) -> None:
    """Add a hub, or change one."""
    from adapterhub.client.settings import check_hub_name, normal_url

    key, address = check_hub_name(name), normal_url(url)

    def change(config: dict[str, object]) -> None:
        _section(config, "hubs")[key] = {"url": address, **({"private": True} if private else {})}
        if make_default:
            config["default_hub"] = key

    _edit(change)
    note(f"{key} is {address}" + (", the default." if make_default else "."))


def rm(name: Annotated[str, typer.Argument(help="A hub's name.")]) -> None:
    """Forget a hub and its pins. Its token stays until `adapterhub logout`."""

    def change(config: dict[str, object]) -> None:
        _known(config, name)
        del _section(config, "hubs")[name.lower()]
        pins = _section(config, "pins")
        for space in [space for space, hub in pins.items() if hub == name.lower()]:
            del pins[space]
        if config.get("default_hub") == name.lower():
            del config["default_hub"]

    _edit(change)
    note(f"Forgot {name}.")


def default(name: Annotated[str, typer.Argument(help="A hub's name.")]) -> None:
    """Make a hub the one that references without `hub::` go to."""

    def change(config: dict[str, object]) -> None:
        _known(config, name)
        config["default_hub"] = name.lower()

    _edit(change)
    note(f"{name} is the default.")


def pin(
    namespace: Annotated[str, typer.Argument(help="A publisher's name.")],
    hub: Annotated[str, typer.Argument(help="A hub's name.")],
) -> None:
    """Take everything of a namespace from one hub, and from no other."""
    from adapterhub.client.settings import fold_name

    def change(config: dict[str, object]) -> None:
        _known(config, hub)
        _section(config, "pins")[fold_name(namespace.lstrip("@"))] = hub.lower()

    _edit(change)
    note(f"@{namespace.lstrip('@')} only comes from {hub}.")


def unpin(namespace: Annotated[str, typer.Argument(help="A publisher's name.")]) -> None:
    """Undo `hubs pin`."""
    from adapterhub.client.settings import fold_name
    from adapterhub.spec.errors import AdapterNotFoundError

    def change(config: dict[str, object]) -> None:
        if _section(config, "pins").pop(fold_name(namespace.lstrip("@")), None) is None:
            raise AdapterNotFoundError(f"@{namespace.lstrip('@')} is not pinned.", hint="See: adapterhub hubs ls")

    _edit(change)
    note(f"@{namespace.lstrip('@')} is no longer pinned.")


def env(json: Json = False) -> None:
    """Show the settings in effect and where they come from; tokens are not shown."""
    import os
    import platform
    import sys

    from adapterhub.client.__about__ import __version__
    from adapterhub.client.credentials import token_for
    from adapterhub.client.settings import load_settings
    from adapterhub.spec.errors import AdapterHubError

    settings = load_settings()
    hub = settings.hubs.get(settings.default_hub)
    try:
        token = token_for(settings, hub.origin) if hub is not None and not hub.is_folder else None
        kept = f"from {token[1]}" if token else "none"
    except AdapterHubError as error:
        kept = error.message
    shown = {
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "home": str(settings.home),
        "cache": str(settings.cache_dir),
        "shared_caches": [str(path) for path in settings.shared_caches],
        "default_hub": settings.default_hub,
        "endpoint": hub.url if hub is not None else None,
        "token": kept,
        "offline": settings.offline,
        "progress": settings.progress,
        "environment": sorted(name for name in os.environ if name.startswith("ADAPTERHUB_")),
    }
    if json:
        print_json(shown)
    else:
        print_fields({key: ", ".join(value) if isinstance(value, list) else value for key, value in shown.items()})


def version(json: Json = False) -> None:
    """Print the versions of the installed AdapterHub packages."""
    from importlib.metadata import PackageNotFoundError, version as installed

    found = {}
    for name in ("adapterhub-client", "adapterhub-spec", "adapterhub-core", "adapterhub-server"):
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            continue
    if json:
        print_json(found)
    else:
        for name, number in found.items():
            print(f"{name} {number}")


def _edit(change: Callable[[dict[str, object]], None]) -> None:
    from adapterhub.client.settings import edit_config, load_settings

    edit_config(load_settings().home, change)


def _section(config: dict[str, object], name: str) -> dict[str, object]:
    found = config.setdefault(name, {})
    assert isinstance(found, dict)
    return found


def _known(config: dict[str, object], name: str) -> None:
    from adapterhub.client.settings import NoHubError

    if name.lower() not in _section(config, "hubs"):
        known = ", ".join(sorted(_section(config, "hubs"))) or "none"
        raise NoHubError(f"There is no hub called {name!r} in config.json.", hint=f"Configured: {known}.")
