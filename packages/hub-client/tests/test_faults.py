"""Downloads and look-ups through a hub, or a proxy before it, that misbehaves: right bytes or a typed error, never less."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import Fault, Handler, LoopbackHub, Seen

from adapterhub.client import (
    AdapterHubError,
    AmbiguousAdapterError,
    HubClient,
    HubConnectionError,
    IntegrityError,
    InvalidReferenceError,
    PolicyError,
    QuotaExceededError,
)
from adapterhub.client.transport import Limits
from adapterhub.spec.errors import InvalidManifestError

QUICK = Limits(connect=2, read=2, head=20, backoff=0.001, longest_pause=0.01, floor_rate=50_000, floor_window=0.3)
TOKEN = "ahub_0123456789abcdefghij"
TRIES = int(os.environ.get("ADAPTERHUB_FAULT_TRIES") or 50)


@pytest.fixture
def client(hub: LoopbackHub) -> Iterator[HubClient]:
    with HubClient(endpoint=hub.url, limits=QUICK, token=TOKEN) as made:
        yield made


@pytest.fixture
def weights(sst2: Export, tmp_path: Path) -> str:
    """Digest of the largest file of the adapter."""
    data = (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    return "sha256:" + hashlib.sha256(data).hexdigest()


def only(prefix: str, fault: Fault, times: int | None = None) -> Fault:
    """`fault` for GET requests of paths that begin with `prefix`, the first `times` of them."""
    left = [times]

    def chosen(handler: Handler, seen: Seen) -> bool:
        if not seen.path.startswith(prefix) or left[0] == 0:
            return False
        if left[0] is not None:
            left[0] -= 1
        return fault(handler, seen)

    return chosen


def same_bytes(folder: Path, tmp_path: Path) -> bool:
    published = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    return {path.name: path.read_bytes() for path in folder.iterdir()} == published


def unbroken(cache: Path) -> bool:
    """Everything under a final name in the cache is what its name says."""
    blobs = [path for path in (cache / "blobs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def sliced(handler: Handler, seen: Seen, size: int) -> bytes:
    """What is left of the file from the asked start on, answered by a proper head."""
    body = handler.body_of(seen) or b""
    start = handler.start_of(seen, len(body)) or 0
    headers = {"Content-Length": str(len(body) - start), "Content-Type": "application/octet-stream"}
    if "range" in seen.headers:
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.begin(206 if "range" in seen.headers else 200, headers)
    return body[start : start + size]


# -- broken connections ---------------------------------------------------------------------------------------------------


def test_a_connection_cut_at_every_64_kB_is_taken_up_where_it_broke(
    hub: LoopbackHub, client: HubClient, weights: str, tmp_path: Path
) -> None:
    sent = 0

    def cut(handler: Handler, seen: Seen) -> bool:
        nonlocal sent
        piece = sliced(handler, seen, 65536)
        handler.wfile.write(piece)
        sent += len(piece)
        handler.cut()
        return True

    hub.faults.append(only(f"/v1/blobs/{weights}", cut))
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)
    size = (tmp_path / "adapter" / "adapter.safetensors").stat().st_size
    assert size > 10 * 65536 and sent <= size + 65536


def test_a_proxy_that_forgets_ranges_only_costs_time(
    hub: LoopbackHub, client: HubClient, weights: str, tmp_path: Path
) -> None:
    cuts = iter([100_000, 200_000, 300_000])

    def forgetful(handler: Handler, seen: Seen) -> bool:
        seen.headers.pop("range", None)
        size = next(cuts, None)
        if size is None:
            return False
        handler.wfile.write(sliced(handler, seen, size))
        handler.cut()
        return True

    hub.faults.append(only(f"/v1/blobs/{weights}", forgetful))
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


@pytest.mark.parametrize("lie", ["other start", "other size", "no range at all"])
def test_a_wrong_content_range_is_never_appended(
    hub: LoopbackHub, client: HubClient, weights: str, tmp_path: Path, lie: str
) -> None:
    def half(handler: Handler, seen: Seen) -> bool:
        handler.wfile.write(sliced(handler, seen, 100_000))
        handler.cut()
        return True

    def wrong(handler: Handler, seen: Seen) -> bool:
        body = handler.body_of(seen) or b""
        start = handler.start_of(seen, len(body))
        if start is None:
            return False
        told = {
            "other start": f"bytes 0-{len(body) - 1}/{len(body)}",
            "other size": f"bytes {start}-{len(body)}/{len(body) + 1}",
        }
        handler.answer(206, body[start:], {"Content-Range": told[lie]} if lie in told else {})
        return True

    hub.faults += [only(f"/v1/blobs/{weights}", half, 1), only(f"/v1/blobs/{weights}", wrong, 1)]
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


def test_a_truncated_file_is_never_taken_for_the_whole(
    hub: LoopbackHub, client: HubClient, sst2: Export, weights: str, tmp_path: Path
) -> None:
    blob = sst2.blob(weights)
    data = blob.read_bytes()
    blob.write_bytes(data[: len(data) // 2])
    with pytest.raises((HubConnectionError, IntegrityError)):
        client.download("sst-2", model_name=MODEL)
    assert client.cache.find_blob(weights) is None and client.cache.snapshots() == []
    blob.write_bytes(data)
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


# -- wrong bytes ----------------------------------------------------------------------------------------------------------


def test_wrong_bytes_of_the_right_size_are_never_kept(
    hub: LoopbackHub, client: HubClient, sst2: Export, weights: str, tmp_path: Path
) -> None:
    blob = sst2.blob(weights)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="not those asked for"):
        client.download("sst-2", model_name=MODEL)
    assert client.cache.find_blob(weights) is None and client.cache.snapshots() == []
    assert not list((client.cache.root / "partial").glob("*"))
    blob.write_bytes(data)
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


def test_a_bit_that_falls_over_once_is_asked_for_again(
    hub: LoopbackHub, client: HubClient, weights: str, tmp_path: Path
) -> None:
    def flip(handler: Handler, seen: Seen) -> bool:
        body = handler.body_of(seen) or b""
        handler.answer(200, body[:5] + bytes([body[5] ^ 8]) + body[6:])
        return True

    hub.faults.append(only(f"/v1/blobs/{weights}", flip, 1))
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


def test_a_prefix_that_rotted_on_disk_is_found_by_hashing_it_again(
    hub: LoopbackHub, client: HubClient, weights: str, tmp_path: Path
) -> None:
    cache = client.cache
    data = (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    (cache.root / "partial").mkdir(parents=True)
    left = cache.root / "partial" / f"{weights[7:]}.0-feedfeed.part"
    left.write_bytes(b"\0" + data[1:200_000])
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)
    first, second = hub.requests(f"/v1/blobs/{weights}")
    assert first.headers["range"] == "bytes=200000-" and "range" not in second.headers
    assert not list((cache.root / "partial").iterdir())


def test_a_length_beyond_what_is_due_is_refused_before_a_byte_is_kept(
    hub: LoopbackHub, client: HubClient, weights: str
) -> None:
    def endless(handler: Handler, seen: Seen) -> bool:
        handler.begin(200, {"Content-Length": str(1 << 40)})
        handler.wfile.write(b"\0" * 1_000_000)
        handler.cut()
        return True

    hub.faults.append(only(f"/v1/blobs/{weights}", endless))
    with pytest.raises(IntegrityError, match="announces"):
        client.download("sst-2", model_name=MODEL)
    assert not list((client.cache.root / "partial").iterdir())


def test_an_endless_body_without_length_is_cut_off(hub: LoopbackHub, client: HubClient, weights: str) -> None:
    def endless(handler: Handler, seen: Seen) -> bool:
        handler.begin(200, {"Connection": "close"})
        handler.close_connection = True
        for _ in range(1000):
            handler.wfile.write(b"\0" * 65536)
        return True

    hub.faults.append(only(f"/v1/blobs/{weights}", endless))
    with pytest.raises(IntegrityError):
        client.download("sst-2", model_name=MODEL)
    assert client.transport(client.settings.hub()).received < 30_000_000
    assert not list((client.cache.root / "partial").iterdir())


def test_a_compressing_proxy_does_no_harm(hub: LoopbackHub, client: HubClient, tmp_path: Path) -> None:
    def compress(handler: Handler, seen: Seen) -> bool:
        body = handler.body_of(seen)
        if body is None or "range" in seen.headers:
            return False
        handler.answer(200, gzip.compress(body), {"Content-Encoding": "gzip"})
        return True

    hub.faults.append(compress)
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_a_compression_that_was_not_asked_for_is_refused(
    hub: LoopbackHub, client: HubClient, weights: str, encoding: str
) -> None:
    def compressed(handler: Handler, seen: Seen) -> bool:
        handler.answer(200, gzip.compress(handler.body_of(seen) or b""), {"Content-Encoding": encoding})
        return True

    hub.faults.append(only("/v1/blobs/" + weights, compressed))
    with pytest.raises(HubConnectionError, match="not asked for"):
        client.download("sst-2", model_name=MODEL)


def test_a_compressed_file_that_never_ends_takes_no_memory(hub: LoopbackHub, client: HubClient, weights: str) -> None:
    """A gzip bomb of 64 MB where 300 kB are due, handed over in one piece of 64 kB."""
    import tracemalloc

    bomb = gzip.compress(b"\0" * (1 << 26))

    def explode(handler: Handler, seen: Seen) -> bool:
        handler.answer(200, bomb, {"Content-Encoding": "gzip"})
        return True

    hub.faults.append(only("/v1/blobs/" + weights, explode))
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="more than"):
            client.download("sst-2", model_name=MODEL)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
    assert unbroken(client.cache.root)


def test_nobody_is_recognised_by_a_cookie(hub: LoopbackHub, client: HubClient, tmp_path: Path) -> None:
    def marked(handler: Handler, seen: Seen) -> bool:
        handler.answer(200, handler.body_of(seen) or b"", {"Set-Cookie": "who=42; Path=/; Max-Age=9999999"})
        return True

    hub.faults.append(only("/v1/", marked))
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)
    assert len(hub.requests("/v1/")) > 2 and not any("cookie" in seen.headers for seen in hub.seen)


def test_a_decompression_bomb_is_cut_off(hub: LoopbackHub, sst2: Export) -> None:
    bomb = gzip.compress(b"\n" * 50_000_000)
    hub.faults.append(
        only("/index/", lambda handler, seen: handler.answer(200, bomb, {"Content-Encoding": "gzip"}) is None)
    )
    small = Limits(backoff=0.001, longest_pause=0.01, small=1_000_000)
    with pytest.raises(IntegrityError):
        HubClient(endpoint=hub.url, limits=small).resolve("sst-2", model_name=MODEL)


# -- manifests ------------------------------------------------------------------------------------------------------------


def test_a_manifest_that_is_not_its_digest_is_refused(hub: LoopbackHub, client: HubClient, sst2: Export) -> None:
    hub.faults.append(only("/v1/manifests/", lambda handler, seen: handler.answer(200, b"{}") is None))
    with pytest.raises(IntegrityError, match="manifest"):
        client.download("sst-2", model_name=MODEL)
    assert client.cache.snapshots() == []


def test_an_index_that_points_to_another_adapters_manifest_is_refused(
    hub: LoopbackHub, client: HubClient, sst2: Export, adapter: Callable[..., Path]
) -> None:
    import dataclasses

    other = sst2.publish(adapter("other", seed=9), "nli/mnli@ukp", version="1")
    sst2.entries[0] = dataclasses.replace(sst2.entries[0], digest=other.digest)
    sst2.write()
    with pytest.raises(IntegrityError, match="tampered"):
        client.download("sst-2", model_name=MODEL)


@pytest.mark.parametrize(
    "path", ["../../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:evil", "CON.json", ".complete"]
)
def test_file_names_that_leave_the_folder_are_refused(
    hub: LoopbackHub, client: HubClient, sst2: Export, path: str, tmp_path: Path
) -> None:
    import dataclasses

    entry = sst2.entries[0]
    document = json.loads((sst2.folder / "v1" / "manifests" / str(entry.digest)).read_bytes())
    document["files"][0]["path"] = path
    data = json.dumps(document).encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    (sst2.folder / "v1" / "manifests" / digest).write_bytes(data)
    sst2.entries[0] = dataclasses.replace(entry, digest=digest)
    sst2.write()
    with pytest.raises(InvalidManifestError):
        client.download("sst-2", model_name=MODEL)
    assert not list(tmp_path.rglob("evil")) and client.cache.snapshots() == []


# -- storms and slowness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_storm_that_passes_is_ridden_out(hub: LoopbackHub, client: HubClient, tmp_path: Path, status: int) -> None:
    for prefix in ("/index/", "/v1/manifests/", "/v1/blobs/"):
        hub.faults.append(only(prefix, lambda handler, seen: handler.answer(status, b"busy") is None, 3))
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)


@pytest.mark.parametrize(
    ("status", "error"), [(429, QuotaExceededError), (500, HubConnectionError), (503, HubConnectionError)]
)
def test_a_storm_that_stays_ends_in_a_typed_error_after_five_tries(
    hub: LoopbackHub, client: HubClient, status: int, error: type[AdapterHubError]
) -> None:
    hub.faults.append(lambda handler, seen: handler.answer(status, b"busy") is None)
    with pytest.raises(error):
        client.resolve("sst-2", model_name=MODEL)
    assert len(hub.seen) == 5


def test_what_is_refused_for_good_is_not_asked_again(hub: LoopbackHub, client: HubClient) -> None:
    hub.faults.append(lambda handler, seen: handler.answer(400, b"no") is None)
    with pytest.raises(HubConnectionError):
        client.resolve("sst-2", model_name=MODEL)
    assert len(hub.seen) == 1


def test_retry_after_is_waited_for_up_to_its_limit(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    hub.faults.append(only("/index/", lambda h, s: h.answer(429, b"", {"Retry-After": "7"}) is None, 1))
    date = formatdate(time.time() + 5, usegmt=True)
    hub.faults.append(only("/index/", lambda h, s: h.answer(503, b"", {"Retry-After": date}) is None, 1))
    with HubClient(endpoint=hub.url, limits=QUICK) as client:
        client.transport(client.settings.hub()).sleep = pauses.append
        assert client.resolve("sst-2", model_name=MODEL)
    assert 7 <= pauses[0] < 7.1 and 3.5 < pauses[1] < 5.1
    hub.faults.append(lambda h, s: h.answer(429, b"", {"Retry-After": "3600"}) is None)
    with HubClient(endpoint=hub.url, limits=QUICK) as patient, pytest.raises(QuotaExceededError):
        patient.transport(patient.settings.hub()).sleep = pauses.append
        patient.resolve("nli/other", model_name=MODEL)
    assert len(pauses) == 2


def test_a_slow_drip_is_cut_off_and_what_came_is_kept(
    hub: LoopbackHub, client: HubClient, weights: str, tmp_path: Path
) -> None:
    def drip(handler: Handler, seen: Seen) -> bool:
        body = sliced(handler, seen, 1 << 30)
        handler.wfile.write(body[:100_000])
        handler.drip(body[100_000:], every=0.02)
        return True

    hub.faults.append(only(f"/v1/blobs/{weights}", drip, 1))
    # at this rate the rest would take hours
    assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)
    assert int(hub.requests(f"/v1/blobs/{weights}")[1].headers["range"][6:-1]) >= 100_000


def test_a_server_that_goes_silent_ends_in_a_time_out(hub: LoopbackHub, sst2: Export) -> None:
    def silent(handler: Handler, seen: Seen) -> bool:
        time.sleep(0.5)
        handler.cut()
        return True

    hub.faults.append(silent)
    limits = Limits(read=0.1, attempts=2, backoff=0.001)
    with pytest.raises(HubConnectionError, match="in time"), HubClient(endpoint=hub.url, limits=limits) as client:
        client.resolve("sst-2", model_name=MODEL)


@pytest.mark.parametrize("piece", [b"X-Slow: 1\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["drip", "interim answers"])
def test_a_head_that_never_ends_is_cut_off_and_asked_for_again(hub: LoopbackHub, sst2: Export, piece: bytes) -> None:
    """Each byte comes in time; the whole never does."""

    def endless(handler: Handler, seen: Seen) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if piece.startswith(b"X") else b"")
        try:
            handler.drip(piece * 100_000, every=0.02, piece=len(piece))
        except OSError:
            handler.close_connection = True
        return True

    hub.faults.append(only("/index/", endless, times=1))
    with HubClient(endpoint=hub.url, limits=dataclasses.replace(QUICK, head=1.5)) as client:
        assert client.resolve("sst-2", model_name=MODEL).version == "1"
    hub.faults.append(only("/index/", endless))
    limits = dataclasses.replace(QUICK, head=0.2, attempts=2)
    with (
        HubClient(endpoint=hub.url, limits=limits, cache_dir=sst2.folder / "cache") as client,
        pytest.raises(HubConnectionError, match="in time"),
    ):
        client.resolve("sst-2", model_name=MODEL)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_file_is_not_taken_for_an_empty_one(
    hub: LoopbackHub, client: HubClient, status: int
) -> None:
    def nothing(handler: Handler, seen: Seen) -> bool:
        handler.begin(status, {})
        return True

    hub.faults.append(only("/index/", nothing))
    with pytest.raises(HubConnectionError, match=str(status)):
        client.resolve("sst-2", model_name=MODEL)


@pytest.mark.parametrize(
    "problem",
    [
        {"code": ["NotFound"], "detail": {"a": 1}, "hint": 5, "candidates": 7, "suggestions": {"a": 1}},
        {"code": "ValidationFailed", "problems": 3, "retry": True, "http_status": "x"},
        {"code": "Ambiguous", "candidates": [1, None, {"id": 2}], "suggestions": [[], "x"], "retry_after": []},
    ],
)
def test_a_problem_document_of_the_wrong_types_is_a_typed_error_all_the_same(
    hub: LoopbackHub, client: HubClient, problem: dict[str, object]
) -> None:
    def refuse(handler: Handler, seen: Seen) -> bool:
        handler.answer(400, json.dumps(problem).encode(), {"Content-Type": "application/problem+json"})
        return True

    hub.faults.append(only("/v1/manifests/", refuse))
    with pytest.raises(AdapterHubError) as error:
        client.download("sst-2", model_name=MODEL)
    assert all(isinstance(word, str) for word in error.value.suggestions)


def test_a_login_page_is_not_taken_for_an_index(hub: LoopbackHub, client: HubClient) -> None:
    page = b"<html>please log in</html>"
    hub.faults.append(lambda h, s: h.answer(200, page, {"Content-Type": "text/html; charset=utf-8"}) is None)
    with pytest.raises(HubConnectionError, match="HTML"):
        client.resolve("sst-2", model_name=MODEL)


# -- redirects and tokens -------------------------------------------------------------------------------------------------


def test_a_redirect_elsewhere_is_followed_without_the_token(
    hub: LoopbackHub, client: HubClient, sst2: Export, tmp_path: Path
) -> None:
    elsewhere = LoopbackHub(sst2.folder)
    hub.faults.append(lambda h, s: h.answer(302, b"", {"Location": elsewhere.url + s.path}) is None)
    try:
        assert same_bytes(client.download("sst-2", model_name=MODEL), tmp_path)
    finally:
        elsewhere.close()
    assert all(seen.headers.get("authorization") == f"Bearer {TOKEN}" for seen in hub.seen)
    assert elsewhere.seen and not any("authorization" in seen.headers for seen in elsewhere.seen)


def test_a_redirect_there_and_back_does_not_get_the_token_again(
    hub: LoopbackHub, client: HubClient, sst2: Export
) -> None:
    elsewhere = LoopbackHub(sst2.folder)
    elsewhere.faults.append(lambda h, s: h.answer(302, b"", {"Location": f"{hub.url}{s.path}?back"}) is None)
    hub.faults.append(
        lambda h, s: not s.path.endswith("?back") and h.answer(302, b"", {"Location": elsewhere.url + s.path}) is None
    )
    try:
        client.resolve("sst-2", model_name=MODEL)
    finally:
        elsewhere.close()
    back = [seen for seen in hub.seen if seen.path.endswith("?back")]
    assert back and not any("authorization" in seen.headers for seen in back + elsewhere.seen)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_scheme_is_refused(hub: LoopbackHub, client: HubClient, target: str) -> None:
    hub.faults.append(lambda h, s: h.answer(302, b"", {"Location": target}) is None)
    with pytest.raises(PolicyError):
        client.resolve("sst-2", model_name=MODEL)


@pytest.mark.parametrize("target", ["http://someone:secret@127.0.0.1:9/x", "//someone@127.0.0.1:9/x"])
def test_a_redirect_that_names_a_user_is_refused(hub: LoopbackHub, client: HubClient, target: str) -> None:
    hub.faults.append(lambda h, s: h.answer(302, b"", {"Location": target}) is None)
    with pytest.raises(PolicyError, match="user name") as error:
        client.resolve("sst-2", model_name=MODEL)
    assert "secret" not in str(error.value)


def test_a_circle_of_redirects_ends(hub: LoopbackHub, client: HubClient) -> None:
    hub.faults.append(lambda h, s: h.answer(302, b"", {"Location": s.path}) is None)
    with pytest.raises(HubConnectionError, match="redirects more than"):
        client.resolve("sst-2", model_name=MODEL)
    assert len(hub.seen) == 6


def test_no_token_in_errors_logs_or_the_cache(
    hub: LoopbackHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERHUB_DEBUG", "1")
    hub.faults.append(only("/v1/blobs/", lambda h, s: h.answer(401, b"who are you") is None))
    with HubClient(endpoint=hub.url, limits=QUICK, token=TOKEN) as client, pytest.raises(AdapterHubError) as error:
        client.download("sst-2", model_name=MODEL)
    out, err = capfd.readouterr()
    assert "GET http://127.0.0.1" in err
    assert TOKEN not in out + err + str(error.value) + repr(error.value.details)
    assert not any(TOKEN.encode() in path.read_bytes() for path in client.cache.root.rglob("*") if path.is_file())


# -- an index that goes back in time ----------------------------------------------------------------------------------------


def test_an_index_older_than_one_seen_before_is_refused(
    hub: LoopbackHub, client: HubClient, sst2: Export, adapter: Callable[..., Path]
) -> None:
    hub.max_age = 0
    before = list(sst2.entries)
    sst2.publish(adapter("newer", seed=2), "sentiment/sst-2@ukp", version="2", created_at="2026-03-04T05:06:07Z")
    assert client.resolve("sst-2", model_name=MODEL).version == "2"
    sst2.entries = before
    sst2.write()
    with pytest.raises(PolicyError, match="older than one seen before"):
        client.resolve("sst-2", model_name=MODEL)


def test_a_version_whose_digest_changed_is_refused(
    hub: LoopbackHub, client: HubClient, sst2: Export, adapter: Callable[..., Path]
) -> None:
    hub.max_age = 0
    client.resolve("sst-2", model_name=MODEL)
    sst2.entries = []
    sst2.publish(adapter("swapped", seed=66), "sentiment/sst-2@ukp", version="1")
    with pytest.raises(IntegrityError, match="other content"):
        client.resolve("sst-2", model_name=MODEL)


def test_a_serial_that_goes_down_is_refused_and_one_that_goes_up_may_take_versions_out(
    hub: LoopbackHub, client: HubClient, sst2: Export, adapter: Callable[..., Path]
) -> None:
    hub.max_age, hub.serial = 0, 10
    sst2.publish(adapter("bad", seed=2), "sentiment/sst-2@ukp", version="2", created_at="2026-03-04T05:06:07Z")
    client.resolve("sst-2", model_name=MODEL)
    sst2.entries = sst2.entries[:1]  # version 2 was quarantined
    sst2.write()
    hub.serial = 11
    assert client.resolve("sst-2", model_name=MODEL).version == "1"
    hub.serial = 9
    sst2.add([])
    (sst2.folder / "index").touch()
    for file in sst2.folder.glob("index/k/*.jsonl"):
        file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(PolicyError, match="serial 9 after 11"):
        client.resolve("sst-2", model_name=MODEL)


def test_an_address_that_becomes_another_hub_is_refused_until_told_otherwise(
    hub: LoopbackHub, client: HubClient
) -> None:
    hub.max_age, hub.id = 0, "first"
    client.resolve("sst-2", model_name=MODEL)
    hub.id = "second"
    for fresh in (client, HubClient(endpoint=hub.url)):
        with pytest.raises(PolicyError, match="another hub than before"):
            fresh.resolve("sst-2", model_name=MODEL)
        with pytest.raises(PolicyError, match="second instead of first"):
            fresh.resolve("something/else", model_name=MODEL)
    hub.id = None  # a proxy that drops the header proves nothing
    assert client.resolve("sst-2", model_name=MODEL).version == "1"
    hub.id = "second"
    from adapterhub.client.cli import main

    assert main(["cache", "rm", "--index"]) == 0
    with HubClient(endpoint=hub.url) as trusting:
        assert trusting.resolve("sst-2", model_name=MODEL).version == "1"


def test_a_folder_that_becomes_the_copy_of_another_hub_is_refused(sst2: Export) -> None:
    config = sst2.folder / "index" / "config.json"
    for hub_id in ("first", "second"):
        config.write_text(json.dumps({"hub_id": hub_id, "index_version": 1}))
        with HubClient(endpoint=str(sst2.folder)) as client:
            if hub_id == "first":
                client.resolve("sst-2", model_name=MODEL)
            else:
                with pytest.raises(PolicyError, match="another hub"):
                    client.resolve("sst-2", model_name=MODEL)


def test_what_a_crowded_file_shows_may_change_but_nothing_may_leave_a_page(
    hub: LoopbackHub, client: HubClient, sst2: Export
) -> None:
    hub.max_age = 0
    first = sst2.entries[0]
    crowd = [
        dataclasses.replace(first, namespace=f"p{n}", name=f"a{n}", digest=f"sha256:{n:064x}", version="1")
        for n in range(60)
    ]
    sst2.entries = [*crowd]
    sst2.write()
    assert client.resolve("sentiment/sst-2@p7", model_name=MODEL).namespace == "p7"
    with pytest.raises(AmbiguousAdapterError, match="60 adapters") as caught:
        client.resolve("sentiment/sst-2", model_name=MODEL)
    assert len(hub.requests("/index/a/")) == 0
    assert len(caught.value.candidates) == 60
    assert len(hub.requests("/index/a/")) == 1
    sst2.entries = [*reversed(crowd)]  # others are shown now
    sst2.write()
    with pytest.raises(AmbiguousAdapterError, match="60 adapters"):
        client.resolve("sentiment/sst-2", model_name=MODEL)
    sst2.entries = [
        dataclasses.replace(one, digest="sha256:" + "f" * 64) if one.namespace == "p7" else one for one in crowd
    ]
    sst2.write()
    with pytest.raises(IntegrityError, match="other content"):
        client.resolve("sentiment/sst-2@p7", model_name=MODEL)


def test_a_clock_set_back_makes_copies_old_not_eternal(hub: LoopbackHub, client: HubClient) -> None:
    client.resolve("sst-2", model_name=MODEL)
    asked = len(hub.requests("/index/"))
    index = client._index(client.settings.hub())
    now = time.time()
    index.clock = lambda: now - 100_000
    client.resolve("sst-2", model_name=MODEL)
    assert len(hub.requests("/index/")) > asked
    index.clock = lambda: now + 100_000
    asked = len(hub.requests("/index/"))
    client.resolve("sst-2", model_name=MODEL)
    assert len(hub.requests("/index/")) > asked


def test_a_broken_copy_of_an_index_file_is_asked_for_anew(hub: LoopbackHub, client: HubClient) -> None:
    client.resolve("sst-2", model_name=MODEL)
    for file in client.cache.root.glob("index/**/*.jsonl"):
        data = file.read_bytes()
        file.write_bytes(data.replace(b"sentiment", b"sentimenu"))
    assert client.resolve("sentiment/sst-2", model_name=MODEL).full_id == "sentiment/sst-2@ukp"


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"[1]\n", b"{}\n", b'{"v":1,"namespace":3}\n', b"{" * 10000, b"\n" * 1000]
)
def test_nonsense_for_an_index_file_is_a_typed_error(hub: LoopbackHub, client: HubClient, body: bytes) -> None:
    hub.faults.append(only("/index/", lambda h, s: h.answer(200, body, {"Content-Type": "application/jsonl"}) is None))
    with pytest.raises(AdapterHubError):
        client.resolve("sst-2", model_name=MODEL)


# -- everything at once -----------------------------------------------------------------------------------------------------


def test_random_mixtures_of_faults(hub: LoopbackHub, sst2: Export, tmp_path: Path) -> None:
    """Each try sees every answer spoilt with probability 0.4 in one of nine ways. What comes out is the published bytes or
    a typed error; what stays in the cache is sound; and the next try with a sound hub succeeds."""
    dice = random.Random(20261120)
    tries, survived = TRIES, 0

    spoilt = 0

    def spoil(handler: Handler, seen: Seen) -> bool:
        nonlocal spoilt
        if dice.random() > 0.4:
            return False
        spoilt += 1
        kind = dice.randrange(9)
        body = handler.body_of(seen)
        if body is None or kind == 0:
            handler.answer(dice.choice([429, 500, 502, 503, 504]), b"busy")
        elif kind == 1:
            handler.wfile.write(sliced(handler, seen, dice.randrange(1, len(body) + 1)))
            handler.cut()
        elif kind == 2:
            handler.cut()
        elif kind == 3:
            at = dice.randrange(len(body))
            handler.answer(200, body[:at] + bytes([body[at] ^ 64]) + body[at + 1 :])
        elif kind == 4:
            handler.answer(200, body[: dice.randrange(len(body))])
        elif kind == 5:
            handler.answer(200, body + b"more")
        elif kind == 6:
            handler.answer(206, body[7:], {"Content-Range": f"bytes 7-{len(body) - 1}/{len(body)}"})
        elif kind == 7:
            handler.answer(200, gzip.compress(body), {"Content-Encoding": "gzip"})
        else:
            handler.answer(404, b"gone")
        return True

    for number in range(tries):
        hub.faults[:] = [spoil]
        cache = tmp_path / f"cache-{number % 10}"
        with HubClient(endpoint=hub.url, limits=QUICK, cache_dir=cache) as client:
            try:
                assert same_bytes(client.download("sentiment/sst-2@ukp", model_name=MODEL), tmp_path)
                survived += 1
            except AdapterHubError as error:
                assert not isinstance(error, InvalidReferenceError)
            hub.faults.clear()
            assert unbroken(cache)
            if number % 10 == 9:
                assert same_bytes(client.download("sentiment/sst-2@ukp", model_name=MODEL), tmp_path)
        if number % 3 == 0:
            with HubClient(cache_dir=cache) as sweeper:
                for info in sweeper.cache.snapshots():
                    sweeper.cache.remove(info.digest)
    print(
        f"{tries} tries, {len(hub.seen)} requests, {spoilt} of them spoilt: {survived} succeeded, the rest were typed errors"
    )
    assert survived > tries // 4


@pytest.mark.parametrize("digests", [True, False], ids=["with Content-Digest", "without"])
def test_a_broken_index_answer_is_not_kept_though_its_etag_is_right(
    hub: LoopbackHub, client: HubClient, digests: bool
) -> None:
    hub.max_age, hub.digests = 0, digests

    def spoil(handler: Handler, seen: Seen) -> bool:
        body = handler.body_of(seen) or b""
        broken = body.replace(b"sentiment", b"sentimenu") if digests else body + b"surprise!"
        head = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'}
        if digests:
            import base64

            head["Content-Digest"] = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        handler.answer(200, broken, head)
        return True

    hub.faults.append(only("/index/k/", spoil, 3 if not digests else 1))
    if digests:
        assert client.resolve("sentiment/sst-2", model_name=MODEL).full_id == "sentiment/sst-2@ukp"
    else:  # asked twice, then given up: nothing of it is kept
        with pytest.raises(InvalidManifestError):
            client.resolve("sentiment/sst-2", model_name=MODEL)
    for _ in range(2):
        assert client.resolve("sentiment/sst-2", model_name=MODEL).full_id == "sentiment/sst-2@ukp"
