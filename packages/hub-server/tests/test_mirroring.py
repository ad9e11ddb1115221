"""Bytes come to imported versions only with the recorded digest, only from where an administrator says, only converted."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from adapter_folder import write_folder
from catalogue_folder import test_data
from hub import Hub

from adapterhub.server.catalogue.archives import unpack
from adapterhub.server.catalogue.importing import import_catalogue
from adapterhub.server.catalogue.mirroring import CONVERTER, check_converter, mirror
from adapterhub.spec.errors import InvalidConfigError, ValidationFailedError

RECORDED = "http://recorded.invalid/AdapterHub/"
ENTRY = """
type: text_task
task: sentiment
subtask: sst-2
model_type: bert
model_name: tiny-random-bert
author: A. Author
config:
  using: pfeiffer
  reduction_factor: 4
default_version: '1'
files:
- version: '1'
  url: "{url}"
  sha1: "{sha1}"
  sha256: "{sha256}"
prediction_head: false
hidden_size: 32
description: Brought back.
"""


def archive_of(folder: Path) -> bytes:
    """A zip of the files of a folder, as the 2020 hub's contributors packed them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, path.name)
    return packed.getvalue()


@pytest.fixture
def archive() -> bytes:
    return archive_of(test_data("golden") / "adapters-1.3" / "bert" / "cases" / "fuse" / "alpha")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The base model's shape under the name the record gives it."""
    target = tmp_path / "models" / "tiny-random-bert"
    target.mkdir(parents=True)
    shutil.copy(test_data("golden") / "adapters-1.3" / "bert" / "model" / "config.json", target)
    return target.parent


@pytest.fixture
def imported(hub: Hub, archive: bytes, tmp_path: Path) -> Hub:
    """A hub with one imported adapter whose archive is recorded at an address that no longer answers."""
    folder = tmp_path / "catalogue"
    for part in ("architectures", "adapter_types"):
        shutil.copytree(test_data("hub-catalogue") / part, folder / part)
    (folder / "adapters" / "old").mkdir(parents=True)
    values = {name: hashlib.new(name, archive).hexdigest() for name in ("sha1", "sha256")}
    (folder / "adapters" / "old" / "tiny.yaml").write_text(ENTRY.format(url=f"{RECORDED}tiny.zip", **values))
    import_catalogue(hub.storage, folder)
    return hub


class Site(http.server.BaseHTTPRequestHandler):
    """Serves what `files` holds and notes what was asked."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", "/AdapterHub/tiny.zip")
            self.end_headers()
            return
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.files, Site.asked = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


needs_core = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("adapterhub.core") is None,
    reason="conversion needs adapterhub-core",
)


def status(hub: Hub) -> str:
    return str(hub.http.get("/v1/catalogue/@old/tiny").json()["status"])


@needs_core
def test_an_archive_with_the_recorded_digest_makes_the_version_available(
    imported: Hub, archive: bytes, models: Path, site: str
) -> None:
    assert status(imported) == "unavailable"
    Site.files = {"/AdapterHub/tiny.zip": archive}
    done = mirror(imported.storage, [f"{RECORDED}={site}AdapterHub/"], models=models)
    assert (done.filled, done.refused, done.absent) == (["@old/tiny:1"], {}, 0)
    detail = imported.http.get("/v1/catalogue/@old/tiny").json()
    assert detail["status"] == "available" and detail["manifest"]["authors"] == ["A. Author"]
    assert {file["path"] for file in detail["files"]} >= {"adapter_config.json", "adapter.safetensors"}
    for file in detail["files"]:
        assert f"sha256:{hashlib.sha256(imported.http.get(file['url']).content).hexdigest()}" == file["digest"]
    found = imported.http.get("/v1/resolve", params={"ref": "sentiment/sst-2@old", "model": "tiny-random-bert"}).json()
    assert found["digest"] == detail["digest"] and found["entry"].get("status", "available") == "available"
    log = imported.operator().get("/v1/audit").text
    assert "version.mirror" in log and hashlib.sha256(archive).hexdigest() in log
    assert mirror(imported.storage, [f"{RECORDED}={site}AdapterHub/"], models=models).filled == []


def test_a_folder_is_searched_by_digest_whatever_the_files_are_called(
    imported: Hub, archive: bytes, tmp_path: Path
) -> None:
    place = tmp_path / "downloads" / "deep"
    place.mkdir(parents=True)
    (place / "some name").write_bytes(b"something else")
    (place / "renamed.zip").write_bytes(archive)
    native = write_folder(tmp_path / "native", model="tiny-random-bert")
    copy = ["/bin/sh", "-c", 'cp -r "$0" "$2"', str(native)]  # in place of a conversion
    assert mirror(imported.storage, [str(tmp_path / "downloads")], converter=copy).filled == ["@old/tiny:1"]
    assert status(imported) == "available"


def test_other_bytes_than_recorded_are_refused_and_nothing_is_kept(imported: Hub, archive: bytes, site: str) -> None:
    Site.files = {"/AdapterHub/tiny.zip": archive[:-1] + bytes([archive[-1] ^ 1])}
    done = mirror(imported.storage, [f"{RECORDED}={site}AdapterHub/"])
    assert "has the digest" in done.refused["@old/tiny:1"]
    assert status(imported) == "unavailable"
    assert list(imported.storage.blobs.stored()) == []


def test_addresses_outside_the_named_prefix_are_never_asked(imported: Hub, site: str) -> None:
    done = mirror(imported.storage, [site, f"{RECORDED}other/={site}"])
    assert (done.absent, Site.asked) == (1, [])


def test_redirects_are_not_followed(imported: Hub, site: str) -> None:
    done = mirror(imported.storage, [f"{RECORDED}tiny.zip={site}moved.zip"])
    assert "302" in done.refused["@old/tiny:1"] and Site.asked == ["/moved.zip"]


def test_a_failing_or_missing_converter_leaves_the_version_as_it_was(
    imported: Hub, archive: bytes, tmp_path: Path
) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.zip").write_bytes(archive)
    for command in (["/nothing/there"], ["/bin/sh", "-c", "echo no good >&2; exit 3"], ["/bin/true"]):
        done = mirror(imported.storage, [str(tmp_path / "downloads")], converter=command)
        assert list(done.refused) == ["@old/tiny:1"]
    assert status(imported) == "unavailable"
    with imported.storage.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM version_files").scalar() == 0


def test_without_core_the_command_says_so_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "adapterhub.core" else find(name))
    with pytest.raises(InvalidConfigError, match="adapterhub-core"):
        check_converter(CONVERTER)
    check_converter(["podman", "run", "converter"])


def test_what_is_neither_a_folder_nor_a_prefix_is_an_error(hub: Hub) -> None:
    for source in ("ftp://example.org/", "/no/such/folder", "example.org"):
        with pytest.raises(InvalidConfigError):
            mirror(hub.storage, [source])


@pytest.mark.parametrize("name", ["../evil.json", "/etc/x.json", "a/../../x.json", "evil.py", "weights.pt", "x.so"])
def test_archives_with_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("adapter_config.json", json.dumps({}))
        opened.writestr(name, b"x")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValidationFailedError):
        unpack(path, tmp_path / "out")
    assert list(tmp_path.glob("*.json")) == []


def test_hostile_archives_are_refused(tmp_path: Path) -> None:
    """Every archive of the hostile set that is to be refused for more than the weights pickled in it."""
    place = test_data("hostile")
    cases = json.loads((place / "manifest.json").read_text())
    refused = 0
    for number, case in enumerate(cases):
        path = next(iter(place.rglob(case["file"])))
        if path.suffix != ".zip" or case["verdict"] != "reject":
            continue
        target = tmp_path / str(number)
        target.mkdir()
        try:
            names = unpack(path, target)
        except Exception:  # noqa: BLE001 - any refusal is a refusal
            refused += 1
        else:
            assert any(name.endswith(".bin") for name in names), case
    assert refused > 20
