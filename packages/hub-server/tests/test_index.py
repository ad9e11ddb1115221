"""The sparse index: what the spec's own builder makes of the entries, file by file, and enough for a client to resolve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapter_folder import write_folder
from hub import Hub, publish

from adapterhub.spec.errors import AdapterHubError, AmbiguousAdapterError
from adapterhub.spec.index import IndexEntry, namespace_path
from adapterhub.spec.index_files import build_index
from adapterhub.spec.lookup import PartlyListedError, look_up
from adapterhub.spec.resolution import Resolution, load_aliases, resolve

PUBLISHED = [
    ("sentiment/sst-2@demo", "one", "1", "bert-base-uncased"),
    ("sentiment/sst-2@demo", "one", "2", "bert-base-uncased"),
    ("sentiment/sst-2@demo", "two", "1", "bert-base-uncased"),
    ("sentiment/IMDB@other", "imdb", "1.0", "bert-base-uncased"),
    ("nli/multi.nli@other", "nli", "1", "roberta-base"),
    ("nli/rte@demo", "rte", "1", "roberta-base"),
]


@pytest.fixture
def filled(hub: Hub, tmp_path: Path) -> Hub:
    """A hub with some adapters, a yank and two defaults."""
    clients = {name: hub.member(name) for name in ("demo", "other")}
    for number, (reference, name, version, model) in enumerate(PUBLISHED):
        client = clients[reference.partition("@")[2]]
        folder = write_folder(tmp_path / str(number), seed=number, model=model)
        publish(client, folder, reference, version, name=name).raise_for_status()
    clients["demo"].post("/v1/adapters/@demo/one/versions/2/yank", json={"reason": "worse"}).raise_for_status()
    clients["demo"].post("/v1/adapters/@demo/rte/versions/1/yank").raise_for_status()
    clients["demo"].put("/v1/adapters/@demo/two/default-for-task").raise_for_status()
    clients["demo"].post("/v1/adapters/@demo/one/default", json={"version": "1"}).raise_for_status()
    return hub


def entries_of(hub: Hub) -> list[IndexEntry]:
    names = dict.fromkeys((reference.partition("@")[2], name) for reference, name, _, _ in PUBLISHED)
    lines = {}
    for namespace, name in names:
        for line in hub.http.get(namespace_path(namespace, name)).text.splitlines():
            entry = IndexEntry.from_json(json.loads(line))
            lines[namespace, name, entry.version] = entry
    return [lines[r.partition("@")[2], name, version] for r, name, version, _ in PUBLISHED]


@pytest.mark.parametrize("known", [{}, {"If-None-Match": "*"}, {"Accept-Encoding": "identity"}])
def test_head_tells_what_get_would(filled: Hub, known: dict[str, str]) -> None:
    digest = filled.http.get("/v1/resolve", params={"ref": "@demo/two"}).json()["digest"]
    blob = filled.http.get(f"/v1/manifests/{digest}").json()["files"][0]["digest"]
    nothing = f"sha256:{'0' * 64}"
    paths = ["/index/ns/de/demo/one.jsonl", "/index/config.json", "/index/ns/de/demo/none.jsonl", "/index/k/none"]
    paths += [f"/v1/{kind}/{name}" for kind in ("manifests", "blobs") for name in (digest, blob, nothing, "x")]
    seen = set()
    for path in paths:
        head, whole = (filled.http.request(method, path, headers=known) for method in ("HEAD", "GET"))
        seen.add(head.status_code)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        told, expected = ({**answer.headers} for answer in (head, whole))
        for headers in (told, expected):
            for name in ("date", "x-request-id"):
                headers.pop(name)
        assert told == expected, path
    assert seen == {304 if "If-None-Match" in known else 200, 404, 422}


def test_every_index_file_is_what_the_spec_builds_from_the_entries(filled: Hub) -> None:
    entries = entries_of(filled)
    assert [entry.yanked for entry in entries] == [False, True, False, False, False, True]
    defaults = {("bert-base-uncased", "sentiment", "sst-2"): "@demo/two"}
    files = dict(build_index(entries, defaults, aliases=load_aliases()))
    assert len(files) > 15
    for path, body in files.items():
        if path.startswith("/index/list"):  # of static copies only
            continue
        if path in ("/index/config.json", "/index/aliases.json"):
            assert filled.http.get(path).status_code == 200
        else:
            assert filled.http.get(path).content == body, path


def over_http(hub: Hub, text: str, model: str, *, complete: bool = False, **context: Any) -> Resolution:
    """Resolve with index files alone, as a client does."""
    asked: list[str] = []
    steps = look_up(text, model_name=model, complete=complete, **context)
    try:
        paths = next(steps)
        while True:
            asked += paths
            answers = {path: hub.http.get(path) for path in paths}
            paths = steps.send(
                {path: answer.content if answer.status_code == 200 else None for path, answer in answers.items()}
            )
    except StopIteration as done:
        assert len(asked) <= 2
        found: Resolution = done.value
        return found


@pytest.mark.parametrize(
    "text", ["sentiment/sst-2", "sst", "sst-2@demo", "@demo/one", "@demo/one:2", "imdb", "sentiment/imdb"]
)
def test_index_files_and_the_hub_give_the_same_answer(filled: Hub, text: str) -> None:
    found = over_http(filled, text, "bert-base-uncased")
    told = filled.http.get("/v1/resolve", params={"ref": text, "model": "bert-base-uncased"}).json()
    assert json.loads(json.dumps(found.to_json())) == told


def test_ambiguity_lists_the_same_candidates_both_ways(filled: Hub) -> None:
    with pytest.raises(PartlyListedError):
        over_http(filled, "sentiment", "bert-base-uncased")
    with pytest.raises(AmbiguousAdapterError) as caught:
        over_http(filled, "sentiment", "bert-base-uncased", complete=True)
    told = filled.http.get("/v1/resolve", params={"ref": "sentiment", "model": "bert-base-uncased"})
    assert told.status_code == 409
    assert told.json()["candidates"] == caught.value.candidates
    assert len(caught.value.candidates) == 3


def test_a_file_that_did_not_change_is_not_sent_again(filled: Hub) -> None:
    first = filled.http.get("/index/ns/de/demo/one.jsonl")
    again = filled.http.get("/index/ns/de/demo/one.jsonl", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    filled.operator().post("/v1/adapters/@demo/one/versions/2/unyank").raise_for_status()
    changed = filled.http.get("/index/ns/de/demo/one.jsonl", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "ns/de/demo/nothing.jsonl",
        "ns/xx/demo/one.jsonl",
        "k/ffff.jsonl",
        "k/FFFF.jsonl",
        "k/..%2f..%2fx",
        "m/0000.jsonl",
        "..%2fv1/tokens",
    ],
)
def test_files_that_are_not_there(filled: Hub, path: str) -> None:
    assert filled.http.get(f"/index/{path}").status_code == 404


def test_not_found_suggests_close_names_and_other_models(filled: Hub) -> None:
    wrong = filled.http.get("/v1/resolve", params={"ref": "sentiment/sst-3", "model": "bert-base-uncased"}).json()
    assert wrong["code"] == "NotFound"
    assert "sentiment/sst-2@demo" in wrong["suggestions"]
    elsewhere = filled.http.get("/v1/resolve", params={"ref": "sentiment/sst-2", "model": "roberta-base"}).json()
    assert elsewhere["models"] == ["bert-base-uncased"]
    name = filled.http.get("/v1/resolve", params={"ref": "@demo/won"}).json()
    assert "@demo/one" in name["suggestions"]
    mismatch = filled.http.get("/v1/resolve", params={"ref": "@demo/one", "model": "roberta-base"})
    assert (mismatch.status_code, mismatch.json()["code"]) == (409, "ModelMismatch")
    assert mismatch.json()["adapter_model"] == "bert-base-uncased"


def test_the_config_parameter_is_a_name_an_id_or_json(filled: Hub, tmp_path: Path) -> None:
    def ask(config: str) -> int:
        return filled.http.get(
            "/v1/resolve", params={"ref": "imdb", "model": "bert-base-uncased", "config": config}
        ).status_code

    entry = filled.http.get("/v1/resolve", params={"ref": "imdb", "model": "bert-base-uncased"}).json()["entry"]
    assert [ask("pfeiffer"), ask(entry["config_id"]), ask(json.dumps(entry["config"]))] == [200, 200, 200]
    assert [ask("houlsby"), ask("{}"), ask('{"using": "houlsby"}')] == [404, 404, 404]
    assert [ask("{"), ask('{"a": 1, "a": 2}')] == [422, 422]


def test_ranges_of_a_blob(filled: Hub, tmp_path: Path) -> None:
    data = (tmp_path / "0" / "adapter.safetensors").read_bytes()
    entry = filled.http.get("/v1/resolve", params={"ref": "@demo/one:1"}).json()
    manifest = filled.http.get(f"/v1/manifests/{entry['digest']}").json()
    digest = next(file["digest"] for file in manifest["files"] if file["path"] == "adapter.safetensors")
    url, size = f"/v1/blobs/{digest}", len(data)

    def ask(value: str, **more: str) -> tuple[int, bytes]:
        answer = filled.http.get(url, headers={"Range": value, **more})
        return answer.status_code, answer.content

    assert filled.http.head(url).headers["content-length"] == str(size)
    assert ask("bytes=0-0") == (206, data[:1])
    assert ask("bytes=100-199") == (206, data[100:200])
    assert ask(f"bytes={size - 5}-") == (206, data[-5:])
    assert ask("bytes=-7") == (206, data[-7:])
    assert ask(f"bytes=10-{size + 99}") == (206, data[10:])
    assert ask("bytes=0-1,5-6") == (200, data)
    assert ask("lines=0-1") == (200, data)
    assert ask("bytes=5-2") == (200, data)
    assert ask(f"bytes={size}-")[0] == 416
    assert ask("bytes=-0")[0] == 416
    assert ask("bytes=0-9", **{"If-Range": '"other"'}) == (200, data)
    assert ask("bytes=0-9", **{"If-Range": f'"{digest}"'}) == (206, data[:10])
    assert filled.http.get(url, headers={"If-None-Match": f'"{digest}"'}).status_code == 304
    answer = filled.http.get(url)
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_a_word_that_finds_many_tasks_is_ambiguous_until_it_is_narrowed_down(hub: Hub, tmp_path: Path) -> None:
    one, other = hub.member("one"), hub.member("other")
    for number in range(10):
        folder = write_folder(tmp_path / str(number), seed=number)
        publish(one, folder, f"task-{number}/news@one", name=f"a{number}").raise_for_status()
    lone = write_folder(tmp_path / "other", seed=99, preset="houlsby")
    publish(other, lone, "task-3/news@other", name="b").raise_for_status()
    where = {"ref": "news", "model": "bert-base-uncased"}
    everything = hub.http.get("/v1/resolve", params=where)
    assert (everything.status_code, len(everything.json()["candidates"])) == (409, 11)
    mine = hub.http.get("/v1/resolve", params={**where, "ref": "news@one"})
    assert (mine.status_code, len(mine.json()["candidates"])) == (409, 10)
    assert hub.http.get("/v1/resolve", params={**where, "ref": "news@other"}).json()["decided_by"] == "namespace"
    assert hub.http.get("/v1/resolve", params={**where, "config": "houlsby"}).json()["decided_by"] == "config"
    absent = hub.http.get("/v1/resolve", params={**where, "ref": "news@nobody"})
    assert (absent.status_code, absent.json()["code"]) == (404, "NotFound")


def test_an_over_long_reference_is_no_reference(hub: Hub) -> None:
    answer = hub.http.get("/v1/resolve", params={"ref": "a" * 6000, "model": "bert-base-uncased"})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidReference")


CROWD = [
    (f"sentiment/sst-2@{namespace}", f"{namespace}-{number}", "1", "bert-base-uncased")
    for namespace in ("demo", "other", "third")
    for number in range(2)
]


@pytest.fixture
def crowded(filled: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub with more adapters of one task than go into a file here, one of them private, one yanked."""
    monkeypatch.setattr("adapterhub.server.resolving.files.SPLIT_ABOVE", 2)
    clients = {name: filled.member(name) for name in ("third",)}
    for name in ("demo", "other"):
        clients[name] = filled.operator()
    for number, (reference, name, version, model) in enumerate(CROWD):
        client = clients[reference.partition("@")[2]]
        folder = write_folder(tmp_path / f"crowd-{number}", seed=number + 20, model=model)
        publish(client, folder, reference, version, name=name).raise_for_status()
    clients["third"].post("/v1/adapters/@third/third-0/versions/1/yank").raise_for_status()
    hidden = filled.member("hidden", private=True)
    folder = write_folder(tmp_path / "hidden", seed=77)
    publish(hidden, folder, "sentiment/sst-2@hidden", "1", name="hush").raise_for_status()
    return filled


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    *((ref, {}) for ref in ("sentiment/sst-2", "sst-2", "sst", "sentiment", "sst-2@third", "sentiment/sst-2@other")),
    *((ref, {}) for ref in ("sentiment@other", "sst-2@nobody", "sst-2@hidden", "sst-2@third:1", "sentiment/sst@third")),
    *((ref, {"config": "pfeiffer"}) for ref in ("sentiment/sst-2", "sentiment", "sst-2@demo", "sst-2@third")),
    *((ref, {"config": "lora"}) for ref in ("sentiment/sst-2", "sst-2@demo")),
    *((ref, {"type": "text_lang"}) for ref in ("sentiment/sst-2", "sst-2@demo")),
    ("glue/sst2@third", {}),
]


def test_a_crowded_index_gives_the_answers_of_the_whole_live_and_exported(crowded: Hub, tmp_path: Path) -> None:
    from adapterhub.server.operations.export import export_static

    names = dict.fromkeys((reference.partition("@")[2], name) for reference, name, _, _ in [*PUBLISHED, *CROWD])
    entries = [
        IndexEntry.from_json(json.loads(line))
        for namespace, name in names
        for line in crowded.http.get(namespace_path(namespace, name)).text.splitlines()
    ]
    defaults = {("bert-base-uncased", "sentiment", "sst-2"): "@demo/two"}
    out = tmp_path / "out"
    export_static(crowded.storage, crowded.settings, out, pages=False)
    assert (
        list(out.glob("index/k/*/third.jsonl"))
        and list(out.glob("index/w/*/third.jsonl"))
        and list(out.glob("index/a/*"))
    )
    assert not list(out.glob("index/**/hidden*"))

    def live(path: str) -> bytes | None:
        answer = crowded.http.get(path)
        return answer.content if answer.status_code == 200 else None

    def exported(path: str) -> bytes | None:
        file = out / path.lstrip("/")
        return file.read_bytes() if file.is_file() else None

    def told(error: AdapterHubError) -> tuple[Any, ...]:
        return error.code, sorted(map(str, error.candidates))

    for ref, context in QUESTIONS:
        expected: Any
        try:
            one = resolve(
                ref, entries, model_name="bert-base-uncased", aliases=load_aliases(), defaults=defaults, **context
            )
            expected = one.entry, one.tier, one.decided_by
        except AdapterHubError as error:
            expected = told(error)
        for read in (live, exported):
            for complete in (False, True):
                asked: list[str] = []
                steps = look_up(ref, model_name="bert-base-uncased", complete=complete, **context)
                found: Any
                try:
                    paths = next(steps)
                    while True:
                        asked += paths
                        paths = steps.send({path: read(path) for path in paths})
                except StopIteration as done:
                    found = done.value.entry, done.value.tier, done.value.decided_by
                except PartlyListedError:
                    assert expected[0] == "Ambiguous"
                    continue
                except AdapterHubError as error:
                    found = told(error)
                assert found == expected, (ref, context, read.__name__)
                assert len(asked) <= 4
                break


def test_an_export_of_a_crowd_is_brought_up_to_date(crowded: Hub, tmp_path: Path) -> None:
    from adapterhub.server.operations.export import export_static

    out = tmp_path / "out"
    export_static(crowded.storage, crowded.settings, out, pages=False)
    operator = crowded.operator()
    for reference, name, version, _ in CROWD[:4]:  # two remain: no crowd any more
        namespace = reference.partition("@")[2]
        operator.delete(f"/v1/adapters/@{namespace}/{name}/versions/{version}").raise_for_status()
    folder = write_folder(tmp_path / "late", seed=99)
    publish(operator, folder, "sentiment/imdb@third", "1", name="late").raise_for_status()
    done = export_static(crowded.storage, crowded.settings, out, pages=False)
    assert done.removed > 0
    fresh = tmp_path / "fresh"
    export_static(crowded.storage, crowded.settings, fresh, pages=False)
    trees = [
        {file.relative_to(top): file.read_bytes() for file in top.rglob("*") if file.is_file()} for top in (out, fresh)
    ]
    assert trees[0] == trees[1]
