"""Resolve, download, offline: the path every user takes, over a static export in a folder and on a web server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import LoopbackHub

from adapterhub.client import (
    AdapterInfo,
    AdapterNotFoundError,
    AmbiguousAdapterError,
    HubClient,
    HubConnectionError,
    ModelMismatchError,
    OfflineError,
    VersionNotFoundError,
    download,
    get_adapter_info,
    list_adapters,
    resolve,
)
from adapterhub.client.resolver import resolve_reference


@pytest.fixture(params=["folder", "web"])
def endpoint(request: pytest.FixtureRequest, sst2: Export, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the same hub, as a folder and as a web server."""
    url = str(sst2.folder) if request.param == "folder" else request.getfixturevalue("hub").url
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", url)
    return url


def test_a_reference_becomes_a_folder_with_exactly_the_published_bytes(
    endpoint: str, sst2: Export, tmp_path: Path
) -> None:
    folder = download("sentiment/sst-2@ukp", model_name=MODEL)
    published = tmp_path / "adapter"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in published.iterdir()
    }
    assert folder.is_relative_to(tmp_path / "cache")
    assert not any(path.is_symlink() for path in (tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("reference", ["sst-2", "sst", "sentiment/sst-2", "SENTIMENT/SST_2@UKP", "ah::sst-2:1"])
def test_every_way_to_write_it_finds_it(endpoint: str, reference: str) -> None:
    found = resolve(reference, model_name=MODEL)
    assert (found.full_id, found.version, found.config) == ("sentiment/sst-2@ukp", "1", "pfeiffer")
    assert found.tier == ("prefix" if reference == "sst" else "exact")
    pinned = resolve(found.reference)
    assert pinned.digest == found.digest


def test_what_does_not_fit_is_a_typed_error(endpoint: str, sst2: Export, adapter: Callable[..., Path]) -> None:
    sst2.publish(adapter("other", seed=5), "sentiment/sst-2@lab", version="1")
    with pytest.raises(AmbiguousAdapterError) as ambiguous:
        resolve("sst-2", model_name=MODEL)
    assert {candidate["id"] for candidate in ambiguous.value.candidates} == {
        "sentiment/sst-2@ukp",
        "sentiment/sst-2@lab",
    }
    with pytest.raises(VersionNotFoundError) as version:
        resolve("sst-2@ukp:9", model_name=MODEL)
    assert version.value.candidates == ["1"]
    with pytest.raises(ModelMismatchError):
        resolve(resolve("sst-2@ukp", model_name=MODEL).adapter, model_name="roberta-base")
    with pytest.raises(AdapterNotFoundError) as missing:
        resolve("sentimnet/sst-2", model_name=MODEL)
    assert missing.value.suggestions or endpoint.startswith("http")


def test_what_was_resolved_once_works_offline_with_the_hub_gone(
    endpoint: str, sst2: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    online = download("sst", model_name=MODEL)
    if endpoint.startswith("http"):
        request.getfixturevalue("hub").stop()
    else:
        sst2.folder.rename(tmp_path / "gone")
    monkeypatch.setenv("ADAPTERHUB_OFFLINE", "1")
    if endpoint.startswith("http"):
        assert download("sst", model_name=MODEL) == online
        with pytest.raises(OfflineError, match="not in the cache"):
            resolve("qqp", model_name=MODEL)
        with pytest.raises(OfflineError):
            list_adapters()


def test_the_hub_gone_without_offline_mode_uses_the_copy_and_says_so_once(hub: LoopbackHub) -> None:
    with HubClient(endpoint=hub.url) as client:
        folder = client.download("sst-2", model_name=MODEL)
    hub.stop()
    hub_index_is_old = HubClient(endpoint=hub.url)
    for index_file in hub_index_is_old.cache.root.glob("index/**/*.jsonl"):
        head, _, body = index_file.read_bytes().partition(b"\n")
        index_file.write_bytes(head.replace(b'"max_age": 300', b'"max_age": 0') + b"\n" + body)
    with pytest.warns(UserWarning, match="does not answer") as said:
        assert hub_index_is_old.download("sst-2", model_name=MODEL) == folder
        assert hub_index_is_old.download("sst-2", model_name=MODEL) == folder
    assert len([warning for warning in said if "does not answer" in str(warning.message)]) == 1


def test_no_hub_and_no_copy_says_what_to_do(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(HubConnectionError, match="Cannot connect") as error:
        resolve("sst-2", model_name=MODEL, endpoint=hub.url)
    assert "running" in error.value.hint


def test_a_warm_download_asks_nothing_when_pinned_and_little_when_floating(hub: LoopbackHub) -> None:
    with HubClient(endpoint=hub.url) as client:
        found = client.resolve("sst-2", model_name=MODEL)
        assert len(hub.requests()) <= 2
        client.download(found)
        before = len(hub.requests())
        assert client.download(found.reference) and client.download(f"{found.adapter}:{found.version}")
        asked = len(hub.requests()) - before
        assert asked == 1  # the namespace file, once
        before = len(hub.requests())
        assert HubClient(endpoint=hub.url).download(found.reference)
        assert HubClient(endpoint=hub.url).download("sst-2", model_name=MODEL)
        assert len(hub.requests()) == before  # all within max-age


def test_an_index_file_is_asked_for_conditionally_after_its_max_age(hub: LoopbackHub) -> None:
    hub.max_age = 0
    resolve("sentiment/sst-2", model_name=MODEL, endpoint=hub.url)
    resolve("sentiment/sst-2", model_name=MODEL, endpoint=hub.url)
    first, second = hub.requests("/index/k/")
    assert "if-none-match" not in first.headers and "if-none-match" in second.headers


def test_what_was_published_a_moment_ago_is_found_in_spite_of_max_age(
    hub: LoopbackHub, sst2: Export, adapter: Callable[..., Path]
) -> None:
    with HubClient(endpoint=hub.url) as client:
        with pytest.raises(AdapterNotFoundError):
            client.resolve("nli/mnli", model_name=MODEL)
        sst2.publish(adapter("second", seed=3), "nli/mnli@ukp", version="1")
        assert client.resolve("nli/mnli", model_name=MODEL).full_id == "nli/mnli@ukp"
        sst2.publish(adapter("third", seed=4), "nli/mnli@ukp", version="2")
        assert client.resolve("nli/mnli:2", model_name=MODEL).version == "2"


def test_info_and_lists_have_the_old_fields_and_the_new(
    endpoint: str, sst2: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = get_adapter_info("sst-2", model_name=MODEL)
    assert isinstance(info, AdapterInfo)
    assert (info.source, info.username, info.task, info.subtask) == ("ah", "ukp", "sentiment", "sst-2")
    assert info.adapter_id == f"@ukp/{info.name}" and info.model_name == MODEL
    assert info.adapter_config and info.adapter_config["method"] == "bottleneck"
    assert info.digest == sst2.entries[0].digest and info.size == sst2.entries[0].size
    assert [item.adapter_id for item in list_adapters(source="ah", model_name=MODEL)] == [info.adapter_id]
    assert list_adapters(source="ah", model_name="roberta-base") == []


def test_a_static_export_lists_and_searches_everything_it_has(
    endpoint: str, sst2: Export, adapter: Callable[..., Path]
) -> None:
    sst2.publish(adapter("second", seed=3), "nli/mnli@other", version="1", license="MIT")
    sst2.publish(adapter("third", seed=4), "nli/mnli@other", version="2", license="MIT")
    listed = list_adapters()
    assert [(item.username, item.version) for item in listed] == [("other", "2"), ("ukp", "1")]
    assert [item.task for item in list_adapters(query="mnli")] == ["nli"]
    assert [item.task for item in list_adapters(namespace="UKP", sort="name")] == ["sentiment"]
    assert list_adapters(license="MIT", limit=1)[0].adapter_config == listed[0].adapter_config
    assert list_adapters(query="nothing like it") == []


def test_core_reaches_the_client_through_its_entry_point(endpoint: str) -> None:
    from importlib.metadata import entry_points

    (point,) = entry_points(group="adapterhub.resolvers", name="hub")
    assert point.load() is resolve_reference
    folder = resolve_reference("sst-2", model_name=MODEL, config="pfeiffer", version=None, source=None)
    assert (folder / "adapter.safetensors").is_file()


def test_a_local_copy_is_the_users_own(endpoint: str, tmp_path: Path) -> None:
    folder = download("sst-2", model_name=MODEL)
    copy = download("sst-2", model_name=MODEL, local_dir=tmp_path / "mine")
    (copy / "README.md").write_text("changed")
    assert (folder / "README.md").read_text() == "# sst-2\n"
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "cache" / "blobs").rglob("*")
        if path.is_file()
    }
    assert digests == {path.name for path in (tmp_path / "cache" / "blobs").rglob("*") if path.is_file()}


def test_type_checkers_know_every_name() -> None:
    """Names are loaded when used, so what type checkers see is written down a second time."""
    import ast

    import adapterhub.client as package

    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text())
    declared = {
        alias.asname
        for block in tree.body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert declared == set(package.__all__) - {"__version__"}
    assert all(getattr(package, name).__name__ == name for name in declared)
