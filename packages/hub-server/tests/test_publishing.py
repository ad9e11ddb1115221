"""From bytes to a published version: uploads, the manifest commit, and everything that must be refused."""

from __future__ import annotations

import concurrent.futures
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, manifest_of, publish, upload, upload_folder

from adapterhub.server.operations.verification import prune, verify
from adapterhub.server.publishing import service, uploads, validation
from adapterhub.spec.heads import parse_head
from adapterhub.spec.manifest import Manifest


def test_a_published_adapter_is_resolved_and_its_bytes_come_back(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    answer = publish(client, folder, "sentiment/sst-2@demo", "1.0")
    assert answer.status_code == 201
    published = answer.json()
    assert published["full_id"] == "sentiment/sst-2@demo"
    assert published["page"].startswith(hub.url)
    found = hub.http.get("/v1/resolve", params={"ref": "sentiment/sst-2@demo", "model": "bert-base-uncased"}).json()
    assert (found["version"], found["tier"], found["digest"]) == ("1.0", "exact", published["digest"])
    body = hub.http.get(f"/v1/manifests/{found['digest']}").content
    assert digest_of(body) == found["digest"]
    for file in json.loads(body)["files"]:
        data = hub.http.get(f"/v1/blobs/{file['digest']}").content
        assert data == (folder / file["path"]).read_bytes()


def test_publishing_the_same_twice_changes_nothing_and_other_content_is_refused(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    client = hub.member("demo")
    manifest = manifest_of(folder)
    upload_folder(client, folder)
    first = client.post("/v1/publish", json={"manifest": manifest.to_json()})
    again = client.post("/v1/publish", json={"manifest": manifest.to_json()})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["digest"] == again.json()["digest"]
    other = publish(client, write_folder(tmp_path / "other", seed=1))
    assert other.status_code == 409
    assert other.json()["code"] == "VersionExists"
    lines = hub.http.get("/index/ns/de/demo/bert-base-uncased-sentiment-sst-2-pfeiffer.jsonl").text.splitlines()
    assert [json.loads(line)["digest"] for line in lines] == [manifest.digest]


def test_one_of_many_concurrent_publishes_of_a_version_wins(hub: Hub, tmp_path: Path) -> None:
    client = hub.member("demo")
    manifests = []
    for seed in range(6):
        folder = write_folder(tmp_path / str(seed), seed=seed)
        upload_folder(client, folder)
        manifests.append(manifest_of(folder).to_json())
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda m: client.post("/v1/publish", json={"manifest": m}), manifests * 2))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 201] + [409] * 10
    winner = next(answer.json()["digest"] for answer in answers if answer.status_code == 201)
    found = hub.http.get("/v1/resolve", params={"ref": "sst", "model": "bert-base-uncased"}).json()
    assert found["digest"] == winner


def test_an_upload_goes_on_where_it_stopped(hub: Hub) -> None:
    client = hub.member("demo")
    data = bytes(range(256)) * 4000
    location = client.post("/v1/uploads").headers["location"]
    assert (
        client.patch(location, content=data[:300_000], headers={"Upload-Offset": "0"}).headers["upload-offset"]
        == "300000"
    )
    assert client.head(location).headers["upload-offset"] == "300000"
    wrong = client.patch(location, content=data[500_000:], headers={"Upload-Offset": "500000"})
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, "300000")
    client.patch(location, content=data[300_000:], headers={"Upload-Offset": "300000"}).raise_for_status()
    done = client.put(location, params={"digest": digest_of(data)})
    assert done.json() == {"digest": digest_of(data), "size": len(data)}
    assert client.get(f"/v1/blobs/{digest_of(data)}").content == data
    assert client.head(location).status_code == 404


def test_what_arrived_before_the_connection_broke_is_kept(hub: Hub) -> None:
    client = hub.member("demo")
    data = bytes(range(256)) * 8192
    location = client.post("/v1/uploads").headers["location"]

    def breaking() -> object:
        yield data[: 1024 * 1024]
        raise ConnectionAbortedError("cut")

    with pytest.raises(ConnectionAbortedError):
        client.patch(location, content=breaking(), headers={"Upload-Offset": "0"})
    offset, deadline = 0, time.monotonic() + 60
    while not offset and time.monotonic() < deadline:
        offset = int(client.head(location).headers["upload-offset"])
    assert 0 < offset <= 1024 * 1024
    client.patch(location, content=data[offset:], headers={"Upload-Offset": str(offset)}).raise_for_status()
    assert client.put(location, params={"digest": digest_of(data)}).status_code == 201


def test_bytes_of_another_digest_are_discarded(hub: Hub) -> None:
    client = hub.member("demo")
    location = client.post("/v1/uploads").headers["location"]
    client.patch(location, content=b"corrupted", headers={"Upload-Offset": "0"})
    answer = client.put(location, params={"digest": digest_of(b"intended")})
    assert (answer.status_code, answer.json()["code"]) == (422, "Integrity")
    assert answer.json()["found"] == digest_of(b"corrupted")
    assert client.head(location).status_code == 404
    assert client.head(f"/v1/blobs/{digest_of(b'corrupted')}").status_code == 404
    assert client.post("/v1/uploads", params={"digest": digest_of(b"a")}, content=b"b").status_code == 422


def test_an_empty_file_can_be_uploaded(hub: Hub) -> None:
    client = hub.member("demo")
    location = client.post("/v1/uploads").headers["location"]
    assert client.put(location, params={"digest": digest_of(b"")}).json() == {"digest": digest_of(b""), "size": 0}


def test_a_manifest_needs_its_bytes(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    answer = client.post("/v1/publish", json={"manifest": manifest_of(folder).to_json()})
    assert answer.status_code == 422
    assert {problem["pointer"] for problem in answer.json()["problems"]} == {f"/files/{n}/digest" for n in range(3)}
    assert hub.http.get("/v1/resolve", params={"ref": "sst-2", "model": "bert-base-uncased"}).status_code == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"config_id": "sha256:" + "0" * 64}, "/config_id"),
        ({"surprise": 1}, "/surprise"),
        ({"type": "text_lang"}, "/type"),
        ({"created_at": "yesterday"}, "/created_at"),
        ({"version": "../1"}, "/version"),
        ({"head": parse_head({"head_type": "classification", "num_labels": 2}).expand()}, "/head"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_the_place(
    hub: Hub, folder: Path, change: dict[str, object], pointer: str
) -> None:
    client = hub.member("demo")
    upload_folder(client, folder)
    answer = client.post("/v1/publish", json={"manifest": {**manifest_of(folder).to_json(), **change}})
    assert answer.status_code == 422
    assert answer.json()["code"] == "ValidationFailed"
    assert pointer in [problem["pointer"] for problem in answer.json()["problems"]]


def test_the_tensor_table_must_be_that_of_the_weights(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    upload_folder(client, folder)
    manifest = manifest_of(folder).to_json()
    manifest["tensors"][0]["shape"] = [1, 48]
    answer = client.post("/v1/publish", json={"manifest": manifest})
    assert [problem["pointer"] for problem in answer.json()["problems"]] == ["/tensors"]


def test_weights_that_are_no_safetensors_are_refused_whatever_the_manifest_says(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    manifest = manifest_of(folder).to_json()
    upload_folder(client, folder)
    pickle = b"\x80\x04\x95" + bytes(500)
    digest = upload(client, pickle)
    for file in manifest["files"]:
        if file["path"] == "adapter.safetensors":
            file.update(digest=digest, size=len(pickle))
    answer = client.post("/v1/publish", json={"manifest": manifest})
    assert answer.status_code == 422
    assert any(problem.get("file") == "adapter.safetensors" for problem in answer.json()["problems"])


def test_files_of_other_kinds_are_refused(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    upload_folder(client, folder)
    digest = upload(client, b"import os")
    manifest = manifest_of(folder).to_json()
    manifest["files"].append({"path": "model.py", "size": 9, "digest": digest, "media_type": "text/plain"})
    answer = client.post("/v1/publish", json={"manifest": manifest})
    assert "/files/3/path" in [problem["pointer"] for problem in answer.json()["problems"]]


def test_who_may_publish(hub: Hub, folder: Path) -> None:
    manifest = {"manifest": manifest_of(folder).to_json()}
    hub.member("demo")
    other = hub.member("other")
    reader = hub.client(hub.token(hub.organisation("third"), scopes=("read",)))
    expected = {hub.http: 401, other: 403, reader: 403, hub.client("ahub_" + "x" * 40): 401}
    for client, status in expected.items():
        answer = client.post("/v1/publish", json=manifest)
        assert (answer.status_code, answer.json()["code"]) == (status, "Authentication")
    assert hub.http.post("/v1/uploads").headers["www-authenticate"].startswith("Bearer")


def test_a_second_version_keeps_model_and_task(hub: Hub, folder: Path, tmp_path: Path) -> None:
    client = hub.member("demo")
    name = "@demo/mine"
    more = {"task": "sentiment", "subtask": "sst-2"}
    assert publish(client, folder, name, "1", **more).status_code == 201
    roberta = write_folder(tmp_path / "roberta", model="roberta-base", seed=1)
    answer = publish(client, roberta, name, "2", **more)
    assert (answer.status_code, answer.json()["code"]) == (409, "Publish")
    newer = publish(client, write_folder(tmp_path / "new", seed=2), name, "2", **more)
    assert newer.status_code == 201
    assert hub.http.get("/v1/resolve", params={"ref": "@demo/mine"}).json()["version"] == "2"


def test_names_are_kept_as_first_spelt(hub: Hub, folder: Path, tmp_path: Path) -> None:
    client = hub.member("Demo")
    publish(client, folder, "Sentiment/SST-2@demo", "1", name="My_Adapter").raise_for_status()
    publish(
        client, write_folder(tmp_path / "b", seed=3), "sentiment/sst_2@DEMO", "2", name="my-adapter"
    ).raise_for_status()
    found = hub.http.get("/v1/resolve", params={"ref": "@demo/MY.ADAPTER"}).json()
    assert (found["namespace"], found["version"]) == ("Demo", "2")
    assert found["name"] == "My_Adapter"


def test_bytes_of_others_that_are_not_public_cannot_be_claimed_by_their_digest(hub: Hub, folder: Path) -> None:
    owner = hub.member("owner", private=True)
    upload_folder(owner, folder)
    thief = hub.member("thief")
    digest = digest_of((folder / "adapter.safetensors").read_bytes())
    assert owner.head(f"/v1/blobs/{digest}").status_code == 200
    assert thief.head(f"/v1/blobs/{digest}").status_code == 404
    answer = thief.post("/v1/publish", json={"manifest": manifest_of(folder, "sentiment/sst-2@thief").to_json()})
    assert answer.status_code == 422


def test_validate_tells_all_problems_and_keeps_nothing(hub: Hub, folder: Path) -> None:
    files = [("files", (path.name, path.read_bytes())) for path in folder.iterdir()]
    assert hub.http.post("/v1/validate", files=files).json() == {"problems": []}
    nested = [("files", (f"my-adapter/{name}", data)) for _, (name, data) in files]
    assert hub.http.post("/v1/validate", files=nested).json() == {"problems": []}
    files.append(("files", ("evil.bin", b"\x80\x04")))
    problems = hub.http.post("/v1/validate", files=files).json()["problems"]
    assert [problem["file"] for problem in problems] == ["evil.bin"]
    assert hub.http.post("/v1/validate", content=b"x").status_code == 422
    escape = hub.http.post("/v1/validate", files=[("files", ("../../etc/passwd", b"x"))]).json()["problems"]
    assert escape[0]["severity"] == "error"


def test_limits_are_told(hub: Hub, settings: object, tmp_path: Path) -> None:
    client = hub.member("demo")
    big = {"manifest": {"description": "x" * (3 * 1024 * 1024)}}
    answer = client.post("/v1/publish", json=big)
    assert (answer.status_code, answer.json()["code"]) == (413, "QuotaExceeded")
    encoded = client.post("/v1/publish", content=b"", headers={"Content-Encoding": "gzip"})
    assert encoded.status_code == 415


def test_malformed_json_is_told_as_a_problem(hub: Hub) -> None:
    client = hub.member("demo")
    for body in (b"{", b"[]", b'{"manifest": 1}', b'{"manifest": {}, "x": 1}', b"\xff\xfe", b"null"):
        answer = client.post("/v1/publish", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, body
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_the_manifest_on_the_hub_is_the_one_the_client_built(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    manifest = manifest_of(folder, citation="@article{…}", license="MIT", languages=["en"])
    upload_folder(client, folder)
    client.post("/v1/publish", json={"manifest": manifest.to_json()}).raise_for_status()
    body = hub.http.get(f"/v1/manifests/{manifest.digest}").content
    assert Manifest.from_bytes(body) == manifest
    assert httpx.get(f"{hub.url}/v1/manifests/sha256:{'0' * 64}").status_code == 404


def test_dependencies_are_resolved_when_something_is_published(hub: Hub, tmp_path: Path) -> None:
    client = hub.member("demo")
    language = write_folder(tmp_path / "en", seed=1, type="text_lang")
    publish(client, language, "en/wiki@demo", "1", name="en").raise_for_status()
    hidden = hub.member("secret", private=True)
    publish(hidden, write_folder(tmp_path / "h", seed=2), "en/internal@secret", name="h").raise_for_status()
    digest = hub.http.get("/v1/resolve", params={"ref": "@demo/en"}).json()["digest"]

    def attempt(number: int, *dependencies: object) -> list[str]:
        folder = write_folder(tmp_path / f"task-{number}", seed=10 + number)
        answer = publish(client, folder, "sentiment/sst-2@demo", str(number), name="task", dependencies=dependencies)
        return [problem["pointer"] for problem in answer.json()["problems"]] if answer.status_code == 422 else []

    assert attempt(1, "@demo/en:1", {"reference": "en/wiki@demo", "digest": digest}, "elsewhere::@them/theirs") == []
    assert attempt(2, "@demo/absent", "en/wiki@demo") == ["/dependencies/0/reference"]
    assert attempt(3, "en/wiki@demo:9") == ["/dependencies/0/reference"]
    assert attempt(4, "@secret/h") == ["/dependencies/0/reference"]  # what is public stands on nothing private
    assert attempt(5, {"reference": "@demo/en", "digest": "sha256:" + "0" * 64}) == ["/dependencies/0/digest"]
    assert attempt(6, "no reference at all") == ["/dependencies/0/reference"]
    body = hub.http.get("/v1/resolve", params={"ref": "@demo/task"}).json()
    assert body["version"] == "1"


def test_an_upload_is_finished_again_when_the_answer_was_lost(hub: Hub) -> None:
    client = hub.member("demo")
    location = client.post("/v1/uploads").json()["location"]
    for offset, piece in ((0, b"first "), (6, b"second")):
        client.patch(location, content=piece, headers={"Upload-Offset": str(offset)}).raise_for_status()
    digest = digest_of(b"first second")
    answers = [client.put(location, params={"digest": digest}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json() == {"digest": digest, "size": 12}
    assert client.put(location, params={"digest": digest_of(b"other")}).status_code == 404
    assert hub.member("other").put(location, params={"digest": digest}).status_code == 404


@pytest.mark.parametrize("pieces", [[b"whole"], [b"in ", b"two"]])
def test_an_upload_survives_a_death_between_bytes_and_records(
    hub: Hub, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = hub.member("demo")
    location = client.post("/v1/uploads").json()["location"]
    for number, piece in enumerate(pieces):
        offset = str(len(b"".join(pieces[:number])))
        client.patch(location, content=piece, headers={"Upload-Offset": offset}).raise_for_status()
    data = b"".join(pieces)

    def die(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "_keep", die)
        assert client.put(location, params={"digest": digest_of(data)}).status_code == 500
    assert client.put(location, params={"digest": digest_of(data)}).status_code == 201
    assert client.get(f"/v1/blobs/{digest_of(data)}").content == data
    assert prune(hub.storage, hours=0) == 1  # nothing but the blob itself, which no version uses


@pytest.mark.parametrize("way", ["whole", "large", "pieces"])
def test_files_nobody_publishes_count_against_the_quota_too(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(uploads, "_SMALL", 100 if way == "large" else 10**6)
    client, operator = hub.member("demo"), hub.operator()
    operator.patch("/v1/organisations/demo", json={"max_bytes": 1000}).raise_for_status()

    def bring(letter: bytes, size: int = 400) -> int:
        data = letter * size
        if way != "pieces":
            return client.post("/v1/uploads", params={"digest": digest_of(data)}, content=data).status_code
        location = client.post("/v1/uploads").json()["location"]
        return client.patch(location, content=data, headers={"Upload-Offset": "0"}).status_code

    assert [bring(letter) // 100 for letter in (b"a", b"b")] == [2, 2]
    assert bring(b"c") == 413  # 200 are left
    assert bring(b"d", 200) // 100 == 2
    refused = client.post("/v1/uploads", params={"digest": digest_of(b"x")}, content=b"x")
    assert refused.status_code == 413 and "not published yet" in refused.json()["detail"]
    assert hub.member("other").post("/v1/uploads", params={"digest": digest_of(b"x")}, content=b"x").status_code == 201
    operator.patch("/v1/organisations/demo", json={"max_bytes": 10**6}).raise_for_status()
    assert publish(client, folder).status_code == 201


def test_what_is_published_counts_once(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    size = sum(path.stat().st_size for path in folder.iterdir())
    hub.operator().patch("/v1/organisations/demo", json={"max_bytes": size + 10}).raise_for_status()
    assert publish(client, folder).status_code == 201
    assert client.post("/v1/uploads", params={"digest": digest_of(b"0123")}, content=b"0123").status_code == 201
    data = b"0123456789"
    assert client.post("/v1/uploads", params={"digest": digest_of(data)}, content=data).status_code == 413


def test_only_so_many_folders_are_validated_at_once(hub: Hub) -> None:
    def check() -> Any:
        return hub.http.post("/v1/validate", files={"files": ("adapter_config.json", b"{}")})

    for _ in range(validation.AT_ONCE):
        hub.app.state.validating.acquire()
    refused = check()
    assert refused.status_code == 429 and refused.headers["retry-after"] == "2"
    assert refused.json()["code"] == "QuotaExceeded"
    hub.app.state.validating.release()
    assert [check().status_code for _ in range(3)] == [200] * 3  # each gives its place back


def test_an_upload_has_only_so_many_pieces(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_MOST_PIECES", 2)
    client = hub.member("demo")
    location = client.post("/v1/uploads").json()["location"]
    codes = [
        client.patch(location, content=b"x", headers={"Upload-Offset": str(offset)}).status_code for offset in range(3)
    ]
    assert codes == [204, 204, 429]


def test_what_killed_processes_left_behind_is_pruned_and_nothing_else(hub: Hub, folder: Path) -> None:
    client = hub.member("demo")
    publish(client, folder).raise_for_status()
    going_on = client.post("/v1/uploads").json()["location"]
    client.patch(going_on, content=b"going on", headers={"Upload-Offset": "0"}).raise_for_status()
    store = hub.storage.blobs
    stray = store.put(b"got its name, and was never written down")
    obstore.put(store.store, "uploads/0123/00000000000000000000-abcd", b"a piece nobody knows")
    left = 2
    if store.folder is not None:
        half = store.folder / "blobs" / "sha256" / "ab" / "abcd#1"  # what obstore leaves of an unfinished write
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half")
        left = 3
    assert prune(hub.storage) == 0
    assert prune(hub.storage, hours=-1 / 60) == left  # as if a minute had gone by
    assert store.size(stray) is None
    assert verify(hub.storage).problems == verify(hub.storage).unused == []
    client.put(going_on, params={"digest": digest_of(b"going on")}).raise_for_status()


def test_a_quota_holds_when_many_publish_at_once(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, operator = hub.member("demo"), hub.operator()
    manifests = []
    for number in range(2):
        folder = write_folder(tmp_path / str(number), seed=number)
        upload_folder(client, folder)
        manifests.append(manifest_of(folder, f"sentiment/sst-{number}@demo", name=f"a{number}"))
    both = threading.Barrier(2, timeout=60)
    checked = service.content_problems

    def together(*given: Any) -> list[Any]:
        both.wait()  # each has seen that there is room for one more
        return checked(*given)

    monkeypatch.setattr(service, "content_problems", together)
    operator.patch("/v1/organisations/demo", json={"max_bytes": manifests[0].size * 3 // 2}).raise_for_status()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda one: client.post("/v1/publish", json={"manifest": one.to_json()}), manifests))
    assert sorted(answer.status_code for answer in answers) == [201, 413]


def test_bytes_pruned_while_they_are_being_published_are_asked_for_again(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = hub.member("demo")
    upload_folder(client, folder)
    checked = service.content_problems

    def pruned(*given: Any) -> list[Any]:
        problems = checked(*given)
        prune(hub.storage, hours=-1)
        return problems

    monkeypatch.setattr(service, "readme_of", lambda *_: "")
    with monkeypatch.context() as patched:
        patched.setattr(service, "content_problems", pruned)
        refused = client.post("/v1/publish", json={"manifest": manifest_of(folder).to_json()})
    assert refused.status_code == 422 and "not uploaded" in refused.text
    assert publish(client, folder).status_code == 201
    assert verify(hub.storage).problems == []


def test_a_text_no_database_keeps_is_refused_and_not_failed_at(hub: Hub) -> None:
    for path in ("/v1/organisations/%00", "/v1/adapters/@a/%00", "/v1/adapters?q=a%00b", "/v1/resolve?ref=@a/%00"):
        assert hub.http.get(path).status_code in (200, 400, 404, 422), path
    client = hub.operator()
    made = client.post("/v1/organisations", json={"name": "zero", "display_name": "a\0b"})
    assert made.status_code in (201, 422)
