"""How references become folders: local ones at once, others by what is installed."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from packages.core.tests.small_models import write_model

import adapterhub.core as ah
from adapterhub.core import resolvers
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError

CALLS: list[dict[str, Any]] = []
FOLDER: list[Path] = []


def resolve_reference(reference: str, *, model_name: str | None = None, source: str | None = None) -> Path:
    CALLS.append({"reference": reference, "model_name": model_name, "source": source})
    if reference.startswith("unknown"):
        raise AdapterNotFoundError(f"There is no {reference}.", suggestions=["sentiment/sst-2@ukp"])
    return FOLDER[0]


def publish(folder: Path, reference: str, *, version: str | None = None, **metadata: Any) -> dict[str, Any]:
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "reference": reference,
        "version": version,
        **metadata,
    }


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    base = write_model(tmp_path / "bert-tiny")
    model = ah.AutoAdapterModel.from_pretrained(base)
    model.add_adapter("a")
    model.save_adapter(tmp_path / "a", "a")
    return base, tmp_path / "a"


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    made = [EntryPoint(name, value, group) for name, value, group in points]
    monkeypatch.setattr(resolvers, "entry_points", lambda group: [point for point in made if point.group == group])


def test_a_reference_goes_to_the_installed_resolver_with_what_is_known(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = saved
    FOLDER[:] = [folder]
    CALLS.clear()
    install(monkeypatch, ("test", f"{__name__}:resolve_reference", resolvers.GROUP))
    model = ah.AutoAdapterModel.from_pretrained(base)
    assert model.load_adapter("sentiment/sst-2@ukp") == "a"
    assert CALLS[-1] == {"reference": "sentiment/sst-2@ukp", "model_name": "bert-tiny", "source": None}
    model.load_adapter("x/y", model_name="bert-base-uncased", source="hf", load_as="b")
    assert CALLS[-1] == {"reference": "x/y", "model_name": "bert-base-uncased", "source": "hf"}
    ah.init(model, model_name="someone/bert")
    model.load_adapter("z", load_as="c")
    assert CALLS[-1]["model_name"] == "someone/bert"
    with pytest.raises(AdapterNotFoundError) as caught:
        model.load_adapter("unknown/x")
    assert caught.value.suggestions == ["sentiment/sst-2@ukp"]


def test_without_a_resolver_the_error_names_the_client(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    model = ah.AutoAdapterModel.from_pretrained(saved[0])
    with pytest.raises(AdapterNotFoundError, match="pip install adapterhub-client"):
        model.load_adapter("sentiment/sst-2@ukp")
    assert model.load_adapter(saved[1]) == "a"


def test_a_path_that_does_not_exist_is_not_sent_to_a_hub(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, ("test", f"{__name__}:resolve_reference", resolvers.GROUP))
    model = ah.AutoAdapterModel.from_pretrained(saved[0])
    CALLS.clear()
    for missing in ("./nowhere", "/nowhere/at/all", Path("nowhere")):
        with pytest.raises(AdapterNotFoundError, match="no folder"):
            model.load_adapter(missing)
    with pytest.raises(AdapterNotFoundError, match="holds no adapter"):
        model.load_adapter(saved[0])
    assert CALLS == []


def test_a_broken_resolver_is_named(saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("broken", "no.such.module:x", resolvers.GROUP))
    with pytest.raises(AdapterHubError, match="broken"):
        ah.AutoAdapterModel.from_pretrained(saved[0]).load_adapter("a/b")


def test_push_saves_and_hands_over(saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = ah.AutoAdapterModel.from_pretrained(saved[0])
    model.load_adapter(saved[1])
    install(monkeypatch)
    with pytest.raises(AdapterHubError, match="pip install adapterhub-client"):
        model.push_adapter("a", "sentiment/x@me")
    install(monkeypatch, ("test", f"{__name__}:publish", resolvers.PUBLISHERS))
    found = model.push_adapter("a", "sentiment/x@me", version="2", license="MIT")
    assert found["reference"] == "sentiment/x@me" and found["version"] == "2" and found["license"] == "MIT"
    assert "adapter.safetensors" in found["files"]
