"""`source="hf"`, against a small server that speaks the part of the Hugging Face protocol its own library uses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exports import write_adapter
from loopback import Handler, LoopbackHub, Seen

pytest.importorskip("huggingface_hub", reason="the extra 'hf' is not installed")

COMMIT = "1" * 40
REPOSITORY = "AdapterHub/bert-base-uncased-pf-imdb"


class FakeHuggingFace:
    """One repository: small files by git blob id, weights by sha256."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.broken: set[str] = set()

    def mark(self, name: str) -> str:
        data = self.files[name]
        if name.endswith((".safetensors", ".bin")):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def __call__(self, handler: Handler, seen: Seen) -> bool:
        path, _, query = seen.path.partition("?")
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            rows = []
            for name, data in self.files.items():
                row: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": self.mark(name)}
                if name.endswith(".safetensors"):
                    row["lfs"] = {"oid": self.mark(name), "size": len(data), "pointerSize": 130}
                rows.append(row)
            self.json(handler, rows)
        elif path.startswith(f"/api/models/{REPOSITORY}/revision/nowhere"):
            handler.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "Content-Type": "application/json"})
        elif path in (f"/api/models/{REPOSITORY}", f"/api/models/{REPOSITORY}/revision/main") or path.endswith(COMMIT):
            self.json(handler, self.model())
        elif path == "/api/models":
            tagged = "filter=adapter-transformers" in query
            self.json(handler, [self.model()] if tagged else [])
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self.file(handler, path.rpartition("/")[2])
        else:
            handler.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"})
        return True

    def model(self) -> dict[str, Any]:
        return {
            "_id": "1",
            "id": REPOSITORY,
            "author": "AdapterHub",
            "sha": COMMIT,
            "private": False,
            "downloads": 7,
            "tags": ["adapter-transformers"],
            "createdAt": "2024-01-02T03:04:05.000Z",
            "siblings": [{"rfilename": name} for name in self.files],
            "config": {"adapter_transformers": {"model_name": "bert-base-uncased", "task_name": "sentiment/imdb"}},
        }

    def file(self, handler: Handler, name: str) -> None:
        data = self.files.get(name)
        if data is None:
            handler.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{self.mark(name)}"', "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
        if name.endswith(".safetensors"):
            headers |= {"X-Linked-Etag": f'"{self.mark(name)}"', "X-Linked-Size": str(len(data))}
        if name in self.broken:
            data = bytes([data[0] ^ 1]) + data[1:]
        handler.answer(200, data, headers)

    @staticmethod
    def json(handler: Handler, value: Any) -> None:
        handler.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = write_adapter(tmp_path / "hf-adapter")
    (folder / "evil.py").write_text("raise SystemExit('never fetched')")
    return folder


@pytest.fixture
def fake(published: Path) -> FakeHuggingFace:
    return FakeHuggingFace(published)


@pytest.fixture
def server(fake: FakeHuggingFace, tmp_path: Path) -> Any:
    hub = LoopbackHub(tmp_path, faults=[fake])
    yield hub
    hub.close()


def run(server: LoopbackHub, tmp_path: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own: the library reads its settings when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "ADAPTERHUB_TOKEN": "ahub_secretsecret",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }
    environment.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in more else None
    program = f"import json\nfrom adapterhub.client import *\nREPOSITORY = {REPOSITORY!r}\n{code}"
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_a_repository_is_fetched_hashed_and_then_works_offline(
    server: LoopbackHub, tmp_path: Path, published: Path
) -> None:
    online = run(server, tmp_path, "print(download(resolve(REPOSITORY, source='hf')))")
    assert online.returncode == 0, online.stderr
    folder = Path(online.stdout.strip())
    got = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert got == {path.name: path.read_bytes() for path in published.iterdir() if path.suffix != ".py"}
    assert not any("ahub_secretsecret" in str(seen.headers) for seen in server.seen)
    server.stop()
    offline = run(
        server, tmp_path, "print(download(REPOSITORY, source='hf', version='" + COMMIT + "'))", ADAPTERHUB_OFFLINE="1"
    )
    assert (offline.returncode, offline.stdout) == (0, online.stdout), offline.stderr
    other = run(server, tmp_path, "download('AdapterHub/other', source='hf')", ADAPTERHUB_OFFLINE="1")
    assert "OfflineError" in other.stderr


def test_lists_and_info_have_the_fields(server: LoopbackHub, tmp_path: Path) -> None:
    code = (
        "found = list_adapters(source='hf', model_name='bert-base-uncased')\n"
        "one = get_adapter_info(REPOSITORY, source='hf')\n"
        "print(json.dumps([[item.to_json() for item in found], one.to_json(), "
        "[i.to_json() for i in list_adapters(source='hf', model_name='gpt2')]]))"
    )
    done = run(server, tmp_path, code)
    assert done.returncode == 0, done.stderr
    found, one, none = json.loads(done.stdout)
    assert none == [] and len(found) == 1
    for item in (found[0], one):
        assert (item["source"], item["adapter_id"], item["username"]) == ("hf", REPOSITORY, "AdapterHub")
        assert (item["model_name"], item["task"], item["subtask"]) == ("bert-base-uncased", "sentiment", "imdb")
        assert (item["version"], item["downloads"]) == (COMMIT, 7)


def test_a_list_of_everything_does_not_wait_for_a_hub_that_is_not_there(server: LoopbackHub, tmp_path: Path) -> None:
    server.stop()
    export = tmp_path / "export" / "index"
    export.mkdir(parents=True)
    code = (
        "import time\n"
        "def wait(seconds): raise SystemExit(f'waited {seconds} s')\n"
        "time.sleep = wait\n"
        "print(list_adapters(None))\n"
        "list_adapters('hf')"
    )
    done = run(server, tmp_path, code, ADAPTERHUB_ENDPOINT=str(export.parent), ADAPTERHUB_TOKEN="")
    assert done.stdout.strip() == "[]" and "Left out hf" in done.stderr
    assert "HubConnectionError: The Hugging Face hub cannot be reached" in done.stderr


def test_bytes_changed_on_the_way_or_on_disk_are_found(
    server: LoopbackHub, tmp_path: Path, fake: FakeHuggingFace
) -> None:
    fake.broken = {"adapter.safetensors"}  # the library itself only compares sizes
    done = run(server, tmp_path, "download(REPOSITORY, source='hf')")
    assert "IntegrityError" in done.stderr and "adapter.safetensors" in done.stderr
    fake.broken = set()
    done = run(server, tmp_path, "print(download(REPOSITORY, source='hf'))")
    assert done.returncode == 0, done.stderr  # fetched anew
    weights = Path(os.path.realpath(Path(done.stdout.strip()) / "adapter.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    offline = run(server, tmp_path, "download(REPOSITORY, source='hf')", ADAPTERHUB_OFFLINE="1")
    assert "IntegrityError" in offline.stderr
    healed = run(server, tmp_path, "print(download(REPOSITORY, source='hf'))")
    assert healed.returncode == 0 and weights.read_bytes() == data


def test_what_is_not_there_is_said_in_our_words(server: LoopbackHub, tmp_path: Path) -> None:
    code = (
        "for arguments in ({}, {'version': 'nowhere'}):\n"
        "    try: download('AdapterHub/none' if not arguments else REPOSITORY, source='hf', **arguments)\n"
        "    except AdapterHubError as error: print(type(error).__name__)\n"
        "try: download('no-slash', source='hf')\n"
        "except AdapterHubError as error: print(type(error).__name__)"
    )
    done = run(server, tmp_path, code)
    assert done.stdout.split() == ["AdapterNotFoundError", "VersionNotFoundError", "InvalidReferenceError"], done.stderr
    server.faults.insert(0, lambda handler, seen: handler.answer(400, b"no") is None)
    refused = run(server, tmp_path, "list_adapters(source='hf')")
    assert "HubConnectionError" in refused.stderr


def test_a_reference_of_ours_is_never_looked_up_there(server: LoopbackHub, tmp_path: Path) -> None:
    """`nli/multinli` looks like a repository of the Hugging Face hub; only source="hf" ever asks it."""
    empty = LoopbackHub(tmp_path / "nothing")
    try:
        done = run(server, tmp_path, "resolve('nli/multinli', model_name='m')", ADAPTERHUB_ENDPOINT=empty.url)
    finally:
        empty.close()
    assert "AdapterNotFoundError" in done.stderr
    assert server.seen == []
