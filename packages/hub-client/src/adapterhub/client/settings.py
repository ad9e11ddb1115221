"""Which hubs there are, which namespace belongs to which hub, where the cache is: environment over `config.json`.

Everything is read when it is used, never at import, so a change of the environment counts from the next call on.

| variable | meaning |
|---|---|
| `ADAPTERHUB_HOME` | folder of `config.json` and the login file; default `~/.adapterhub` |
| `ADAPTERHUB_CACHE` | folder of the cache; default `$XDG_CACHE_HOME/adapterhub` or `~/.cache/adapterhub` |
| `ADAPTERHUB_SHARED_CACHE` | further cache folders that are only read, separated like `PATH` |
| `ADAPTERHUB_ENDPOINT` | address (or folder) of the default hub |
| `ADAPTERHUB_TOKEN` | token for the default hub, and for no other |
| `ADAPTERHUB_OFFLINE` | 1: nothing is asked over the network |
| `ADAPTERHUB_DISABLE_PROGRESS_BARS`, `ADAPTERHUB_DEBUG` | 1: no bars; tracebacks and a log of every request |
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.spec.errors import AdapterHubError, PolicyError

__all__ = ["DEFAULT_HUB", "Hub", "Settings", "edit_config", "is_loopback", "load_settings", "origin_of"]

#: name of the default hub in references (`ah::sst-2`) and in `source=`
DEFAULT_HUB = "ah"
#: names that never name a configured hub of our own kind
HUGGING_FACE = "hf"

#: what to do if the folder of the settings cannot be written
OTHER_HOME = "Set ADAPTERHUB_HOME to a folder of your own."

_TRUE = {"1", "on", "yes", "true"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z", re.ASCII)
_URL = re.compile(r"(https?)://([^/?#\s]+)(/[^?#\s]*)?\Z", re.ASCII | re.IGNORECASE)


class Hub(NamedTuple):
    """One place adapters come from.

    Attributes:
        name: what stands before `::` in a reference.
        url: `https://…`, `http://…`, or the absolute path of a folder that holds a static export.
        private: the names it holds are never asked elsewhere (informational: a reference only ever goes to one hub).
    """

    name: str
    url: str
    private: bool = False

    @property
    def is_folder(self) -> bool:
        """True for a static export in a local folder."""
        return "://" not in self.url

    @property
    def origin(self) -> str:
        """Scheme, host and port; the thing a token is bound to. The path for a folder."""
        return self.url if self.is_folder else origin_of(self.url)


class Settings(NamedTuple):
    """A snapshot of all settings; `load_settings` makes one."""

    home: Path
    cache_dir: Path
    shared_caches: tuple[Path, ...]
    default_hub: str
    hubs: Mapping[str, Hub]
    pins: Mapping[str, str]
    offline: bool
    progress: bool
    debug: bool
    token: str | None

    def hub(self, name: str | None = None) -> Hub:
        """The hub called `name`, or the default one.

        Raises:
            AdapterHubError: no such hub, or no default hub configured; the hint says how to add one.
        """
        wanted = (name or self.default_hub).lower()
        found = self.hubs.get(wanted)
        if found is not None:
            return found
        if wanted == self.default_hub:
            raise NoHubError(
                "No hub is configured.",
                hint="Set ADAPTERHUB_ENDPOINT to its address, or run: adapterhub hubs add NAME URL --default",
            )
        raise NoHubError(
            f"There is no hub called {wanted!r}.",
            hint=f"Configured: {', '.join(sorted(self.hubs)) or 'none'}. Add it with: adapterhub hubs add {wanted} URL",
            candidates=sorted(self.hubs),
        )

    def hub_for(self, hub: str | None, namespace: str | None) -> Hub:
        """The one hub a reference belongs to: named in it, else pinned by its namespace, else the default.

        Raises:
            PolicyError: the reference names another hub than the one its namespace is pinned to.
        """
        if hub is None:
            return self.hub(self.pins.get(fold_name(namespace)) if namespace else None)
        found = self.hub(hub)
        if namespace:
            self.check_pin(namespace, found)
        return found

    def check_pin(self, namespace: str, hub: Hub) -> None:
        """Refuse to take `namespace` from `hub` if it is pinned to another one.

        Raises:
            PolicyError: it is.
        """
        pinned = self.pins.get(fold_name(namespace))
        if pinned is not None and self.hub(pinned).url != hub.url:
            raise PolicyError(
                f"The namespace @{namespace} is pinned to the hub {pinned!r}, so it is not taken from {hub.name!r}.",
                hint=f"Ask for it as {pinned}::…, name another publisher, or run: adapterhub hubs unpin {namespace}",
            )

    def name_needed(self, hub: Hub, namespace: str) -> str | None:
        """The name of `hub` if a reference to `namespace` that does not name it would go elsewhere; None if it is not needed."""
        try:
            return None if self.hub_for(None, namespace).url == hub.url else hub.name
        except NoHubError:
            return hub.name


class NoHubError(AdapterHubError, LookupError):
    """No hub of that name is configured."""

    code = "NoHub"
    status = 400


def fold_name(name: str) -> str:
    """`name` as compared in pins: lower case, `-` `_` `.` alike."""
    return name.lower().replace("_", "-").replace(".", "-")


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings as they are now.

    Args:
        environ: instead of `os.environ`.

    Raises:
        AdapterHubError: `config.json` cannot be read, or an address makes no sense.
    """
    env = os.environ if environ is None else environ
    home = home_folder(env)
    config = read_config(home)
    hubs: dict[str, Hub] = {}
    for name, entry in _mapping(config.get("hubs"), "hubs", home).items():
        entry = {"url": entry} if isinstance(entry, str) else _mapping(entry, f"hubs.{name}", home)
        hubs[name.lower()] = Hub(name.lower(), normal_url(str(entry.get("url", ""))), bool(entry.get("private", False)))
    default = str(config.get("default_hub") or DEFAULT_HUB).lower()
    endpoint = env.get("ADAPTERHUB_ENDPOINT", "").strip()
    if endpoint:
        hubs[default] = Hub(default, normal_url(endpoint))
    if default in hubs:
        hubs.setdefault(DEFAULT_HUB, hubs[default])
    pins = {fold_name(space): str(hub).lower() for space, hub in _mapping(config.get("pins"), "pins", home).items()}
    cache = env.get("ADAPTERHUB_CACHE", "").strip()
    base = env.get("XDG_CACHE_HOME", "").strip()
    if cache:
        cache_dir = _folder(cache)
    elif env.get("ADAPTERHUB_HOME", "").strip():
        cache_dir = home / "cache"
    else:
        cache_dir = _folder(base or "~/.cache") / "adapterhub"
    shared = [part for part in env.get("ADAPTERHUB_SHARED_CACHE", "").split(os.pathsep) if part.strip()]
    shared += [str(part) for part in config.get("shared_caches") or ()]
    return Settings(
        home=home,
        cache_dir=cache_dir,
        shared_caches=tuple(_folder(part) for part in shared),
        default_hub=default,
        hubs=hubs,
        pins=pins,
        offline=flag(env, "ADAPTERHUB_OFFLINE"),
        progress=not flag(env, "ADAPTERHUB_DISABLE_PROGRESS_BARS"),
        debug=flag(env, "ADAPTERHUB_DEBUG"),
        token=env.get("ADAPTERHUB_TOKEN", "").strip() or None,
    )


def flag(env: Mapping[str, str], name: str) -> bool:
    """True for 1, on, yes, true in any case."""
    return env.get(name, "").strip().lower() in _TRUE


def home_folder(env: Mapping[str, str]) -> Path:
    """The folder of `config.json` and the login file."""
    return _folder(env.get("ADAPTERHUB_HOME", "").strip() or "~/.adapterhub")


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise AdapterHubError(
            f"{text} is nowhere: this user has no home folder.",
            hint="Set ADAPTERHUB_HOME to a folder for settings and cache.",
        ) from error


def normal_url(text: str) -> str:
    """An address without trailing slash, scheme and host in lower case; or the absolute path of a folder.

    Raises:
        AdapterHubError: neither.
    """
    text = text.strip()
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        if not text:
            raise NoHubError("The address of the hub is empty.", hint="Give https://… or the path of a folder.")
        return str(_folder(text))
    found = _URL.match(text)
    if found is None or "@" in found[2]:
        raise NoHubError(
            f"{text!r} is no address of a hub.",
            hint="It starts with https:// (or http://), names a host, and carries no user, query or fragment.",
        )
    return f"{found[1].lower()}://{found[2].lower()}{(found[3] or '').rstrip('/')}"


def origin_of(url: str) -> str:
    """`scheme://host:port` of an http(s) address, default ports written out, so that two spellings compare equal."""
    found = re.match(r"(https?)://([^/?#]*)", url, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{url!r} is no http address")
    scheme = found[1].lower()
    host = found[2].rpartition("@")[2].lower()
    if not re.search(r":\d+\Z", host):
        host = f"{host.rstrip(':')}:{443 if scheme == 'https' else 80}"
    return f"{scheme}://{host}"


def is_loopback(url: str) -> bool:
    """True when the address names this machine (`localhost`, 127.0.0.0/8, `::1`)."""
    host = origin_of(url).partition("://")[2].rpartition(":")[0].strip("[]")
    if host == "localhost" or host.endswith(".localhost") or host == "::1":
        return True
    return bool(re.fullmatch(r"127\.\d{1,3}\.\d{1,3}\.\d{1,3}", host))


def read_config(home: Path) -> dict[str, Any]:
    """`config.json` of `home`; empty when there is none."""
    path = home / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AdapterHubError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        config = json.loads(text)
    except ValueError as error:
        raise AdapterHubError(f"{path} is not JSON: {error}.", hint="Correct it or delete it.") from error
    return _mapping(config, "it", home)


def edit_config(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Read `config.json`, let `change` change it, and replace it atomically; what another process changes meanwhile stays."""
    from adapterhub.client.files import alone_in, storage_errors, write_atomically

    with alone_in(home):
        config = read_config(home)
        change(config)
        data = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
        with storage_errors(home, OTHER_HOME):
            home.mkdir(parents=True, exist_ok=True)
            write_atomically(home / "config.json", data, otherwise=OTHER_HOME)


def check_hub_name(name: str) -> str:
    """`name` in lower case, if it may name a hub.

    Raises:
        NoHubError: it does not follow the grammar of references, or is taken.
    """
    if not _NAME.match(name) or name.lower() in {HUGGING_FACE, "sha256"}:
        raise NoHubError(
            f"{name!r} cannot name a hub.", hint="Letters, digits, '.', '_', '-', '+'; not 'hf', not 'sha256'."
        )
    return name.lower()


def _mapping(value: Any, where: str, home: Path) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AdapterHubError(f"In {home / 'config.json'}, {where} has to be a JSON object.", hint="Correct the file.")
    return value
