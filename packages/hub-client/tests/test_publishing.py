"""Publishing: all problems at once, only missing files, resumable, nothing twice, nothing without a token."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import Handler, LoopbackHub, Seen

from adapterhub.client import (
    AuthenticationError,
    HubClient,
    HubConnectionError,
    InvalidReferenceError,
    PolicyError,
    ValidationFailedError,
    VersionExistsError,
    publish,
)
from adapterhub.client.transport import Limits
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError

TOKEN = "ahub_0123456789abcdefghij"
QUICK = Limits(backoff=0.001, longest_pause=0.01)


class Registry:
    """The writing half of the HTTP interface, in memory, with every byte it was sent counted."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.versions: dict[str, str] = {}
        self.received = 0
        self.break_after: list[int] = []

    def __call__(self, handler: Handler, seen: Seen) -> bool:
        path, _, query = seen.path.partition("?")
        if seen.headers.get("authorization") != f"Bearer {TOKEN}":
            self.problem(handler, 401, "Authentication", "no good token")
        elif seen.method == "HEAD" and path.startswith("/v1/blobs/"):
            handler.answer(200 if path.rpartition("/")[2] in self.blobs else 404)
        elif (seen.method, path) == ("POST", "/v1/uploads"):
            number = f"{len(self.uploads):032x}"
            self.uploads[number] = bytearray()
            handler.answer(201, b"{}", {"Location": f"/v1/uploads/{number}"})
        elif path.startswith("/v1/uploads/"):
            self.upload(handler, seen, path.rpartition("/")[2], query)
        elif (seen.method, path) == ("POST", "/v1/publish"):
            self.publish(handler, seen)
        else:
            handler.answer(404)
        return True

    def upload(self, handler: Handler, seen: Seen, number: str, query: str) -> None:
        if number not in self.uploads:
            handler.answer(404)
            return
        data = self.uploads[number]
        if seen.method == "PATCH":
            length = int(seen.headers["content-length"])
            if int(seen.headers["upload-offset"]) != len(data):
                self.problem(handler, 409, "Publish", "wrong offset")
                return
            take = min(length, self.break_after.pop(0)) if self.break_after else length
            data += handler.rfile.read(take)
            self.received += take
            if take < length:
                handler.cut()
                return
            handler.answer(204, b"", {"Upload-Offset": str(len(data))})
        elif seen.method == "HEAD":
            handler.answer(204, b"", {"Upload-Offset": str(len(data))})
        else:
            digest = query.removeprefix("digest=").replace("%3A", ":")
            del self.uploads[number]
            if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
                self.problem(handler, 422, "Integrity", "other bytes")
                return
            self.blobs[digest] = bytes(data)
            handler.answer(201, b"{}")

    def publish(self, handler: Handler, seen: Seen) -> None:
        manifest = json.loads(handler.rfile.read(int(seen.headers["content-length"])))["manifest"]
        from adapterhub.spec import Manifest

        digest = Manifest.from_json(manifest).digest
        key = f"@{manifest['namespace']}/{manifest['name']}:{manifest['version']}"
        if any(file["digest"] not in self.blobs for file in manifest["files"]):
            self.problem(handler, 422, "ValidationFailed", "missing blobs")
        elif self.versions.setdefault(key, digest) != digest:
            self.problem(handler, 409, "VersionExists", f"{key} exists with other content")
        else:
            answer = {"digest": digest, "reference": key, "url": "http://x/", "page": "http://x/page"}
            handler.answer(201, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def problem(handler: Handler, status: int, code: str, detail: str) -> None:
        if handler.headers.get("content-length") and handler.command != "HEAD":
            handler.rfile.read(0)
        body = json.dumps({"status": status, "code": code, "detail": detail}).encode()
        handler.answer(status, body, {"Content-Type": "application/problem+json", "Connection": "close"})
        handler.close_connection = True


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def server(registry: Registry, tmp_path: Path) -> Iterator[LoopbackHub]:
    hub = LoopbackHub(tmp_path, faults=[registry])
    yield hub
    hub.close()


@pytest.fixture
def client(server: LoopbackHub) -> Iterator[HubClient]:
    with HubClient(endpoint=server.url, token=TOKEN, limits=QUICK) as made:
        yield made


def test_only_missing_files_are_sent_and_again_changes_nothing(
    client: HubClient, registry: Registry, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    size = sum(path.stat().st_size for path in folder.iterdir())
    dry = client.publish(folder, "sentiment/sst-2@ukp", version="1", dry_run=True)
    assert (dry.state, dry.sent_bytes, registry.received) == ("dry-run", size, 0)
    first = client.publish(folder, "sentiment/sst-2@ukp", version="1")
    assert first.created and first.digest == dry.digest and registry.received == size
    assert first.reference == "@ukp/bert-base-uncased-sentiment-sst-2-pfeiffer:1" and first.page == "http://x/page"
    client.publish(folder, "sentiment/sst-2@ukp", version="1")
    (folder / "README.md").write_text("# a better card\n")
    second = client.publish(folder, "sentiment/sst-2@ukp", version="2")
    assert registry.received == size + second.sent_bytes and second.sent_bytes == 16 and len(second.skipped) == 4
    with pytest.raises(VersionExistsError):
        client.publish(folder, "sentiment/sst-2@ukp", version="1")


def test_all_problems_are_said_at_once_and_nothing_is_sent(
    client: HubClient, registry: Registry, adapter: Callable[..., Path], server: LoopbackHub
) -> None:
    folder = adapter()
    (folder / "evil.pkl").write_bytes(b"\x80\x04")
    (folder / "adapter.safetensors").write_bytes(b"nonsense")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["config_id"] = "sha256:" + "0" * 64
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValidationFailedError) as error:
        client.publish(folder, "sentiment/sst-2@ukp", version="1")
    text = json.dumps(error.value.problems)
    assert len(error.value.problems) >= 3
    assert all(word in text for word in ("evil.pkl", "adapter.safetensors", "config_id"))
    assert server.seen == []


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("sst-2@ukp", InvalidReferenceError),
        ("sentiment/sst-2", AdapterHubError),
        ("sentiment/sst-2@ukp@sha256:" + "0" * 64, InvalidReferenceError),
        ("not a reference", InvalidReferenceError),
    ],
)
def test_what_nothing_can_be_published_under_is_refused(
    client: HubClient, adapter: Callable[..., Path], reference: str, error: type[Exception], server: LoopbackHub
) -> None:
    with pytest.raises(error):
        client.publish(adapter(), reference, version="1")
    assert server.seen == []


def test_an_upload_that_breaks_goes_on_where_it_broke(
    client: HubClient, registry: Registry, adapter: Callable[..., Path]
) -> None:
    folder = adapter(hidden=768, layers=8)
    size = sum(path.stat().st_size for path in folder.iterdir())
    registry.break_after = [1 << 20, 1 << 19, 100]
    assert client.publish(folder, "sentiment/sst-2@ukp", version="1").created
    assert registry.received == size


def test_an_upload_given_up_goes_on_in_the_next_process(
    client: HubClient, registry: Registry, adapter: Callable[..., Path], server: LoopbackHub
) -> None:
    folder = adapter(hidden=768, layers=8)
    size = sum(path.stat().st_size for path in folder.iterdir())
    registry.break_after = [1 << 20, *[0] * 50]
    with pytest.raises(HubConnectionError):
        client.publish(folder, "sentiment/sst-2@ukp", version="1")
    registry.break_after = []
    with HubClient(endpoint=server.url, token=TOKEN, limits=QUICK) as later:
        assert later.publish(folder, "sentiment/sst-2@ukp", version="1").created
    assert registry.received == size
    assert not list((client.cache.root / "uploads").iterdir())


def test_a_file_that_changes_while_it_is_sent_is_noticed(
    client: HubClient, registry: Registry, adapter: Callable[..., Path], server: LoopbackHub
) -> None:
    folder = adapter()
    changed: list[bool] = []

    def change(handler: Handler, seen: Seen) -> bool:
        if (seen.method, seen.path) == ("POST", "/v1/uploads") and not changed:
            data = bytearray((folder / "README.md").read_bytes())
            data[-1] ^= 1
            (folder / "README.md").write_bytes(data)
            changed.append(True)
        return False

    server.faults.insert(0, change)
    with pytest.raises(AdapterHubError, match=r"changed|other bytes"):
        client.publish(folder, "sentiment/sst-2@ukp", version="1")
    assert registry.versions == {}


def test_without_a_token_or_with_a_wrong_one_nothing_is_sent(
    server: LoopbackHub, registry: Registry, adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry_off = LoopbackHub(server.folder)
    with pytest.raises(AuthenticationError, match="needs a token"):
        publish(adapter(), "sentiment/sst-2@ukp", version="1", endpoint=registry_off.url)
    registry_off.close()
    with pytest.raises(AuthenticationError):
        publish(adapter(), "sentiment/sst-2@ukp", version="1", endpoint=server.url, token="ahub_wrong_wrong_wrong")
    assert registry.received == 0
    for odd in ("", " ", "two words here", "short", "line\nend-and-more", "ünïcödé-token"):
        with pytest.raises(AuthenticationError):
            publish(adapter(), "sentiment/sst-2@ukp", version="1", endpoint=server.url, token=odd)


def test_a_static_export_cannot_be_published_to(export: Export, adapter: Callable[..., Path]) -> None:
    with pytest.raises(PolicyError, match="only be read"):
        publish(adapter(), "sentiment/sst-2@ukp", version="1", endpoint=str(export.folder))


def test_a_folder_without_a_card_gets_one_from_its_training_record(
    client: HubClient, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    (folder / "README.md").unlink()
    (folder / "training.json").write_text(
        json.dumps(
            {"epochs": 2, "learning_rate": 0.001, "metrics": [{"name": "accuracy", "value": 0.83, "dataset": "x|y"}]}
        )
    )
    client.publish(folder, "sentiment/sst-2@ukp", version="1", description="Fine.")
    card = (folder / "README.md").read_text()
    assert card.startswith("# sentiment/sst-2") and 'load_adapter("sentiment/sst-2@ukp")' in card
    assert "| Epochs | 2 |" in card and "| accuracy | 0.83 | x\\|y |" in card and "Fine." in card


def test_a_dry_run_says_what_a_publish_does_and_leaves_the_folder_alone(
    client: HubClient, registry: Registry, adapter: Callable[..., Path]
) -> None:
    folder = adapter()
    (folder / "README.md").unlink()
    before = sorted(folder.iterdir())
    looked = client.publish(folder, "sentiment/sst-2@ukp", version="1", dry_run=True)
    assert sorted(folder.iterdir()) == before and not registry.blobs
    done = client.publish(folder, "sentiment/sst-2@ukp", version="1")
    assert (done.digest, done.sent, done.sent_bytes) == (looked.digest, looked.sent, looked.sent_bytes)
    (folder / "README.md").unlink()
    (folder / "adapter.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValidationFailedError):
        client.publish(folder, "sentiment/sst-2@ukp", version="2")
    assert sorted(folder.iterdir()) == before


def test_what_was_yanked_or_published_shows_in_spite_of_max_age(sst2: Export, adapter: Callable[..., Path]) -> None:
    sst2.publish(adapter("two", seed=2), "sentiment/sst-2@ukp", version="2")

    def yank(handler: Handler, seen: Seen) -> bool:
        if not seen.path.endswith("/yank"):
            return False
        handler.rfile.read(int(seen.headers["content-length"]))
        sst2.entries[1] = dataclasses.replace(sst2.entries[1], yanked=True)
        sst2.write()
        handler.answer(200, b"{}")
        return True

    hub = LoopbackHub(sst2.folder, max_age=3600, faults=[yank])
    try:
        with HubClient(endpoint=hub.url, token=TOKEN) as client:
            assert client.resolve("sst-2", model_name=MODEL).version == "2"
            client.yank(f"{sst2.entries[1].adapter}:2", reason="trained on test data")
            assert client.resolve("sst-2", model_name=MODEL).version == "1"
            asked = len(hub.seen)
            assert client.resolve("sst-2", model_name=MODEL).version == "1" and len(hub.seen) == asked
    finally:
        hub.close()


def test_a_folder_that_is_none_says_so(client: HubClient, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", Path(__file__)):
        with pytest.raises(ValidationFailedError) as error:
            client.publish(path, "sentiment/sst-2@ukp", version="1")
        assert re.search("folder", error.value.message)


def test_yanking_needs_one_version_of_one_adapter(client: HubClient) -> None:
    for reference in ("sst-2@ukp:1", "@ukp/name"):
        with pytest.raises(InvalidReferenceError):
            client.yank(reference)
    with pytest.raises(AdapterNotFoundError):
        client.yank("@ukp/name:1", reason="because")
