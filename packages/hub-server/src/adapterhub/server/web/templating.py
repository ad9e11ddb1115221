"""Turns a template and values into a page; nothing here knows HTTP or the database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from adapterhub.server.__about__ import __version__
from adapterhub.server.web.markdown import external_url

STATIC_FOLDER = Path(__file__).parent / "static"


@dataclass(frozen=True, slots=True)
class Site:
    """What every page says about the hub it is on.

    Args:
        name: shown in the header and in titles.
        url: address of the hub as its users reach it, without a trailing slash; stands in sample code.
        root: path the hub is mounted under, without a trailing slash; empty at the top of a host.
        static: pages are written as files: nothing on them may need a server. Lists are whole, searching and filtering are
            left out, and the JSON twin of `/x` is the file `/x/index.json`.
    """

    name: str = "AdapterHub"
    url: str = "http://127.0.0.1:8000"
    root: str = ""
    static: bool = False


def render(template: str, site: Site, **values: Any) -> str:
    """The page `template` draws from `values`.

    Besides its own values a template sees `root`, `hub_name`, `hub_url`, `static(name)`, `section` (which entry of the
    navigation is current) `twin` (path of the JSON twin, or None) and
    `is_static`. `path` is the address of the page itself.
    """
    values.setdefault("section", "")
    twin, path = values.get("twin"), values.pop("path", None)
    values["twin"] = f"{path.rstrip('/')}/index.json" if site.static and twin and path is not None else twin
    return (
        _environment()
        .get_template(template)
        .render(
            root=site.root,
            hub_name=site.name,
            hub_url=site.url,
            server_version=__version__,
            is_static=site.static,
            static=lambda name: f"{site.root}/static/{name}?v={_fingerprints()[name]}",
            **values,
        )
    )


def filesize(size: int | None) -> str:
    """Bytes for people, in powers of 1000: `3.6 MB`."""
    if size is None:
        return "unknown"
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def number(value: float | int) -> str:
    """A number with thousands apart; integral floats lose their point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def metric(value: float | int | str) -> str:
    """A metric to at most four decimals."""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def short_digest(digest: str | None) -> str:
    """The first twelve digits of a digest; enough to compare by eye."""
    if not digest:
        return ""
    return digest.removeprefix("sha256:")[:12] + "…"


def breakable(text: str) -> Markup:
    """`text` with a place to break the line after each separator, so that long names do not widen the page."""
    out = str(escape(text))
    for separator in ("/", "_", "-"):
        out = out.replace(separator, f"{separator}<wbr>")
    return Markup(out)


def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("adapterhub.server.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        filesize=filesize,
        number=number,
        metric=metric,
        short_digest=short_digest,
        breakable=breakable,
        pretty_json=pretty_json,
        external=external_url,
        day=lambda moment: str(moment)[:10],
    )
    return environment


@lru_cache(maxsize=1)
def _fingerprints() -> dict[str, str]:
    """The first digits of each static file's digest: its address changes when it changes, so it may be cached for good."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in STATIC_FOLDER.iterdir()
        if path.is_file()
    }
