"""A hub of the demo's own: made with the server's commands, started on a free port, stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from demo.report import DemoError, waiting


def command(name: str) -> str:
    """The program `name` installed beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise DemoError(f"{path} is not installed")
    return str(path)


def _free_port() -> int:
    """A port nobody listens on, below those the system gives to outgoing connections: nobody takes it until the hub is up."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Hub:
    """`adapterhub-server` over one data folder (SQLite and files)."""

    def __init__(self, data: Path, log: Path) -> None:
        self.data, self.log = data, log
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The address clients use."""
        return f"http://127.0.0.1:{self.port}"

    def administer(self, *arguments: str) -> str:
        """Run one administration command and return what it prints."""
        line = [command("adapterhub-server"), *arguments, "--data", str(self.data)]
        with waiting(f"adapterhub-server {' '.join(arguments)}"):
            done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(f"{' '.join(arguments)} failed:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def start(self, patience: float = 60.0) -> None:
        """Start serving and wait until the hub says it is ready."""
        line = [command("adapterhub-server"), "serve", "--data", str(self.data)]
        line += ["--host", "127.0.0.1", "--port", str(self.port)]
        with waiting("starting the hub"), self.log.open("ab") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + patience
            while not self._ready():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise DemoError(f"the hub did not start; its log ends:\n{self.log.read_text()[-2000:]}")
                time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """Stop the process this object started, and nothing else."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def page(self, path: str) -> str:
        """The HTML at `path`, as a browser would fetch it."""
        request = urllib.request.Request(self.endpoint + path, headers={"Accept": "text/html"})
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise DemoError(f"{path} answers {error.code}: {error.read(500).decode(errors='replace')}") from error


def client_environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """The environment in which the client sees this hub and nothing of the user's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ADAPTERHUB_")}
    return {**kept, "ADAPTERHUB_HOME": str(home), "ADAPTERHUB_ENDPOINT": endpoint, **more}
