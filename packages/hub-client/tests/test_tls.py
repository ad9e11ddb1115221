"""Over TLS: HTTP/2 where the server has it, no step back to plain http, no certificate nobody vouches for."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exports import MODEL, Export
from loopback import LoopbackHub

from adapterhub.client import HubClient, HubConnectionError, PolicyError
from adapterhub.client.transport import Limits

TOKEN = "ahub_0123456789abcdefghij"
QUICK = Limits(backoff=0.001, longest_pause=0.01)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of localhost, with its key in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    line += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(line, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "cert").read_bytes() + (folder / "key").read_bytes())
    return both


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side of TLS; this process trusts it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return server_context(certificate)


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def secure(sst2: Export, trusted: ssl.SSLContext) -> Iterator[LoopbackHub]:
    hub = LoopbackHub(sst2.folder, tls=trusted)
    yield hub
    hub.close()


def test_a_hub_over_https_gets_the_token_and_gives_the_bytes(secure: LoopbackHub, tmp_path: Path) -> None:
    with HubClient(endpoint=secure.url, token=TOKEN) as client:
        folder = client.download("sst-2", model_name=MODEL)
    assert (folder / "adapter.safetensors").read_bytes() == (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in secure.seen)


def test_a_redirect_from_https_to_http_is_refused(secure: LoopbackHub, sst2: Export) -> None:
    plain = LoopbackHub(sst2.folder)
    secure.faults.append(lambda h, s: h.answer(302, b"", {"Location": plain.url + s.path}) is None)
    try:
        with HubClient(endpoint=secure.url, limits=QUICK) as client, pytest.raises(PolicyError, match="plain http"):
            client.resolve("sst-2", model_name=MODEL)
    finally:
        plain.close()
    assert plain.seen == [] and len(secure.seen) == 1


def test_a_certificate_nobody_vouches_for_is_refused_at_once(sst2: Export, certificate: Path) -> None:
    hub = LoopbackHub(sst2.folder, tls=server_context(certificate))
    try:
        client = HubClient(endpoint=hub.url, limits=QUICK, token=TOKEN)
        with pytest.raises(HubConnectionError, match=r"(?i)certificate"):
            client.resolve("sst-2", model_name=MODEL)
        assert client.transport(client.settings.hub()).requests == 1 and hub.seen == []
    finally:
        hub.close()


class Http2Server:
    """The least HTTP/2 server that can hand out files, on top of the library the client itself brings."""

    def __init__(self, folder: Path, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2"])
        self.folder, self.context, self.paths = folder, context, list[str]()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                plain, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(plain,), daemon=True).start()

    def talk(self, plain: socket.socket) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.events import RequestReceived, StreamEnded, WindowUpdated

        channel = self.context.wrap_socket(plain, server_side=True)
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        channel.sendall(connection.data_to_send())
        waiting: dict[int, bytes] = {}
        paths: dict[int, str] = {}
        while data := channel.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    paths[event.stream_id] = dict(event.headers)[b":path"].decode()
                elif isinstance(event, StreamEnded):
                    path = paths[event.stream_id]
                    self.paths.append(path)
                    file = self.folder / path.lstrip("/")
                    body = file.read_bytes() if file.is_file() else None
                    head: list[Any] = [(":status", "404" if body is None else "200")]
                    connection.send_headers(event.stream_id, [*head, ("content-length", str(len(body or b"")))])
                    waiting[event.stream_id] = body or b""
                elif isinstance(event, WindowUpdated):
                    pass
            for stream in list(waiting):
                while stream in waiting:
                    room = min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)
                    if room == 0 and waiting[stream]:
                        break
                    piece, waiting[stream] = waiting[stream][:room], waiting[stream][room:]
                    connection.send_data(stream, piece, end_stream=not waiting[stream])
                    if not waiting[stream]:
                        del waiting[stream]
            channel.sendall(connection.data_to_send())


def test_http2_is_spoken_where_the_server_speaks_it(sst2: Export, trusted: ssl.SSLContext, tmp_path: Path) -> None:
    server = Http2Server(sst2.folder, trusted)
    with HubClient(endpoint=server.url) as client:
        folder = client.download("sst-2", model_name=MODEL)
    server.socket.close()
    assert (folder / "adapter.safetensors").read_bytes() == (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    assert len([path for path in server.paths if path.startswith("/v1/blobs/")]) == 5
