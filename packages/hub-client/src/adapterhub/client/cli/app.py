"""The tree of commands, and those that other installed packages add to it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from functools import cache
from typing import Annotated, Any

import typer

from adapterhub.client.cli import account, caching, configuring, finding, moderating, moving
from adapterhub.client.cli.output import apply_options

__all__ = ["app", "build"]

#: name of the entry-point group by which other packages add commands
COMMANDS_GROUP = "adapterhub.commands"

app = typer.Typer(
    name="adapterhub",
    help="Find, download, verify and publish adapters.",
    epilog="""\b
    Examples:
      adapterhub search sentiment --model bert-base-uncased
      adapterhub pull sentiment/sst-2@ukp --model bert-base-uncased
      adapterhub push out/sst-2 sentiment/sst-2@me --version 1.0
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the data: no remarks, no bars.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours (also: NO_COLOR=1).")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nothing over the network.")] = False,
) -> None:
    """Options before the command."""
    if version:
        from adapterhub.client.__about__ import __version__

        print(f"adapterhub-client {__version__}")
        raise typer.Exit
    apply_options(quiet=quiet, no_color=no_color, offline=offline)


for module in (finding, moving, moderating, account, caching, configuring):
    module.register(app)


def build(arguments: list[str]) -> Callable[..., Any]:
    """The whole command. Commands of other packages are only looked for when `arguments` need them: for the help page,
    for completion, and for names that are not ours."""
    command: Any = copy(_ours())
    command.commands = dict(command.commands)
    name = next((word for word in arguments if not word.startswith("-")), None)
    if name is None or name not in command.commands:
        _add_foreign(command, name)
    found: Callable[..., Any] = command
    return found


@cache
def _ours() -> Any:
    return typer.main.get_command(app)


def _add_foreign(command: Any, wanted: str | None) -> None:
    from importlib.metadata import entry_points

    for point in entry_points(group=COMMANDS_GROUP):
        try:
            found = point.load()
        except Exception as error:  # noqa: BLE001 - a broken neighbour must not take our commands away
            print(f"Note: the commands of {point.value} cannot be loaded: {error}", file=sys.stderr)
            continue
        for name, other in _commands_of(point.name, found).items():
            command.commands.setdefault(name, other)


def _commands_of(name: str, found: Any) -> dict[str, Any]:
    """Commands out of what an entry point gives: a typer app, or a mapping of names to functions `f(argv) -> exit code`
    (whose first docstring line is the help), or such a function, called what the entry point is called."""
    if isinstance(found, typer.Typer):
        group: Any = typer.main.get_command(found)
        return dict(group.commands) if hasattr(group, "commands") else {group.name or name: group}
    functions = found if isinstance(found, dict) else getattr(found, "commands", None)
    if functions is None and callable(found):
        functions = {name: found}
    return {key: _wrap(key, function) for key, function in (functions or {}).items() if callable(function)}


def _wrap(name: str, function: Callable[[list[str]], int | None]) -> Any:
    holder = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @holder.command(
        name=name,
        help=(function.__doc__ or "").strip().partition("\n")[0] or None,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
    )
    def command(context: typer.Context) -> None:
        raise typer.Exit(function(list(context.args)) or 0)

    return typer.main.get_command(holder)
