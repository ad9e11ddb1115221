"""The real client and the real server with a proxy between them that misbehaves, and what only both together can show."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.hub import Hub, command

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "packages" / "hub-client" / "tests"))

from exports import MODEL, write_adapter  # noqa: E402 - the client's own test parts
from loopback import Handler, LoopbackHub, Seen  # noqa: E402

from adapterhub.client import (  # noqa: E402
    AdapterHubError,
    AdapterNotFoundError,
    HubClient,
    IntegrityError,
    PolicyError,
    VersionExistsError,
    list_adapters,
    resolve,
)
from adapterhub.client.transport import Limits  # noqa: E402

QUICK = Limits(connect=5, read=20, backoff=0.002, longest_pause=0.02)
TRIES = int(os.environ.get("ADAPTERHUB_FAULT_TRIES") or 30)
PROCESSES = int(os.environ.get("ADAPTERHUB_TEST_PROCESSES") or 8)


class Proxy(LoopbackHub):
    """Passes requests on to the hub; `faults` come first, `spoil` changes what comes back."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        super().__init__(folder)
        self.hub = hub
        self.spoil: Callable[[Handler, Seen, int, bytes, dict[str, str]], bool] | None = None
        self.sent = 0
        self.lock = threading.Lock()
        self.faults.append(self.forward)

    def forward(self, handler: Handler, seen: Seen) -> bool:
        length = int(seen.headers.get("content-length") or 0)
        body = handler.rfile.read(length) if length else None
        kept = {k: v for k, v in seen.headers.items() if k not in ("host", "connection", "content-length")}
        upstream = http.client.HTTPConnection("127.0.0.1", self.hub.port, timeout=30)
        try:
            upstream.request(seen.method, seen.path, body=body, headers=kept)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        headers = {
            k: v
            for k, v in answer.getheaders()
            if k.lower() not in ("connection", "transfer-encoding", "date", "server")
        }
        if seen.method != "HEAD" and answer.status != 304:
            headers["content-length"] = str(len(data))
        if self.spoil is not None and self.spoil(handler, seen, answer.status, data, headers):
            return True
        with self.lock:
            self.sent += len(data)
        handler.begin(answer.status, headers)
        if seen.method != "HEAD":
            handler.wfile.write(data)
        return True


@pytest.fixture
def proxy(hub: Hub, tmp_path: Path, client: dict[str, str]) -> Iterator[Proxy]:
    made = Proxy(hub, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def acme(hub: Hub) -> str:
    """A token of the organisation acme."""
    hub.administer("org", "create", "acme")
    return hub.administer("token", "create", "--org", "acme")


@pytest.fixture(scope="module")
def published(hub: Hub, acme: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sentiment/sst-2@acme` version 1, 1.2 MB."""
    folder = write_adapter(tmp_path_factory.mktemp("published") / "adapter", hidden=768, layers=4)
    home = tmp_path_factory.mktemp("publisher")
    with HubClient(endpoint=hub.endpoint, token=acme, cache_dir=home) as client:
        assert client.publish(folder, "sentiment/sst-2@acme", version="1").created
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sound(cache: Path) -> bool:
    blobs = [path for path in (cache / "blobs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def test_a_cold_resolve_takes_two_requests_and_a_pinned_warm_one_none(
    proxy: Proxy, published: Path, tmp_path: Path
) -> None:
    for reference, most in (("sentiment/sst-2", 1), ("sst-2", 2), ("sst", 3)):
        proxy.seen.clear()
        proxy.sent = 0
        found = resolve(
            reference, model_name=MODEL, endpoint=proxy.url, cache_dir=tmp_path / f"cold-{reference[:3]}-{most}"
        )
        assert len(proxy.seen) <= most and proxy.sent <= 16_000, (reference, len(proxy.seen), proxy.sent)
    with HubClient(endpoint=proxy.url) as client:
        folder = client.download(found.reference)
        proxy.seen.clear()
        assert client.download(found.reference) == folder and client.resolve(found.reference).digest == found.digest
        assert proxy.seen == []


def test_a_connection_cut_at_every_64_kB_both_ways(proxy: Proxy, hub: Hub, acme: str, tmp_path: Path) -> None:
    cut = 65_536

    def spoil(handler: Handler, seen: Seen, status: int, data: bytes, headers: dict[str, str]) -> bool:
        if not seen.path.startswith("/v1/blobs/") or len(data) <= cut:
            return False
        handler.begin(status, headers)
        handler.wfile.write(data[:cut])
        handler.cut()
        return True

    proxy.spoil = spoil
    folder = write_adapter(tmp_path / "adapter", hidden=768, layers=4, seed=21)
    with HubClient(endpoint=proxy.url, token=acme, limits=QUICK) as client:
        client.publish(folder, "sentiment/cut@acme", version="1")
        assert contents(client.download("cut", model_name=MODEL)) == contents(folder)
    large = (folder / "adapter.safetensors").stat().st_size
    parts = [seen for seen in proxy.requests("/v1/blobs/") if "range" in seen.headers]
    assert len(parts) >= large // cut - 1


def test_an_upload_survives_a_hub_that_drops_connections(proxy: Proxy, hub: Hub, acme: str, tmp_path: Path) -> None:
    """Every other request that carries bytes is passed on but its answer is lost."""
    lost = iter([True, False] * 50)

    def spoil(handler: Handler, seen: Seen, status: int, data: bytes, headers: dict[str, str]) -> bool:
        if seen.method in ("PATCH", "PUT") and next(lost):
            handler.cut()
            return True
        return False

    proxy.spoil = spoil
    folder = write_adapter(tmp_path / "adapter", hidden=256, seed=22)
    with HubClient(endpoint=proxy.url, token=acme, limits=QUICK) as client:
        result = client.publish(folder, "sentiment/lost@acme", version="1")
        assert client.publish(folder, "sentiment/lost@acme", version="1").created is False
        assert client.resolve("lost", model_name=MODEL).digest == result.digest


def test_nothing_is_half_published_when_the_hub_goes_away(hub: Hub, proxy: Proxy, acme: str, tmp_path: Path) -> None:
    """The connection is refused for good at the n-th request, for every n, until a publish goes through."""
    folder = write_adapter(tmp_path / "adapter", hidden=128, seed=23)
    limits = Limits(attempts=1)
    for allowed in range(60):
        budget = iter([True] * allowed)

        def fail(handler: Handler, seen: Seen, budget: Iterator[bool] = budget) -> bool:
            if next(budget, False):
                return False
            handler.cut()
            return True

        proxy.faults.insert(0, fail)
        try:
            with HubClient(endpoint=proxy.url, token=acme, limits=limits, cache_dir=tmp_path / "c") as client:
                done = client.publish(folder, "sentiment/half@acme", version="1")
        except AdapterHubError:
            done = None
        finally:
            proxy.faults.remove(fail)
        with HubClient(endpoint=hub.endpoint, cache_dir=tmp_path / f"reader-{allowed}") as reader:
            try:
                assert contents(reader.download("sentiment/half", model_name=MODEL)) == contents(folder)
                break
            except AdapterNotFoundError:
                assert done is None
    assert allowed > 8 and (done is None or done.created)


def test_random_faults_between_the_real_client_and_the_real_server(
    proxy: Proxy, published: Path, tmp_path: Path
) -> None:
    """Each answer is spoilt with probability 0.35 in one of eight ways."""
    dice = random.Random(42)
    kinds = {"ok": 0, "error": 0}

    def spoil(handler: Handler, seen: Seen, status: int, data: bytes, headers: dict[str, str]) -> bool:
        if dice.random() > 0.35 or status >= 400 or not data:
            return False
        kind = dice.randrange(8)
        plain = {**headers, "content-length": str(len(data))}
        if kind == 0:
            handler.answer(dice.choice([429, 500, 502, 503]), b"busy")
        elif kind == 1:
            handler.begin(status, plain)
            handler.wfile.write(data[: dice.randrange(len(data))])
            handler.cut()
        elif kind == 2:
            handler.cut()
        elif kind == 3:
            at = dice.randrange(len(data))
            handler.begin(status, plain)
            handler.wfile.write(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        elif kind == 4:
            short = data[: dice.randrange(len(data))]
            handler.begin(status, {**headers, "content-length": str(len(short))})
            handler.wfile.write(short)
        elif kind == 5:
            handler.begin(status, {**headers, "content-length": str(len(data) + 9)})
            handler.wfile.write(data + b"surprise!")
        elif kind == 6:
            packed = gzip.compress(data)
            handler.begin(status, {**headers, "content-length": str(len(packed)), "content-encoding": "gzip"})
            handler.wfile.write(packed)
        else:
            handler.answer(302, b"", {"Location": f"{proxy.url}{seen.path}"})
        return True

    proxy.spoil = spoil
    for number in range(TRIES):
        cache = tmp_path / f"cache-{number}"
        with HubClient(endpoint=proxy.url, limits=QUICK, cache_dir=cache) as client:
            try:
                assert contents(client.download("sentiment/sst-2@acme", model_name=MODEL)) == contents(published)
                kinds["ok"] += 1
            except AdapterHubError:
                kinds["error"] += 1
        assert sound(cache)
    print(f"{TRIES} tries: {kinds}; {len(proxy.seen)} requests")
    assert kinds["ok"] > TRIES // 4
    proxy.spoil = None
    for number in range(TRIES):
        with HubClient(endpoint=proxy.url, cache_dir=tmp_path / f"cache-{number}") as client:
            assert contents(client.download("sentiment/sst-2@acme", model_name=MODEL)) == contents(published)


def test_processes_pulling_at_once_from_the_real_server(
    hub: Hub, published: Path, client: dict[str, str], tmp_path: Path
) -> None:
    line = [command("adapterhub"), "pull", "sentiment/sst-2@acme", "--model", MODEL]
    running = [
        subprocess.Popen(line, env=client, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    results = [(*process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, _, code in results] == [0] * PROCESSES, results[0][1]
    [folder] = {out.strip() for out, _, _ in results}
    assert contents(Path(folder)) == contents(published)
    assert sound(Path(client["ADAPTERHUB_CACHE"]))


def test_a_hub_restored_from_an_old_backup_is_noticed(
    hub: Hub, acme: str, tmp_path: Path, client: dict[str, str]
) -> None:
    hub.administer("backup", str(tmp_path / "backup"))
    folder = write_adapter(tmp_path / "adapter", hidden=128, seed=31)
    with HubClient(endpoint=hub.endpoint, token=acme) as writer:
        writer.publish(folder, "sentiment/later@acme", version="1")
    with HubClient(endpoint=hub.endpoint) as reader:
        reader.resolve("sentiment/later", model_name=MODEL)
        old = Hub(tmp_path / "restored", tmp_path / "restored.log")
        old.administer("restore", str(tmp_path / "backup"))
        port, hub_port = hub.port, old.port
        hub.stop()
        old.port = port
        old.start()
        try:
            with pytest.raises(PolicyError, match="older than one seen before"):
                reader.resolve("sentiment/later", model_name=MODEL)
        finally:
            old.stop()
            hub.start()
        assert hub_port and reader.resolve("sentiment/later", model_name=MODEL)


def test_yank_and_tombstones_as_the_client_sees_them(
    hub: Hub, acme: str, tmp_path: Path, client: dict[str, str]
) -> None:
    folder = write_adapter(tmp_path / "adapter", hidden=128, seed=41)
    with HubClient(endpoint=hub.endpoint, token=acme) as writer:
        result = writer.publish(folder, "sentiment/pulled@acme", version="1")
        writer.yank(result.reference, reason="trained on the test set")
        with pytest.raises(AdapterNotFoundError):
            writer.resolve("sentiment/pulled", model_name=MODEL)
        with pytest.warns(UserWarning, match="trained on the test set"):
            assert contents(writer.download(result.reference)) == contents(folder)
        writer.yank(result.reference, undo=True)
        assert writer.resolve("sentiment/pulled", model_name=MODEL).version == "1"
        (folder / "README.md").write_text("# other\n")
        with pytest.raises(VersionExistsError):
            writer.publish(folder, "sentiment/pulled@acme", version="1")


def test_the_static_export_is_a_hub_for_the_client(
    hub: Hub, published: Path, tmp_path: Path, client: dict[str, str]
) -> None:
    hub.administer("export-static", str(tmp_path / "export"))
    live = resolve("sst-2@acme", model_name=MODEL, endpoint=hub.endpoint)
    web = LoopbackHub(tmp_path / "export")
    try:
        for number, endpoint in enumerate((str(tmp_path / "export"), web.url)):
            with HubClient(endpoint=endpoint, cache_dir=tmp_path / f"cache-{number}") as reader:
                assert reader.resolve("sst-2@acme", model_name=MODEL).digest == live.digest
                assert contents(reader.download("sst-2@acme", model_name=MODEL)) == contents(published)
                names = {info.adapter_id for info in reader.list_adapters(model_name=MODEL)}
                assert live.adapter in names
    finally:
        web.close()
    assert {info.adapter_id for info in list_adapters(model_name=MODEL, endpoint=hub.endpoint)} >= {live.adapter}


@pytest.fixture(scope="module")
def catalogue_hub(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Iterator[Hub]:
    """A hub with the real catalogue imported."""
    folder = tmp_path_factory.mktemp("catalogue")
    made = Hub(folder / "data", folder / "log")
    made.administer("import-catalogue", str(test_data / "hub-catalogue"))
    made.start()
    yield made
    made.stop()


def test_the_resolution_cases_over_a_live_hub(
    catalogue_hub: Hub, test_data: Path, tmp_path: Path, client: dict[str, str]
) -> None:
    """Through the sparse index and, where it refuses, with what only the live hub knows: other models, close names."""
    cases: list[dict[str, Any]] = json.loads((test_data / "resolution" / "cases.json").read_bytes())
    plain = [case for case in cases if not case["aliases"]]
    wrong, told = [], 0
    with HubClient(endpoint=catalogue_hub.endpoint, cache_dir=tmp_path / "cases", limits=QUICK) as reader:
        for case in plain:
            expect = case["expect"]
            asked = {"model_name": case["model_name"], "config": case["config"], "type": case["type"]}
            try:
                found = reader.resolve(case["ref"], **asked, aliases={})
                answer = {"ok": (found.full_id, found.name, found.version, found.tier, found.decided_by)}
            except AdapterHubError as error:
                answer = {"error": error.code}
            if "ok" in expect:
                good = expect["ok"]
                same = answer.get("ok") == (
                    good["id"],
                    good["adapter"],
                    good["version"],
                    good["tier"],
                    good["decided_by"],
                )
            else:
                same = answer.get("error") == expect["error"]
            if not same:
                wrong.append((case["id"], case["ref"], answer, expect))
        for case in [case for case in plain if case["expect"].get("error") == "NotFound"][:40]:
            try:  # with the hub's own aliases, so that it may be asked for what it knows
                reader.resolve(case["ref"], model_name=case["model_name"], config=case["config"], type=case["type"])
            except AdapterNotFoundError as error:
                if sorted(error.details.get("models") or []) == sorted(case["expect"]["models"]):
                    told += 1
            except AdapterHubError:
                pass
    assert wrong == []
    assert told >= 30


def test_no_answer_of_a_wrong_hub_is_believed(proxy: Proxy, published: Path, tmp_path: Path) -> None:
    """A proxy that swaps the bytes of every blob and manifest of the right size."""

    def spoil(handler: Handler, seen: Seen, status: int, data: bytes, headers: dict[str, str]) -> bool:
        if not seen.path.startswith(("/v1/blobs/", "/v1/manifests/")) or not data:
            return False
        handler.begin(status, headers)
        handler.wfile.write(bytes(len(data)))
        return True

    proxy.spoil = spoil
    with (
        HubClient(endpoint=proxy.url, limits=QUICK, cache_dir=tmp_path / "fresh") as client,
        pytest.raises(IntegrityError),
    ):
        client.download("sentiment/sst-2@acme", model_name=MODEL)
    assert sound(tmp_path / "fresh")


def test_index_files_travel_compressed_and_checked(proxy: Proxy, published: Path, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def look(handler: Handler, request: Seen, status: int, data: bytes, headers: dict[str, str]) -> bool:
        seen.append({key.lower(): value for key, value in headers.items()} | {"bytes": str(len(data))})
        return False

    proxy.spoil = look
    with HubClient(endpoint=proxy.url, cache_dir=tmp_path / "packed") as client:
        assert client.resolve("sentiment/sst-2@acme", model_name=MODEL)
        [answer] = seen
        assert answer["content-encoding"] == "gzip" and int(answer["bytes"]) < 900
        assert "content-digest" in answer and int(answer["adapterhub-serial"]) > 0
        client.resolve("sentiment/sst-2@acme", model_name=MODEL)
    assert proxy.seen[-1].headers["if-none-match"] == answer["etag"] and int(seen[-1]["bytes"]) == 0
