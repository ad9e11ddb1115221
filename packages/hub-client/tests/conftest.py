"""Adapters, static exports and a loopback hub that can be told to misbehave, shared by the client's tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # last: other packages have a conftest too

from exports import Export, write_adapter
from loopback import LoopbackHub

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test; home and cache are the test's own."""
    for name in [name for name in os.environ if name.startswith("ADAPTERHUB_") and name != "ADAPTERHUB_TEST_DATA"]:
        monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a valid adapter folder; see `write_adapter`."""

    def write(name: str = "adapter", **options: Any) -> Path:
        return write_adapter(tmp_path / name, **options)

    return write


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """An empty static export to publish into."""
    return Export(tmp_path / "export")


@pytest.fixture
def sst2(export: Export, adapter: Callable[..., Path]) -> Export:
    """An export with `sentiment/sst-2@ukp` for bert-base-uncased, version 1, of about 400 kB."""
    export.publish(adapter(hidden=768, layers=4), "sentiment/sst-2@ukp", version="1")
    return export


@pytest.fixture
def hub(sst2: Export) -> Iterator[LoopbackHub]:
    """A loopback hub that serves `sst2`."""
    server = LoopbackHub(sst2.folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of shared test data."""
    if not DATA.is_dir():
        pytest.skip("the shared test data is not at hand (ADAPTERHUB_TEST_DATA)")
    return DATA
