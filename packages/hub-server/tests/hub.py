"""A hub on loopback, made for one test: the real application behind a real socket, on either pair of stores."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from adapterhub.server import serving
from adapterhub.server.accounts.organisations import create_organisation
from adapterhub.server.accounts.tokens import create_token
from adapterhub.server.app import create_app
from adapterhub.server.patience import PatientProtocol
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.spec.manifest import Manifest, build_manifest

_TLS = (
    ssl.create_default_context()
)  # made once: every client would read all certificates anew, and nothing here is https


@dataclasses.dataclass
class Hub:
    """A running hub with an HTTP client for anonymous requests."""

    settings: Settings
    app: FastAPI
    url: str
    http: httpx.Client

    @property
    def storage(self) -> Storage:
        return self.app.state.storage

    def organisation(self, name: str = "demo", **options: Any) -> int:
        """Make an organisation; returns its id."""
        with self.storage.database.write() as connection:
            return create_organisation(connection, name, **options)

    def token(self, organisation_id: int | None, **options: Any) -> str:
        """Make a token; returns its secret."""
        with self.storage.database.write() as connection:
            return create_token(connection, organisation_id=organisation_id, **options).secret

    def client(self, token: str) -> httpx.Client:
        """A client that sends the token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=120, verify=_TLS)

    def member(
        self, name: str = "demo", *, scopes: tuple[str, ...] = ("read", "publish", "yank"), **options: Any
    ) -> httpx.Client:
        """Make an organisation with one token; returns a client that sends it."""
        return self.client(self.token(self.organisation(name, **options), scopes=scopes))

    def operator(self) -> httpx.Client:
        """A client with an admin token of the whole hub."""
        return self.client(self.token(None, scopes=("admin",)))


@contextlib.contextmanager
def serve(settings: Settings) -> Iterator[Hub]:
    """Run a hub in a thread until the block ends."""
    app = create_app(settings)
    listener = serving.bind("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5, http=PatientProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=120, verify=_TLS) as http:
        deadline = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the hub did not start"
            time.sleep(0.005)
        try:
            yield Hub(settings, app, url, http)
        finally:
            server.should_exit = True
            thread.join(20)


def digest_of(data: bytes) -> str:
    """sha256 of `data`, as the hub writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def upload(client: httpx.Client, data: bytes) -> str:
    """Send a blob through an upload session; returns its digest."""
    location = client.post("/v1/uploads").raise_for_status().json()["location"]
    client.patch(location, content=data, headers={"Upload-Offset": "0"}).raise_for_status()
    digest = digest_of(data)
    client.put(location, params={"digest": digest}).raise_for_status()
    return digest


def upload_folder(client: httpx.Client, folder: Path) -> None:
    """Send every file of a folder, each in one request."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            client.post("/v1/uploads", params={"digest": digest_of(data)}, content=data).raise_for_status()


def manifest_of(folder: Path, reference: str = "sentiment/sst-2@demo", version: str = "1", **more: Any) -> Manifest:
    """The manifest of a folder as the client would build it."""
    return build_manifest(folder, reference=reference, version=version, **more)


def publish(
    client: httpx.Client, folder: Path, reference: str = "sentiment/sst-2@demo", version: str = "1", **more: Any
) -> httpx.Response:
    """Upload and publish a folder; returns the answer, whatever it is."""
    manifest = manifest_of(folder, reference, version, **more)
    upload_folder(client, folder)
    return client.post("/v1/publish", json={"manifest": manifest.to_json()})
