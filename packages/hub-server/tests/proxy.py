"""A real nginx in front of hubs, run from the example configuration in deploy/."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

__all__ = ["DEPLOY", "free_port", "nginx"]

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def free_port() -> int:
    """A port nobody listens on, below those the system gives to outgoing connections: it stays free while its owner restarts."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def nginx(place: Path, hubs: Sequence[str]) -> Iterator[str]:
    """The address of an nginx in front of `hubs` (addresses; at most four), until the end of the block."""
    port = free_port()
    text = (DEPLOY / "nginx.conf").read_text()
    for number in range(1, 5):
        if number <= len(hubs):
            text = text.replace(f"server hub-{number}:8080", f"server {hubs[number - 1].removeprefix('http://')}")
        else:
            text = re.sub(rf" *server hub-{number}:8080.*\n", "", text)
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{\naccess_log off;\n{temporary}", 1)
    text = f"daemon off;\npid {place}/nginx.pid;\nerror_log {place}/nginx-error.log;\n{text}"
    (place / "nginx.conf").write_text(text)
    log = (place / "nginx.log").open("wb")
    process = subprocess.Popen(["nginx", "-p", str(place), "-c", str(place / "nginx.conf")], stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/healthz", timeout=10)
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((place / "nginx.log").read_text()) from None
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()
