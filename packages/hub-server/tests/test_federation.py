"""A private hub in front of an upstream one: what is pulled through, and what never leaves."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import hub as hub_module
import pytest
from adapter_folder import write_folder
from conftest import Stores
from hub import Hub, digest_of, publish
from sqlalchemy import delete, select, update

from adapterhub.server.federation import upstream as upstream_module
from adapterhub.server.federation.tables import upstream_files
from adapterhub.server.operations.verification import prune_pulled, verify
from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import adapters, blobs, hub as hub_table, now
from adapterhub.spec.index import IndexEntry, bucket_path, word_path
from adapterhub.spec.lookup import look_up

MODEL = "bert-base-uncased"


class Asked:
    """ASGI middleware that writes down what a hub is asked."""

    def __init__(self, app) -> None:
        self.app = app
        self.lines: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            headers = b" ".join(name + b"=" + value for name, value in scope["headers"]).decode()
            self.lines.append(f"{scope['path']}?{scope['query_string'].decode()} {headers}")
        await self.app(scope, receive, send)


@dataclasses.dataclass
class Circle:
    """Hubs that name one another as upstream."""

    hubs: tuple[Hub, Hub]
    asked: list[Asked]

    def forget(self) -> None:
        """Forget what was asked, and what upstream answered."""
        for hub, watcher in zip(self.hubs, self.asked, strict=True):
            watcher.lines.clear()
            with hub.storage.database.write() as connection:
                connection.execute(delete(upstream_files))


@pytest.fixture
def both(
    settings: Settings, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, Hub, Asked]]:
    """Upstream with `public` and `shared`; in front of it a hub with a private `lab` and its own `shared`."""
    behind = Settings(data=tmp_path / "behind", log_level="warning", **stores.make(tmp_path / "behind"))  # type: ignore[arg-type]
    asked: list[Asked] = []
    create = hub_module.create_app

    def watched(given: Settings):
        app = create(given)
        if given is behind:
            wrapped = Asked(app)
            wrapped.state = app.state  # type: ignore[attr-defined]
            asked.append(wrapped)
            return wrapped
        return app

    monkeypatch.setattr(hub_module, "create_app", watched)
    with hub_module.serve(behind) as upstream:
        front_settings = dataclasses.replace(settings, upstream=upstream.url)
        with hub_module.serve(front_settings) as front:
            public, theirs = upstream.member("public"), upstream.member("shared")
            publish(
                public, write_folder(tmp_path / "p", seed=1), "sentiment/sst-2@public", name="bert-sst"
            ).raise_for_status()
            publish(public, write_folder(tmp_path / "q", seed=2), "nli/rte@public", name="bert-rte").raise_for_status()
            publish(theirs, write_folder(tmp_path / "r", seed=3), "nli/mnli@shared", name="theirs").raise_for_status()
            lab, ours = front.member("lab", private=True), front.member("shared")
            publish(
                lab, write_folder(tmp_path / "s", seed=4), "moonshot/secret-data@lab", name="hush"
            ).raise_for_status()
            publish(ours, write_folder(tmp_path / "t", seed=5), "nli/snli@shared", name="ours").raise_for_status()
            asked[0].lines.clear()
            yield front, upstream, asked[0]


@pytest.fixture
def circle(settings: Settings, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Circle]:
    """Two hubs that name each other as upstream, with an adapter each, and what they are asked."""
    nowhere = "http://127.0.0.1:9"
    other = Settings(data=tmp_path / "other", log_level="warning", upstream=nowhere, **stores.make(tmp_path / "other"))  # type: ignore[arg-type]
    asked: list[Asked] = []
    create = hub_module.create_app

    def watched(given: Settings):
        asked.append(Asked(create(given)))
        asked[-1].state = asked[-1].app.state  # type: ignore[attr-defined]
        return asked[-1]

    monkeypatch.setattr(hub_module, "create_app", watched)
    with (
        hub_module.serve(dataclasses.replace(settings, upstream=nowhere)) as one,
        hub_module.serve(other) as two,
    ):
        for running, behind, name in ((one, two, "one"), (two, one, "two")):
            running.app.state.upstream.address = behind.url
            with running.storage.database.write() as connection:  # the databases of tests are copies of one
                connection.execute(update(hub_table).where(hub_table.c.key == "id").values(text=f"hub-{name}"))
            folder = write_folder(tmp_path / name, seed=len(name) + ord(name[0]))
            publish(running.member(name), folder, f"nli/{name}@{name}", name=name).raise_for_status()
        for watcher in asked:
            watcher.lines.clear()
        yield Circle((one, two), asked)


def test_hubs_that_are_upstream_of_each_other_share_what_they_have_and_ask_in_no_circle(circle: Circle) -> None:
    nothing = f"sha256:{'0' * 64}"
    missing = ("/v1/resolve?ref=@none/a", f"/v1/resolve?ref=none/a&model={MODEL}", "/index/ns/no/none/a.jsonl")
    for path in (*missing, f"/v1/manifests/{nothing}", f"/v1/blobs/{nothing}"):
        for hub in circle.hubs:
            circle.forget()
            answer = hub.http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "NotFound"), path
            assert sum(len(watcher.lines) for watcher in circle.asked) <= 3, path
    for hub, name in zip(circle.hubs, ("two", "one"), strict=True):
        digest = hub.http.get("/v1/resolve", params={"ref": name, "model": MODEL}).raise_for_status().json()["digest"]
        for file in hub.http.get(f"/v1/manifests/{digest}").raise_for_status().json()["files"]:
            assert digest_of(hub.http.get(f"/v1/blobs/{file['digest']}").content) == file["digest"]
        assert hub.http.get(f"/index/ns/{name[:2]}/{name}/{name}.jsonl").status_code == 200
        for word in ("one", "two"):
            assert f'"{word}"' in hub.http.get(word_path(MODEL, word)).text


def test_hubs_that_ask_each_other_at_once_do_not_wait_for_one_another(circle: Circle) -> None:
    paths = [f"/v1/blobs/sha256:{number:064x}" for number in range(20)]
    start = threading.Barrier(2, timeout=60)

    def ask(hub: Hub) -> set[int]:
        found = set()
        for path in paths:
            start.wait()
            found.add(hub.http.get(path).status_code)
        return found

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, circle.hubs)) == [{404}, {404}]


def test_a_hub_that_is_its_own_upstream_answers_from_what_it_has(circle: Circle) -> None:
    hub = circle.hubs[0]
    hub.app.state.upstream.address = hub.url
    for path in ("/v1/resolve?ref=@none/a", "/index/ns/no/none/a.jsonl", f"/v1/blobs/sha256:{'0' * 64}"):
        circle.forget()
        assert hub.http.get(path).status_code == 404
        assert len(circle.asked[0].lines) == 2
    assert hub.http.get("/v1/resolve", params={"ref": "one", "model": MODEL}).status_code == 200
    assert hub.http.get(word_path(MODEL, "nli")).status_code == 200


def test_what_another_hub_passed_on_is_answered_and_not_kept(both: tuple[Hub, Hub, Asked]) -> None:
    front, _, asked = both
    where, through = (
        {"ref": "sst", "model": MODEL},
        {"Via": "1.0 cache (a, b), HTTP/1.1 adapterhub-x, 1.1 adapterhub-y"},
    )
    for times in (1, 2):
        front.http.get("/v1/resolve", params=where, headers=through).raise_for_status()
        assert len(asked.lines) == times
    assert "via=1.1 adapterhub-x, 1.1 adapterhub-y, 1.1 adapterhub-" in asked.lines[0]
    assert "cache" not in asked.lines[0]
    front.http.get("/v1/resolve", params=where).raise_for_status()
    for _ in range(2):  # what was said to this hub alone serves everybody
        front.http.get("/v1/resolve", params=where, headers=through).raise_for_status()
    assert len(asked.lines) == 3


def test_what_is_not_here_is_pulled_through_bit_for_bit(both: tuple[Hub, Hub, Asked], tmp_path: Path) -> None:
    front, upstream, asked = both
    found = front.http.get("/v1/resolve", params={"ref": "sst", "model": MODEL})
    assert found.json() == upstream.http.get("/v1/resolve", params={"ref": "sst", "model": MODEL}).json()
    digest = found.json()["digest"]
    body = front.http.get(f"/v1/manifests/{digest}").content
    assert digest_of(body) == digest
    asked.lines.clear()
    for _ in range(2):
        for file in json.loads(body)["files"]:
            assert front.http.get(f"/v1/blobs/{file['digest']}").content == (tmp_path / "p" / file["path"]).read_bytes()
    assert 1 <= len(asked.lines) == len(set(asked.lines)) <= 3  # what our own adapters have too is not asked for
    part = front.http.get(f"/v1/blobs/{json.loads(body)['files'][0]['digest']}", headers={"Range": "bytes=1-3"})
    assert part.status_code == 206


def test_what_was_pulled_long_ago_can_be_removed_and_is_pulled_again(
    both: tuple[Hub, Hub, Asked], tmp_path: Path
) -> None:
    front, _, asked = both
    digest = front.http.get("/v1/resolve", params={"ref": "sst", "model": MODEL}).json()["digest"]
    files = front.http.get(f"/v1/manifests/{digest}").json()["files"]

    def get() -> dict[str, bytes]:
        return {file["path"]: front.http.get(f"/v1/blobs/{file['digest']}").content for file in files}

    first = get()
    own = {blob.digest for blob in front.storage.blobs.stored()} - {file["digest"] for file in files}
    assert prune_pulled(front.storage, days=1) == 0
    with front.storage.database.read() as connection:
        ours = set(connection.execute(select(blobs.c.digest)).scalars())
    kept = {file["digest"] for file in files} & ours  # our own adapters have these bytes too
    assert prune_pulled(front.storage, days=-1) == len(files) - len(kept) > 0
    assert {blob.digest for blob in front.storage.blobs.stored()} == own | kept
    assert verify(front.storage).problems == []
    asked.lines.clear()
    assert get() == first == {name: (tmp_path / "p" / name).read_bytes() for name in first}
    assert len(asked.lines) == len(files) - len(kept)
    assert prune_pulled(front.storage, days=1) == 0


def test_a_namespace_that_is_ours_is_never_asked_for(both: tuple[Hub, Hub, Asked]) -> None:
    front, _, asked = both
    for path in (
        "/v1/resolve?ref=@shared/theirs",
        f"/v1/resolve?ref=nli/mnli@shared&model={MODEL}",
        "/index/ns/sh/shared/theirs.jsonl",
    ):
        assert front.http.get(path).status_code == 404
    assert asked.lines == []
    mixed = front.http.get("/v1/resolve", params={"ref": "mnli", "model": MODEL})
    assert mixed.status_code == 404  # upstream answers with a namespace that is ours: dropped
    digest = both[1].http.get("/v1/resolve", params={"ref": "@shared/theirs"}).json()["digest"]
    assert front.http.get(f"/v1/manifests/{digest}").status_code == 404


def test_private_names_never_leave(both: tuple[Hub, Hub, Asked], tmp_path: Path) -> None:
    front, _, asked = both
    weights = digest_of((tmp_path / "s" / "adapter.safetensors").read_bytes())
    paths = [
        "/v1/resolve?ref=@lab/hush",
        "/v1/resolve?ref=@lab/other",
        f"/v1/resolve?ref=moonshot/secret-data&model={MODEL}",
        f"/v1/resolve?ref=secret-data&model={MODEL}",
        f"/v1/resolve?ref=moonshot&model={MODEL}",
        "/index/ns/la/lab/hush.jsonl",
        "/index/ns/la/lab/nothing.jsonl",
        bucket_path(MODEL, "moonshot", "secret-data"),
        f"/v1/blobs/{weights}",
    ]
    for path in paths:
        assert front.http.get(path).status_code == 404, path
    token = front.token(1)
    own = front.client(token)
    assert own.get(f"/v1/resolve?ref=secret-data&model={MODEL}").json()["namespace"] == "lab"
    own.get("/v1/resolve", params={"ref": "sst", "model": MODEL}).raise_for_status()
    text = "\n".join(asked.lines)
    for secret in ("lab", "hush", "moonshot", "secret", weights, token, "authorization"):
        assert secret not in text.replace("label", ""), text
    assert len(asked.lines) == 1


def test_what_people_search_for_is_not_passed_on(both: tuple[Hub, Hub, Asked]) -> None:
    front, upstream, asked = both
    assert upstream.http.get("/v1/adapters", params={"q": "sst"}).json()["total"] == 1
    asked.lines.clear()
    for path in (
        "/v1/adapters?q=sst",
        "/search?q=secret+project",
        "/explore/task",
        "/v1/adapters?q=zzz",
        "/@public/bert-sst",
    ):
        front.http.get(path)
    assert front.http.get("/v1/adapters", params={"q": "sst"}).json()["total"] == 0
    assert asked.lines == []


def test_clients_resolve_through_the_merged_index(both: tuple[Hub, Hub, Asked]) -> None:
    front, _, _ = both

    def through_index(text: str) -> IndexEntry:
        steps = look_up(text, model_name=MODEL)
        try:
            paths = next(steps)
            while True:
                answers = {path: front.http.get(path) for path in paths}
                paths = steps.send({p: a.content if a.status_code == 200 else None for p, a in answers.items()})
        except StopIteration as done:
            entry: IndexEntry = done.value.entry
            return entry

    assert through_index("nli/rte").namespace == "public"
    assert through_index("snli").adapter == "@shared/ours"
    assert through_index("@public/bert-sst").digest
    assert through_index("sst-2@public").name == "bert-sst"
    bucket = front.http.get(bucket_path(MODEL, "nli", "mnli"))
    assert bucket.status_code == 404 or b'"theirs"' not in bucket.content
    words = front.http.get(word_path(MODEL, "nli")).text
    assert '"snli"' in words


def test_an_upstream_that_is_away_is_tolerated(both: tuple[Hub, Hub, Asked], tmp_path: Path) -> None:
    front, _, _ = both
    where = {"ref": "sst", "model": MODEL}
    digest = front.http.get("/v1/resolve", params=where).json()["digest"]
    manifest = front.http.get(f"/v1/manifests/{digest}").json()
    for file in manifest["files"]:
        front.http.get(f"/v1/blobs/{file['digest']}").raise_for_status()
    front.app.state.upstream.address = front.app.state.upstream.address.rsplit(":", 1)[0] + ":9"
    front.app.state.upstream._client = None
    with front.storage.database.write() as connection:
        connection.execute(update(upstream_files).values(fetched_at=now(hours=-5)))
    assert front.http.get("/v1/resolve", params=where).json()["digest"] == digest
    assert front.http.get(f"/v1/manifests/{digest}").status_code == 200
    for file in manifest["files"]:
        assert digest_of(front.http.get(f"/v1/blobs/{file['digest']}").content) == file["digest"]
    assert front.http.get("/v1/resolve", params={"ref": "snli", "model": MODEL}).status_code == 200
    unknown = front.http.get("/v1/resolve", params={"ref": "rte", "model": MODEL})
    assert (unknown.status_code, unknown.json()["code"]) == (502, "HubConnection")


def test_bytes_that_were_changed_on_the_way_are_not_passed_on(both: tuple[Hub, Hub, Asked], tmp_path: Path) -> None:
    import obstore

    front, upstream, _ = both
    weights = digest_of((tmp_path / "p" / "adapter.safetensors").read_bytes())
    blobs = upstream.storage.blobs
    size = blobs.size(weights)
    assert size
    obstore.put(blobs.store, blobs.path_of(weights), b"x" * size)
    answer = front.http.get(f"/v1/blobs/{weights}")
    assert (answer.status_code, answer.json()["code"]) == (422, "Integrity")
    assert front.storage.blobs.size(weights) is None


def test_bytes_that_upstream_shows_are_given_even_where_the_same_are_private_here(
    both: tuple[Hub, Hub, Asked], tmp_path: Path
) -> None:
    front, upstream, _ = both
    config = digest_of((tmp_path / "s" / "adapter_config.json").read_bytes())
    with front.storage.database.write() as connection:
        connection.execute(adapters.update().values(private=True))
    assert front.http.get(f"/v1/blobs/{config}").status_code == 404
    digest = upstream.http.get("/v1/resolve", params={"ref": "@public/bert-sst"}).json()["digest"]
    front.http.get(f"/v1/manifests/{digest}").raise_for_status()
    assert digest_of(front.http.get(f"/v1/blobs/{config}").content) == config


def test_no_path_with_dots_makes_upstream_answer_something_else(both: tuple[Hub, Hub, Asked]) -> None:
    front, _, asked = both
    for path in (
        "ns/pu/public/..%2F..%2F..%2Fv1%2Fwhoami",
        "ns/..%2F..%2Fv1/whoami",
        "ns/pu/public/..%2fbert-sst.jsonl",
        "ns/pu/..%2Fwhoami",
        "k/..%2F..%2Fv1%2Ftokens",
        "ns/pu/public/x.jsonl%3Fa=b",
    ):
        assert front.http.get(f"/index/{path}").status_code == 404, path
    assert asked.lines == []


def test_what_upstream_did_not_have_is_forgotten_and_what_it_had_is_kept(both: tuple[Hub, Hub, Asked]) -> None:
    front, _, asked = both
    where = {"ref": "sst", "model": MODEL}
    for name in ("one", "two"):
        assert front.http.get(f"/v1/resolve?ref=@nobody/{name}").status_code == 404
    front.http.get("/v1/resolve", params=where).raise_for_status()
    upstream = front.app.state.upstream
    assert upstream.sweep() == 0
    with front.storage.database.write() as connection:
        connection.execute(update(upstream_files).values(fetched_at=now(hours=-1)))
    assert upstream.sweep() == 2
    asked.lines.clear()
    front.http.get("/v1/resolve", params=where).raise_for_status()
    assert len(asked.lines) == 1


def test_two_replicas_may_keep_the_same_answer(both: tuple[Hub, Hub, Asked]) -> None:
    upstream = both[0].app.state.upstream
    start = threading.Barrier(2, timeout=60)

    def keep(body: bytes) -> None:
        start.wait()
        for _ in range(20):
            upstream._keep_file("k", "/x", 200, "", body)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(keep, (b"one", b"two")))
    assert bytes(upstream._kept_file("k").body) in (b"one", b"two")


def test_an_answer_of_upstream_larger_than_anything_it_should_send_is_not_taken(
    both: tuple[Hub, Hub, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, _, _ = both
    monkeypatch.setattr(upstream_module, "_MAX_FILE", 100)
    answer = front.http.get("/v1/resolve", params={"ref": "sst", "model": MODEL})
    assert (answer.status_code, answer.json()["code"]) == (502, "HubConnection")
