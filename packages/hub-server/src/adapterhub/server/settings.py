"""What an operator may set, read from arguments and from `ADAPTERHUB_SERVER_*`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["PREFIX", "Settings", "unknown_settings"]

PREFIX = "ADAPTERHUB_SERVER_"

MIB = 1024 * 1024

_NEVER_ZERO = (
    "max_file_bytes",
    "max_request_bytes",
    "max_validate_bytes",
    "upload_hours",
    "header_seconds",
    "body_seconds",
)
_WORDS = {"log_level": ("debug", "info", "warning", "error"), "log_format": ("json", "text")}
_ADDRESSES = {
    "public_url": ("https", "http"),
    "upstream": ("https", "http"),
    "s3_endpoint": ("https", "http"),
    "smtp_url": ("smtp", "smtp+starttls", "smtps"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Everything the server needs to know before it starts.

    Args:
        data: the hub's own folder: the SQLite file and the blobs, unless the two settings below say otherwise.
        database_url: `sqlite:///…` or `postgresql+psycopg://…`; default: `hub.sqlite` in `data`.
        blob_store: a folder or `s3://bucket/prefix`; default: `blobs` in `data`.
        s3_endpoint: address of an S3-compatible service other than AWS.
        s3_region: region of the bucket.
        public_url: the address users see, for links; default: taken from each request.
        name: the hub's name on pages and in `/index/config.json`.
        max_file_bytes: largest single file of an adapter.
        max_request_bytes: largest JSON body.
        max_validate_bytes: largest body of `POST /v1/validate`.
        organisation_bytes: bytes an organisation may store, unless it has a limit of its own.
        organisation_versions_per_day: versions an organisation may publish in 24 hours.
        upload_hours: how long an unfinished upload is kept.
        header_seconds: a connection that has sent no whole request head by then is closed.
        body_seconds: a request whose body brings nothing for so long is answered 408.
        delete_hours: how long after publishing a version may be deleted.
        rate_per_minute: requests a minute for one anonymous address; 0 switches limits off.
        rate_per_minute_token: requests a minute for one token.
        trust_proxy: take the client's address from `X-Forwarded-For`, as set by the proxy in front.
        private_addresses: let webhooks and OIDC issuers be at private addresses and plain http (tests, closed networks).
        webhook_retry_seconds: wait before the second attempt; each further wait is three times as long.
        smtp_url: mail server for events by e-mail: `smtp://`, `smtp+starttls://` or `smtps://` with `USER:PASSWORD@HOST:PORT` and
            `?from=hub@example.org`; empty: the hub sends no mail.
        upstream: address of a hub to pull from what this one does not have.
        upstream_token: token for `upstream`.
        device_minutes: how long a login by device code waits for approval.
        device_poll_seconds: how long a program waits between two questions whether it was approved.
        log_level: `debug`, `info`, `warning` or `error`.
        log_format: `json` or `text`.
    """

    data: Path = Path("hub-data")
    database_url: str = ""
    blob_store: str = ""
    s3_endpoint: str = ""
    s3_region: str = "us-east-1"
    public_url: str = ""
    name: str = "AdapterHub"
    max_file_bytes: int = 5 * 1024 * MIB
    max_request_bytes: int = 2 * MIB
    max_validate_bytes: int = 512 * MIB
    organisation_bytes: int = 100 * 1024 * MIB
    organisation_versions_per_day: int = 10_000
    upload_hours: float = 24.0
    header_seconds: float = 20.0
    body_seconds: float = 60.0
    delete_hours: float = 72.0
    rate_per_minute: int = 0
    rate_per_minute_token: int = 0
    trust_proxy: bool = False
    private_addresses: bool = False
    webhook_retry_seconds: float = 10.0
    smtp_url: str = dataclasses.field(default="", repr=False)
    upstream: str = ""
    upstream_token: str = dataclasses.field(default="", repr=False)
    device_minutes: float = 10.0
    device_poll_seconds: float = 5.0
    log_level: str = "info"
    log_format: str = "json"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Settings from `given` (arguments; None means not given), else the environment, else the defaults.

        Raises:
            ValueError: a value that is not of its kind, or makes no sense, naming the setting.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = given.pop(field.name, None)
            if value is None:
                text = environment.get(PREFIX + field.name.upper())
                if text is None:
                    continue
                value = _parse(field.name, str(field.type), text)
            value = value.lower() if field.name in _WORDS else value
            values[field.name] = Path(value) if field.name == "data" else value
            if (wrong := _wrong(field.name, value)) is not None:
                raise ValueError(f"{PREFIX}{field.name.upper()}={_shown(field, value)} {wrong}.")
        if given:
            raise TypeError(f"unknown settings: {', '.join(sorted(given))}")
        return cls(**values)

    def to_environment(self) -> dict[str, str]:
        """The settings as environment variables, for worker processes; `read` gives the same settings back."""
        found: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            found[PREFIX + field.name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
        return found

    @property
    def database(self) -> str:
        """The SQLAlchemy address of the database."""
        return self.database_url or f"sqlite:///{self.data.resolve() / 'hub.sqlite'}"

    @property
    def blobs(self) -> str:
        """A folder or an `s3://` address for blobs."""
        return self.blob_store or str(self.data.resolve() / "blobs")


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: slips of the pen."""
    known = {field.name for field in dataclasses.fields(Settings)} | {"host", "port", "workers"}
    return sorted(
        name for name in environment if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in known
    )


def _wrong(name: str, value: Any) -> str | None:
    """What is wrong with the value of a setting; None where nothing is."""
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        return "is no number from 0 on"
    if value == 0 and name in _NEVER_ZERO and not isinstance(value, bool):
        return "must be more than 0"
    if name in _WORDS and value not in _WORDS[name]:
        return f"is none of {', '.join(_WORDS[name])}"
    schemes = _ADDRESSES.get(name)
    if schemes and value and not _is_address(value, schemes):
        return f"is no address such as {schemes[0]}://HOST"
    return None


def _is_address(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _shown(field: dataclasses.Field[Any], value: Any) -> str:
    return repr(value) if field.repr else "…"  # some hold passwords


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                text.lower()
            ]
    except (ValueError, KeyError):
        raise ValueError(f"{PREFIX}{name.upper()}={text!r} is not {kind}.") from None
    return text
