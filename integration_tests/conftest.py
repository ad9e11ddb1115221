"""Where things are, a tiny model with a tokenizer, and a real hub on loopback, for the tests of the packages together."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.hub import Hub, client_environment, command
from integration_tests.tiny_model import write_tiny_model

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a model hub


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of shared test data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ADAPTERHUB_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "DATA.md").is_file():
        pytest.skip(f"no test data at {folder}: set ADAPTERHUB_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names `bert-base-uncased` and `roberta-base` are tiny random models."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "bert-base-uncased")
    write_tiny_model(folder / "roberta-base", "roberta")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A running hub of the module's own, stopped by its process id afterwards."""
    folder = tmp_path_factory.mktemp("hub")
    hub = Hub(folder / "data", folder / "hub.log")
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process sees `hub` and an empty home and cache; returns the environment for further processes."""
    environment = client_environment(hub.endpoint, tmp_path / "home", ADAPTERHUB_CACHE=str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("ADAPTERHUB_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        if name.startswith("ADAPTERHUB_"):
            monkeypatch.setenv(name, value)
    return environment


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(client: dict[str, str]) -> Cli:
    """Run `adapterhub …` as a user would; keyword arguments are further environment variables."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        line = [command("adapterhub"), *arguments]
        return subprocess.run(
            line, capture_output=True, text=True, check=False, env={**client, **environment}, timeout=120
        )

    return run
