"""Checkpoints whose numbers come from a defect of the release that wrote them: loading says so, or refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages.core.tests.shrunken import shrunken

import adapterhub.core as ah
from adapterhub.spec import CheckpointError, InvalidConfigError


def _saved(folder: Path, model_type: str, config: str) -> str:
    model = ah.init(shrunken(model_type))
    model.add_adapter("a", config=config)
    model.save_adapter(str(folder / "a"), "a", format="adapters")
    return str(folder / "a")


@pytest.mark.parametrize(
    ("model_type", "config", "told"),
    [
        ("albert", "houlsby[reduction_factor=4]", "swaps"),
        ("gemma2", "pfeiffer[reduction_factor=4]", "last layer's norm"),
    ],
)
def test_numbers_that_differ_from_the_peer_are_said(tmp_path: Path, model_type: str, config: str, told: str) -> None:
    folder = _saved(tmp_path, model_type, config)
    with pytest.warns(UserWarning, match=told):
        ah.init(shrunken(model_type)).load_adapter(folder)
    assert any(told in note for note in ah.load_report().notes)


def test_adapters_trained_with_a_bias_that_is_lost_are_refused(tmp_path: Path) -> None:
    folder = _saved(tmp_path, "deberta", "pfeiffer[reduction_factor=4]")
    model = ah.init(shrunken("deberta"))
    with pytest.raises(CheckpointError, match="random bias"):
        model.load_adapter(folder)
    assert model.load_adapter(folder, strict=False) == "a"


def test_an_unknown_compat_is_refused(tmp_path: Path) -> None:
    folder = _saved(tmp_path, "bert", "lora")
    with pytest.raises(InvalidConfigError, match=r"adapters-1\.3"):
        ah.init(shrunken("bert")).load_adapter(folder, compat="adapters-1.2")
