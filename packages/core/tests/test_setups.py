"""Compositions with everything they need, and all adapters of a model, as folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.small_models import inputs, randomise, write_model

import adapterhub.core as ah
from adapterhub.core.setups import folder_of
from adapterhub.spec.errors import AdapterNotFoundError, CheckpointError, InvalidConfigError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "bert")


def several(base: Path) -> Any:
    model = ah.AutoAdapterModel.from_pretrained(base)
    for seed, name in enumerate(("en", "a", "b")):
        model.add_adapter(name, config="pfeiffer+inv" if name == "en" else "pfeiffer")
        randomise(model.get_adapter(name).values(), seed)
    model.add_adapter_fusion(["a", "b"])
    model.add_classification_head("a,b", num_labels=3)
    return model


@pytest.mark.parametrize("form", ["native", "adapters"])
def test_a_setup_comes_back_whole(base: Path, tmp_path: Path, form: str) -> None:
    model = several(base)
    setup = ah.Stack("en", ah.Fuse("a", "b"))
    model.active_adapters = setup
    assert model.active_head == "a,b"
    logits = model(**inputs()).logits
    model.save_adapter_setup(tmp_path / "x", setup, format=form)
    other = ah.AutoAdapterModel.from_pretrained(base)
    assert other.load_adapter_setup(tmp_path / "x", set_active=True) == setup
    assert other.active_head == "a,b"
    assert torch.equal(other(**inputs()).logits, logits)


def test_fusions_by_themselves(base: Path, tmp_path: Path) -> None:
    model = several(base)
    model.add_adapter_fusion(["b", "a"], "static", name="other")
    model.save_adapter_fusion(tmp_path / "f", ah.Fuse("b", "a", name="other"))
    fresh = ah.AutoAdapterModel.from_pretrained(base)
    with pytest.raises(AdapterNotFoundError, match="'b'"):
        fresh.load_adapter_fusion(tmp_path / "f")
    for name in ("a", "b"):
        model.save_adapter(tmp_path / name, name)
        fresh.load_adapter(tmp_path / name)
    assert fresh.load_adapter_fusion(tmp_path / "f", set_active=True) == "other"
    assert fresh.active_adapters == ah.Fuse("b", "a", name="other")
    model.active_adapters = ah.Fuse("b", "a", name="other")
    model.active_head = None
    assert torch.equal(fresh(**inputs()).last_hidden_state, model(**inputs()).last_hidden_state)
    with pytest.raises(InvalidConfigError, match="already has a fusion"):
        fresh.load_adapter_fusion(tmp_path / "f")


def test_all_adapters_of_a_model(base: Path, tmp_path: Path) -> None:
    model = several(base)
    model.add_adapter("task/with:signs")
    model.save_all_adapters(tmp_path / "all")
    assert len(os.listdir(tmp_path / "all")) == 4
    other = ah.AutoAdapterModel.from_pretrained(base)
    names = {other.load_adapter(path) for path in (tmp_path / "all").iterdir()}
    assert names == {"en", "a", "b", "task/with:signs"}


def test_names_become_names_of_folders() -> None:
    assert folder_of("a,b") == "a,b" and folder_of("task/x") == "task%2Fx"
    assert "/" not in folder_of("../../etc") and folder_of("..") == "%2E%2E"


def test_a_setup_that_points_outside_of_its_folder_is_refused(base: Path, tmp_path: Path) -> None:
    model = several(base)
    model.save_adapter_setup(tmp_path / "x", ah.Stack("en", "a"))
    path = tmp_path / "x" / "adapter_setup.json"
    document = json.loads(path.read_text())
    document["adapters"]["a"] = "../x/a"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="outside"):
        ah.AutoAdapterModel.from_pretrained(base).load_adapter_setup(tmp_path / "x")


def test_a_setup_of_unknown_adapters_is_not_written(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFoundError, match="nowhere"):
        several(base).save_adapter_setup(tmp_path / "x", ah.Stack("en", "nowhere"))
    assert not (tmp_path / "x").exists()
