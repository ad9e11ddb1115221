"""`adapterhub resolve`, which scripts call again and again: plain forms of it run without building the tree of commands."""

from __future__ import annotations

import os
from collections.abc import Sequence

from adapterhub.client.cli.output import note, print_json

__all__ = ["parse", "resolve"]

#: option → (argument of `resolve`, whether a value follows)
_OPTIONS = {
    **dict.fromkeys(("--model", "-m"), ("model", True)),
    **dict.fromkeys(("--config", "-c"), ("config", True)),
    **dict.fromkeys(("--source", "-s"), ("source", True)),
    "--version": ("version", True),
    "--type": ("type", True),
    "--locked": ("locked", False),
    "--json": ("json", False),
}
_BEFORE = {"--quiet": "quiet", "-q": "quiet", "--no-color": "no_color", "--offline": "offline"}


def resolve(
    reference: str,
    *,
    model: str | None = None,
    config: str | None = None,
    version: str | None = None,
    type: str | None = None,
    source: str | None = None,
    locked: bool = False,
    json: bool = False,
) -> None:
    """Print the pinned reference on stdout, the reason on stderr."""
    from adapterhub.client.cli.config_option import parse_config_option
    from adapterhub.client.client import HubClient

    with HubClient(locked=locked) as client:
        found = client.resolve(
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
    print(found.reference)
    note(f"{found.full_id} for {found.model_name}: matched {found.tier}, decided by {found.decided_by}.")


def parse(arguments: Sequence[str]) -> tuple[dict[str, bool], dict[str, object]] | None:
    """The options before the command and the arguments of `resolve`, if this is a plain `[options] resolve REFERENCE
    [options]`. None for everything else (help, completion, mistakes), which the tree of commands knows better."""
    if "_ADAPTERHUB_COMPLETE" in os.environ or "resolve" not in arguments:
        return None
    at = list(arguments).index("resolve")
    if not all(word in _BEFORE for word in arguments[:at]):
        return None
    found: dict[str, object] = {}
    words = iter(arguments[at + 1 :])
    for word in words:
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            key, valued = _OPTIONS[name]
            if bool(equals) and not (valued and name.startswith("--")):
                return None
            given = value if equals else next(words, None) if valued else True
            if given is None or key in found or (isinstance(given, str) and given.startswith("-")):
                return None
            found[key] = given
        elif word.startswith("-") or not word or "reference" in found:
            return None
        else:
            found["reference"] = word
    if "reference" not in found:
        return None
    return {_BEFORE[word]: True for word in arguments[:at]}, found
