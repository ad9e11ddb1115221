"""Clients that hang on: idle connections, endless heads, dripping bodies. Reads go on, and patience has an end."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, publish

from adapterhub.server.settings import Settings


@pytest.fixture
def impatient(settings: Settings) -> Iterator[Hub]:
    """A hub that waits for nothing longer than a second."""
    with hub_module.serve(dataclasses.replace(settings, header_seconds=1.0, body_seconds=1.0)) as running:
        yield running


def connect(hub: Hub, first: bytes = b"") -> socket.socket:
    host, port = hub.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=120)
    if first:  # at once: the hub's patience has begun
        connection.sendall(first)
    return connection


def everything(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def test_reads_go_on_while_hundreds_hang_on(impatient: Hub, tmp_path: Path) -> None:
    client = impatient.member("demo")
    publish(client, write_folder(tmp_path / "a"), name="mine").raise_for_status()
    idle = [connect(impatient) for _ in range(200)]
    endless = [connect(impatient, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ") for _ in range(100)]
    token = impatient.token(1)
    head = f"POST /v1/uploads?digest={digest_of(b'')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    dripping = [connect(impatient, f"{head}Content-Length: 1000\r\n\r\na".encode()) for _ in range(50)]
    for _ in range(20):
        assert impatient.http.get("/v1/resolve", params={"ref": "@demo/mine"}).status_code == 200
    assert [everything(connection) for connection in idle + endless] == [b""] * 300
    answers = [everything(connection) for connection in dripping]
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers), answers[:2]
    assert impatient.http.get("/healthz").status_code == 200
    for connection in idle + endless + dripping:
        connection.close()


def test_a_slow_but_steady_upload_is_fine(settings: Settings) -> None:
    body = b"slow and steady!"

    def letters() -> Iterator[bytes]:
        for letter in body:
            yield bytes([letter])
            time.sleep(0.25)

    with hub_module.serve(
        dataclasses.replace(settings, body_seconds=3.0)
    ) as hub:  # four seconds in all, never three without a byte
        answer = hub.member("demo").post("/v1/uploads", params={"digest": digest_of(body)}, content=letters())
    assert answer.status_code == 201


def test_a_head_without_end_is_cut_off(impatient: Hub) -> None:
    with connect(impatient) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"a" * 10_000_000)
        except (ConnectionResetError, BrokenPipeError):
            return
        answer = everything(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_a_head_larger_than_anybody_needs_is_cut_off_without_waiting_for_its_end(hub: Hub) -> None:
    assert hub.http.get("/healthz", headers={"X-Long": "a" * 20_000}).status_code == 200
    with connect(hub) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"a" * 10_000_000)
            answer = connection.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return  # closed while we were still sending
        assert answer.startswith(b"HTTP/1.1 431 ")
