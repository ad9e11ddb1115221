"""Every hostile file of the shared data gets its verdict through HTTP, and none of them does anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import hub as hub_module
import pytest
from conftest import Stores
from hub import Hub

from adapterhub.server.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def hostile() -> Path:
    """The folder of hostile files; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ADAPTERHUB_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "hostile"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no hostile files at {folder}: set ADAPTERHUB_TEST_DATA")
    return folder


@pytest.fixture(scope="module")
def one_hub(tmp_path_factory: pytest.TempPathFactory, stores: Stores) -> Iterator[Hub]:
    """One hub for all files."""
    data = tmp_path_factory.mktemp("hub")
    with hub_module.serve(Settings(data=data, log_level="warning", **stores.make(data))) as running:
        yield running


def test_every_file_gets_its_verdict(
    one_hub: Hub, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    monkeypatch.setenv("PICKLE_MARKER", str(marker))
    wrong = []
    for case in json.loads((hostile / "manifest.json").read_text()):
        data = (hostile / case["file"]).read_bytes()
        answer = one_hub.http.post("/v1/validate", files=[("files", (case["file"], data))])
        assert answer.status_code == 200, (case["file"], answer.text)
        errors = [problem for problem in answer.json()["problems"] if problem.get("severity", "error") == "error"]
        if bool(errors) != (case["verdict"] == "reject"):
            wrong.append((case["file"], case["verdict"], errors[:2]))
    assert wrong == []
    assert not marker.exists()
    assert one_hub.http.get("/healthz").status_code == 200
