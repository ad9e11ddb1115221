"""Hubs, pins, tokens: where a reference goes, and who gets to see a token."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import LoopbackHub

from adapterhub.client import (
    AdapterHubError,
    AdapterNotFoundError,
    AmbiguousAdapterError,
    AuthenticationError,
    HubClient,
    HubConnectionError,
    OfflineError,
    PolicyError,
    download,
    get_adapter_info,
    list_adapters,
    load_settings,
    resolve,
)
from adapterhub.client.credentials import forget_token, redact, remember_token, token_for
from adapterhub.client.settings import Hub, is_loopback, normal_url, origin_of
from adapterhub.client.transport import Limits


@pytest.fixture
def two_hubs(export: Export, adapter: Callable[..., Path], tmp_path: Path) -> tuple[Export, Export]:
    """A public hub with sentiment/sst-2@ukp, a private one (called lab) with secret/plan@lab and another sentiment/sst-2@ukp."""
    export.publish(adapter("public"), "sentiment/sst-2@ukp", version="1")
    private = Export(tmp_path / "private")
    private.publish(adapter("secret", seed=3), "secret/plan@lab", version="1")
    private.publish(adapter("shadow", seed=4), "sentiment/sst-2@ukp", version="1")
    return export, private


def configure(**config: object) -> None:
    home = Path(os.environ["ADAPTERHUB_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.json").write_text(json.dumps(config))


def test_a_reference_goes_to_exactly_one_hub(two_hubs: tuple[Export, Export]) -> None:
    public, private = (LoopbackHub(export.folder) for export in two_hubs)
    try:
        configure(
            hubs={"open": public.url, "lab": {"url": private.url, "private": True}},
            default_hub="open",
            pins={"lab": "lab"},
        )
        assert resolve("sst-2", model_name=MODEL).digest == two_hubs[0].entries[0].digest
        assert not private.seen
        assert resolve("lab::sst-2", model_name=MODEL).digest == two_hubs[1].entries[1].digest
        public.seen.clear()
        assert resolve("secret/plan@lab", model_name=MODEL).full_id == "secret/plan@lab"  # by its pin
        with pytest.raises(AdapterNotFoundError):
            resolve("secret/other@lab", model_name=MODEL)
        with pytest.raises(AdapterNotFoundError):
            resolve("lab::secret/other", model_name=MODEL)
        assert not public.seen, "a private name never leaves the private hub"
        with pytest.raises(AdapterNotFoundError):
            resolve("secret/plan", model_name=MODEL)  # without the pin's namespace: the default hub and no other
    finally:
        public.close()
        private.close()


def test_what_was_found_in_a_hub_keeps_its_name_and_is_never_asked_elsewhere(
    two_hubs: tuple[Export, Export], adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """Everything that can be written down or passed on: resolutions, pinned references, infos, lists, lock files."""
    two_hubs[1].publish(adapter("another", seed=5), "secret/plot@lab", version="1")
    public, private = (LoopbackHub(export.folder) for export in two_hubs)
    hubs = {"open": public.url, "lab": {"url": private.url, "private": True}}
    try:
        configure(hubs=hubs, default_hub="open")
        for found in (resolve("lab::plan", model_name=MODEL), resolve("plan", model_name=MODEL, source="lab")):
            assert found.hub == "lab" and found.reference.startswith("lab::@lab/")
            assert download(found) == download(found.reference)
        info = get_adapter_info("plan", model_name=MODEL, source="lab")
        listed = {info.reference: info for info in list_adapters("lab")}
        assert listed[info.reference].hub == info.hub == "lab" and info.reference == "lab::secret/plan@lab"
        for reference in listed:
            assert resolve(reference, model_name=MODEL).hub == "lab"
        with HubClient() as client:
            client.lock(["plan"], model_name=MODEL, source="lab", path=tmp_path / "lock")
        with HubClient(lockfile=tmp_path / "lock") as client:
            assert client.resolve("plan", model_name=MODEL, source="lab").hub == "lab"
        with pytest.raises(AmbiguousAdapterError, match="Keep lab:: before it"):
            resolve("lab::secret", model_name=MODEL)
        assert not public.seen
        configure(hubs=hubs, default_hub="open", pins={"lab": "lab"})
        assert resolve("secret/plan@lab", model_name=MODEL).hub is None, "its pin says where it goes"
        assert get_adapter_info("secret/plan@lab", model_name=MODEL).reference == "secret/plan@lab"
        assert not public.seen
    finally:
        public.close()
        private.close()


def test_a_hub_is_pinned_under_each_of_its_names(two_hubs: tuple[Export, Export]) -> None:
    configure(hubs={"open": str(two_hubs[0].folder)}, default_hub="open", pins={"ukp": "open"})
    for reference in ("ah::sst-2@ukp", "open::sst-2@ukp", "sst-2@ukp"):
        assert resolve(reference, model_name=MODEL).full_id == "sentiment/sst-2@ukp"


def test_a_pin_cannot_be_circumvented(two_hubs: tuple[Export, Export]) -> None:
    configure(
        hubs={"open": str(two_hubs[0].folder), "lab": str(two_hubs[1].folder)},
        default_hub="open",
        pins={"U_K.P": "lab"},
    )
    settings = load_settings()
    assert settings.pins == {"u-k-p": "lab"}
    configure(
        hubs={"open": str(two_hubs[0].folder), "lab": str(two_hubs[1].folder)}, default_hub="open", pins={"UKP": "lab"}
    )
    assert resolve("sst-2@ukp", model_name=MODEL).digest == two_hubs[1].entries[1].digest
    with pytest.raises(PolicyError, match="pinned"):
        resolve("open::sst-2@ukp", model_name=MODEL)
    with pytest.raises(PolicyError, match="pinned"):
        resolve("sst-2", model_name=MODEL)  # the open hub offers @ukp, which is not its to offer
    with pytest.raises(PolicyError):
        resolve("lab::sst-2", model_name=MODEL, source="open")


def test_environment_goes_before_the_file_and_is_read_when_used(
    two_hubs: tuple[Export, Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(hubs={"open": str(two_hubs[0].folder)}, default_hub="open")
    first = resolve("sst-2", model_name=MODEL)
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", str(two_hubs[1].folder))
    second = resolve("sst-2", model_name=MODEL)
    assert first.digest != second.digest == resolve("ah::sst-2", model_name=MODEL).digest
    monkeypatch.setenv("ADAPTERHUB_OFFLINE", "1")
    assert load_settings().offline
    monkeypatch.setenv("ADAPTERHUB_OFFLINE", "0")
    assert not load_settings().offline


def test_without_a_hub_the_error_says_how_to_get_one() -> None:
    with pytest.raises(AdapterHubError, match="No hub") as error:
        resolve("sst-2", model_name=MODEL)
    assert "ADAPTERHUB_ENDPOINT" in error.value.hint
    with pytest.raises(AdapterHubError, match="no hub called 'nowhere'"):
        resolve("nowhere::sst-2", model_name=MODEL)


@pytest.mark.parametrize(
    "text", ["", "https://user:secret@host", "https://host?x=1", "ftp://host", "https://", "http://a b"]
)
def test_addresses_that_make_no_sense(text: str) -> None:
    with pytest.raises(AdapterHubError):
        normal_url(text)


def test_origins_compare_as_browsers_do() -> None:
    assert origin_of("HTTPS://Host/x") == "https://host:443" == origin_of("https://host:443/y")
    assert origin_of("http://host") != origin_of("https://host")
    assert [
        is_loopback(url)
        for url in ("http://127.0.0.1:1", "http://localhost", "http://[::1]:80/", "http://127.0.0.1.evil.org")
    ] == [
        True,
        True,
        True,
        False,
    ]


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", lambda path: nowhere(path) if str(path).startswith("~") else path)
    assert load_settings({"ADAPTERHUB_HOME": str(tmp_path)}).cache_dir == tmp_path / "cache"
    with pytest.raises(AdapterHubError, match="ADAPTERHUB_HOME"):
        load_settings({"ADAPTERHUB_CACHE": str(tmp_path)})


def test_a_broken_config_file_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for text in ("{", "[]", '{"hubs": 3}'):
        (tmp_path / "home" / "config.json").write_text(text)
        with pytest.raises(AdapterHubError, match=r"config\.json"):
            load_settings()


# -- tokens ---------------------------------------------------------------------------------------------------------------

TOKEN = "ahub_0123456789abcdefghij"


def test_a_kept_token_is_readable_by_its_owner_only_and_bound_to_its_origin(tmp_path: Path) -> None:
    settings = load_settings()
    hub = Hub("lab", "https://hub.example/base")
    remember_token(settings, hub, TOKEN)
    path = tmp_path / "home" / "tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_for(settings, "https://hub.example:443") == (TOKEN, str(path))
    for other in ("http://127.0.0.1:443", "https://hub.example:8443", "https://evil.example:443"):
        assert token_for(settings, other) is None
    path.chmod(0o644)
    token_for(settings, "https://hub.example:443")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert forget_token(settings, hub) and not forget_token(settings, hub)
    assert token_for(settings, "https://hub.example:443") is None


def test_the_environments_token_is_for_the_default_hub_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERHUB_TOKEN", TOKEN)
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", "https://hub.example")
    configure(hubs={"other": "https://other.example"})
    settings = load_settings()
    assert token_for(settings, "https://hub.example:443") == (TOKEN, "ADAPTERHUB_TOKEN")
    assert token_for(settings, "https://other.example:443") is None


def test_a_token_is_not_sent_over_plain_http_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubClient(endpoint="http://hub.example", token=TOKEN) as client:
        with pytest.raises(AuthenticationError, match="plain http"):
            client.resolve("sst-2", model_name=MODEL)
        assert client.transport(client.settings.hub()).requests == 0


def test_tokens_are_blacked_out() -> None:
    assert TOKEN not in redact(f"Bearer {TOKEN} and {TOKEN} in https://x/?token={TOKEN}")


# -- the lock file --------------------------------------------------------------------------------------------------------


def test_locked_references_stay_what_they_were_and_ask_nothing(
    sst2: Export, hub: LoopbackHub, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "adapterhub.lock"
    hub.max_age = 0
    with HubClient(endpoint=hub.url) as client:
        locked = client.lock(["sst-2", "sst"], model_name=MODEL, path=path)
        assert len(locked) == 2
        text = path.read_text()
        client.lock(["sst", "sst-2"], model_name=MODEL, path=path)
        assert path.read_text() == text, "locking again changes no byte"
        folders = client.sync(path)
    sst2.publish(adapter("newer", seed=9), "sentiment/sst-2@ukp", version="2", created_at="2026-06-06T06:06:06Z")
    asked = len(hub.seen)
    with HubClient(endpoint=hub.url, lockfile=path, locked=True) as client:
        found = client.resolve("sst-2", model_name=MODEL)
        assert (found.version, found.tier, found.decided_by) == ("1", "exact", "unique")
        assert client.download("sst-2", model_name=MODEL) == folders["sst-2"]
        assert len(hub.seen) == asked, "locked and in the cache: nothing is asked"
        with pytest.raises(PolicyError, match=r"not in .*adapterhub\.lock"):
            client.resolve("sst-2@ukp", model_name=MODEL)
        with pytest.raises(PolicyError):
            client.resolve("sst-2", model_name="roberta-base")
    assert resolve("sst-2@ukp", model_name=MODEL, endpoint=hub.url).version == "2"
    with HubClient(endpoint=hub.url) as client:
        client.lock(path=path)  # renew everything
        assert {item.version for item in client.lock(path=path).items()} == {"2"}


def test_a_lock_file_from_elsewhere_is_fetched_by_digest(hub: LoopbackHub, tmp_path: Path) -> None:
    path = tmp_path / "adapterhub.lock"
    with HubClient(endpoint=hub.url, cache_dir=tmp_path / "one") as client:
        client.lock(["sst-2"], model_name=MODEL, path=path)
    hub.seen.clear()
    with HubClient(endpoint=hub.url, cache_dir=tmp_path / "two", lockfile=path, locked=True) as client:
        assert (client.download("sst-2", model_name=MODEL) / "adapter.safetensors").is_file()
    assert not hub.requests("/index/")
    with (
        HubClient(endpoint=hub.url, cache_dir=tmp_path / "three", lockfile=path, offline=True) as client,
        pytest.raises(OfflineError),
    ):
        client.download("sst-2", model_name=MODEL)


def test_a_lock_file_is_enough_and_one_reference_may_stand_for_several_models(
    sst2: Export, hub: LoopbackHub, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "adapterhub.lock"
    sst2.publish(adapter("roberta", model="roberta-base"), "sentiment/sst-2@ukp", version="1")
    with HubClient(endpoint=hub.url) as client:
        for model in (MODEL, "roberta-base"):
            client.lock(["sst-2"], model_name=model, path=path)
    with HubClient(cache_dir=tmp_path / "other") as client:  # no hub is configured
        folders = client.sync(path)
    assert folders.keys() == {f"sst-2 ({MODEL})", "sst-2 (roberta-base)"} and len(set(folders.values())) == 2
    configure(hubs={"elsewhere": str(tmp_path)}, pins={"ukp": "elsewhere"})
    with HubClient() as client, pytest.raises(PolicyError, match="pinned"):
        client.sync(path)


def test_locking_leaves_what_other_threads_may_use_locked(sst2: Export, tmp_path: Path) -> None:
    """A client that only takes what is locked does so while another of its threads locks something."""
    path = tmp_path / "adapterhub.lock"
    with HubClient(endpoint=str(sst2.folder), lockfile=path, locked=True) as client:
        refused: list[Exception] = []
        find = client._look_up

        def look_up(*arguments: object, **named: object) -> object:
            with pytest.raises(PolicyError) as error:
                client.resolve("sst-2@ukp", model_name=MODEL)  # as another thread might, at this moment
            refused.append(error.value)
            return find(*arguments, **named)  # type: ignore[arg-type]

        client._look_up = look_up  # type: ignore[method-assign, assignment]
        client.lock(["sst-2"], model_name=MODEL)
        assert len(refused) == 1 and path.is_file()
        assert client.resolve("sst-2", model_name=MODEL).version == "1" and client.sync().keys() == {"sst-2"}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 9, "adapters": {}}', '{"version": 1, "adapters": {"x": [{}]}}']
)
def test_a_broken_lock_file_is_said_to_be_so(hub: LoopbackHub, tmp_path: Path, text: str) -> None:
    path = tmp_path / "adapterhub.lock"
    path.write_text(text)
    with pytest.raises(AdapterHubError, match=r"adapterhub\.lock"):
        download("sst-2", model_name=MODEL, endpoint=hub.url, lockfile=path)


def test_async_calls_run_side_by_side(hub: LoopbackHub) -> None:
    import asyncio

    from adapterhub.client import AsyncHubClient

    async def main() -> list[Path]:
        async with AsyncHubClient(endpoint=hub.url) as client:
            found = await client.resolve("sst-2", model_name=MODEL)
            assert (await client.get_adapter_info("sst-2", model_name=MODEL)).digest == found.digest
            return list(await asyncio.gather(*(client.download(found) for _ in range(8))))

    folders = asyncio.run(main())
    assert len(set(folders)) == 1 and (folders[0] / "adapter.safetensors").is_file()


def test_the_async_client_can_all_that_the_other_can() -> None:
    from inspect import iscoroutinefunction, signature

    from adapterhub.client import AsyncHubClient

    connections = {"hub_of", "source", "transport"}
    for name in {name for name in dir(HubClient) if not name.startswith("_") and callable(getattr(HubClient, name))}:
        if name not in connections:
            twin = getattr(AsyncHubClient, name)
            assert iscoroutinefunction(twin) and signature(twin) == signature(getattr(HubClient, name))


def test_tokens_can_live_in_the_keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With ADAPTERHUB_KEYRING=1, through the package `keyring` (here one of the same three functions)."""
    import sys
    import types

    kept: dict[tuple[str, str], str] = {}
    ring = types.ModuleType("keyring")
    ring.get_password = lambda service, name: kept.get((service, name))  # type: ignore[attr-defined]
    ring.set_password = lambda service, name, word: kept.update({(service, name): word})  # type: ignore[attr-defined]
    ring.delete_password = lambda service, name: kept.pop((service, name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    monkeypatch.setenv("ADAPTERHUB_KEYRING", "1")
    settings = load_settings()
    hub = Hub("lab", "https://hub.example")
    assert remember_token(settings, hub, TOKEN) == "the keyring"
    assert not (tmp_path / "home" / "tokens.json").exists()
    assert token_for(settings, hub.origin) == (TOKEN, "the keyring")
    assert forget_token(settings, hub) and token_for(settings, hub.origin) is None


def test_a_hub_on_this_machine_is_never_asked_through_a_proxy(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plain http may carry a token here; a proxy would read it."""
    proxy = LoopbackHub(tmp_path)
    try:
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert download("sst-2", model_name=MODEL, endpoint=hub.url, token=TOKEN).is_dir()
        assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in hub.seen) and not proxy.seen
    finally:
        proxy.close()


def test_a_proxy_of_the_environment_is_used_and_no_proxy_is_kept_to(
    sst2: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopback import Handler, Seen

    asked: list[str] = []

    def as_proxy(handler: Handler, seen: Seen) -> bool:
        if not seen.path.startswith("http://"):
            return False
        asked.append(seen.path)
        seen.path = "/" + seen.path.split("/", 3)[3]
        handler.serve(seen)
        return True

    proxy = LoopbackHub(sst2.folder, faults=[as_proxy])
    try:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "other.example")
        assert download("sst-2", model_name=MODEL, endpoint="http://hub.example").is_dir()
        assert asked and all(path.startswith("http://hub.example/") for path in asked)
        asked.clear()
        with pytest.raises(HubConnectionError):
            resolve("sst-2", model_name=MODEL, endpoint="http://other.example", limits=Limits(attempts=1))
        assert asked == []
    finally:
        proxy.close()
