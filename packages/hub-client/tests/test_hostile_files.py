"""Every hostile file of the shared data, through the public API and the command line: published, downloaded, validated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import MODEL, Export

from adapterhub.client import HubClient, IntegrityError, PolicyError, ValidationFailedError
from adapterhub.client.cli import main
from adapterhub.client.publishing import prepare
from adapterhub.spec import parse_reference
from adapterhub.spec.errors import InvalidManifestError

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data") / "hostile"
CASES: list[dict[str, Any]] = json.loads((DATA / "manifest.json").read_text()) if DATA.is_dir() else []

pytestmark = pytest.mark.skipif(not CASES, reason="the hostile files are not at hand (ADAPTERHUB_TEST_DATA)")


@pytest.fixture(autouse=True)
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file a pickle creates when it is executed."""
    path = tmp_path / "executed"
    monkeypatch.setenv("PICKLE_MARKER", str(path))
    return path


def test_the_command_line_gives_every_file_its_verdict(marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for case in CASES:
        code = main(["validate", "--json", str(DATA / case["file"])])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if (code == 2) != (case["verdict"] == "reject") or code not in (0, 2):
            wrong.append((case["file"], case["verdict"], code, out[:200]))
    assert wrong == [] and not marker.exists()


def test_no_hostile_file_is_ever_published(adapter: Callable[..., Path], marker: Path) -> None:
    """Weights in place of the adapter's own, anything else beside them: the folder is refused before anything is sent."""
    folder = adapter()
    weights = folder / "adapter.safetensors"
    good = weights.read_bytes()
    reference = parse_reference("sentiment/sst-2@ukp")
    refused = 0
    for case in CASES:
        if case["verdict"] != "reject":
            continue
        data = (DATA / case["file"]).read_bytes()
        beside = folder / case["file"]
        (weights if case["kind"] == "safetensors" else beside).write_bytes(data)
        if case["kind"] == "json":  # in place of the adapter's config: no adapter config is like that
            beside.unlink()
            kept = (folder / "adapter_config.json").read_bytes()
            (folder / "adapter_config.json").write_bytes(data)
        with pytest.raises(ValidationFailedError) as error:
            prepare(folder, reference, version="1", name=None, metadata={})
        assert error.value.problems, case["file"]
        refused += 1
        if case["kind"] == "json":
            (folder / "adapter_config.json").write_bytes(kept)
        weights.write_bytes(good)
        beside.unlink(missing_ok=True)
    assert refused == sum(case["verdict"] == "reject" for case in CASES) and not marker.exists()
    prepare(folder, reference, version="1", name=None, metadata={})


def test_hostile_files_of_a_hub_that_lets_them_pass_are_never_returned(
    export: Export, adapter: Callable[..., Path], tmp_path: Path, marker: Path
) -> None:
    """A hub without scruples: each file is properly listed with size and digest in a manifest that is its digest."""
    manifest = export.publish(adapter(), "sentiment/sst-2@ukp", version="1")
    base = manifest.to_json()
    entry = export.entries[0]
    cases = [case for case in CASES if case["kind"] in ("safetensors", "pickle", "zip", "yaml")]
    wrong = []
    for number, case in enumerate(cases):
        data = (DATA / case["file"]).read_bytes()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        export.blob(digest).write_bytes(data)
        document = json.loads(json.dumps(base))
        path = (
            "adapter.safetensors"
            if case["kind"] == "safetensors"
            else f"{case['kind']}-{number}{Path(case['file']).suffix}"
        )
        document["files"] = [file for file in document["files"] if file["path"] not in ("adapter.safetensors", path)]
        document["files"].append({"path": path, "size": len(data), "digest": digest, "media_type": "application/json"})
        document["tensors"] = []
        document["version"] = f"1.{number}"
        text = json.dumps(document).encode()
        named = "sha256:" + hashlib.sha256(text).hexdigest()
        (export.folder / "v1" / "manifests" / named).write_bytes(text)
        export.entries = [dataclasses.replace(entry, version=f"1.{number}", digest=named)]
        export.write()
        with HubClient(endpoint=str(export.folder), cache_dir=tmp_path / f"cache-{number}") as client:
            try:
                client.download(f"sst-2:1.{number}", model_name=MODEL)
                fine = True
            except (IntegrityError, PolicyError, InvalidManifestError) as error:
                fine = False
                assert "index" not in error.message, error  # refused for the file, not for anything else
        expected = case["verdict"] == "accept" and case["kind"] == "safetensors"
        if fine != expected:
            wrong.append((case["file"], case["verdict"]))
    assert wrong == [] and not marker.exists() and len(cases) > 250
