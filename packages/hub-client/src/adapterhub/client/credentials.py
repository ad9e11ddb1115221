"""Tokens: where they are kept, and which address may see them.

A token belongs to one origin (scheme, host, port). `ADAPTERHUB_TOKEN` belongs to the default hub. `adapterhub login` keeps
tokens in `$ADAPTERHUB_HOME/tokens.json`, readable by its owner only, or in the system's keyring when the package
`keyring` is installed and `ADAPTERHUB_KEYRING=1` is set.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from adapterhub.client.files import alone_in, storage_errors, write_atomically
from adapterhub.client.settings import OTHER_HOME, Hub, Settings, flag, is_loopback, origin_of
from adapterhub.spec.errors import AdapterHubError, AuthenticationError

__all__ = ["check_token", "forget_token", "redact", "remember_token", "token_for"]

_SERVICE = "adapterhub"
_SHAPE = re.compile(r"[\x21-\x7e]{8,512}\Z", re.ASCII)


def token_for(settings: Settings, origin: str) -> tuple[str, str] | None:
    """The token for `origin` and where it came from (`ADAPTERHUB_TOKEN` or the login file); None when there is none.

    Raises:
        AuthenticationError: there is one, but `origin` is plain http on another machine, where anyone could read it.
    """
    found = _look_up(settings, origin)
    if found is not None and origin.startswith("http://") and not is_loopback(origin):
        raise AuthenticationError(
            f"The token for {origin} is not sent: the address is plain http, so anyone on the way could read it.",
            hint="Use the hub's https address. (Plain http is fine on this machine itself.)",
        )
    return found


def _look_up(settings: Settings, origin: str) -> tuple[str, str] | None:
    if settings.token:
        default = settings.hubs.get(settings.default_hub)
        if default is not None and not default.is_folder and default.origin == origin:
            return check_token(settings.token), "ADAPTERHUB_TOKEN"
    if _uses_keyring():
        import keyring

        kept = keyring.get_password(_SERVICE, origin)
        if kept:
            return check_token(kept), "the keyring"
    entry = _read(settings.home).get(origin)
    if isinstance(entry, dict) and isinstance(entry.get("token"), str):
        return check_token(entry["token"]), str(_path(settings.home))
    return None


def check_token(token: str) -> str:
    """`token`, if it can stand in a header.

    Raises:
        AuthenticationError: blanks, line ends or other characters no token has (the token itself is not shown).
    """
    if not _SHAPE.match(token):
        raise AuthenticationError(
            "That is no token: a token is 8 to 512 visible ASCII characters without blanks.",
            hint="Copy it again from where it was made; it starts with ahub_.",
        )
    return token


def remember_token(settings: Settings, hub: Hub, token: str, **details: Any) -> str:
    """Keep `token` for the origin of `hub`. Returns where it is kept."""
    check_token(token)
    if hub.is_folder:
        raise AuthenticationError(f"The hub {hub.name!r} is a folder and needs no token.")
    origin = origin_of(hub.url)
    if _uses_keyring():
        import keyring

        keyring.set_password(_SERVICE, origin, token)
        return "the keyring"
    with alone_in(settings.home):
        kept = _read(settings.home)
        kept[origin] = {**details, "token": token}
        _write(settings.home, kept)
    return str(_path(settings.home))


def forget_token(settings: Settings, hub: Hub) -> bool:
    """Forget the token of `hub`. True if there was one."""
    origin = hub.origin
    gone = False
    if _uses_keyring():
        import keyring

        if keyring.get_password(_SERVICE, origin):
            keyring.delete_password(_SERVICE, origin)
            gone = True
    if not _read(settings.home):
        return gone
    with alone_in(settings.home):
        kept = _read(settings.home)
        if kept.pop(origin, None) is not None:
            _write(settings.home, kept)
            gone = True
    return gone


def redact(text: str) -> str:
    """`text` with anything that looks like a token blacked out."""
    return re.sub(r"(ahub_|hf_|Bearer\s+)[A-Za-z0-9._~+/=-]+", r"\1***", text)


def _uses_keyring() -> bool:
    return flag(os.environ, "ADAPTERHUB_KEYRING")


def _path(home: Path) -> Path:
    return home / "tokens.json"


def _read(home: Path) -> dict[str, Any]:
    path = _path(home)
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise AdapterHubError(f"{path} is not JSON.", hint="Delete it and log in again: adapterhub login") from error
    except OSError as error:
        raise AdapterHubError(f"Cannot read {path}: {error.strerror}.", hint="Check who owns it.") from error
    return kept if isinstance(kept, dict) else {}


def _write(home: Path, kept: dict[str, Any]) -> None:
    data = (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode()
    with storage_errors(home, OTHER_HOME):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(_path(home), data, mode=0o600, otherwise=OTHER_HOME)
