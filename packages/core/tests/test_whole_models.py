"""`save_pretrained` and back: the model with all its adapters, fusions and heads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, write_model

import adapterhub.core as ah
from adapterhub.spec.errors import CheckpointError


def shaken(model: Any) -> Any:
    """The model with adapters that do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name in model.adapters:
            for parameter in model.get_adapter(name).values():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs()).logits


def test_adapters_fusion_heads_and_setup_come_back(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    model = ah.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model.add_adapter("a", config="pfeiffer")
    model.add_adapter("b/c", config="lora")
    model.add_adapter("d", config="pfeiffer")
    model.train_adapter("a")
    model.add_adapter_fusion(["a", "d"])
    shaken(model)
    with torch.no_grad():
        model.classifier.weight.add_(0.5)
    model.save_pretrained(tmp_path / "whole")

    other = ah.AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert other.adapters == model.adapters
    for setup in ("a", "b/c", ah.Stack("a", "b/c"), ah.Fuse("a", "d"), None):
        model.active_adapters = other.active_adapters = setup
        assert torch.equal(logits(other), logits(model)), setup
    model.active_adapters = "a"
    assert str(other.active_adapters) != str(model.active_adapters)


def test_the_active_setup_comes_back(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    model = ah.AutoModelForSequenceClassification.from_pretrained(base)
    model.add_adapter("a", config="pfeiffer")
    model.add_adapter("b", config="houlsby")
    shaken(model).active_adapters = ah.Stack("a", "b")
    expected = logits(model)
    model.save_pretrained(tmp_path / "whole")
    other = ah.AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert other.active_adapters == model.active_adapters
    assert torch.equal(logits(other), expected)


def test_flexible_heads_come_back(tmp_path: Path) -> None:
    model = ah.AutoAdapterModel.from_pretrained(write_model(tmp_path / "base"))
    model.add_classification_head("alone", num_labels=4)
    model.add_adapter("a", config="pfeiffer")
    model.add_classification_head("a", num_labels=2)
    shaken(model).active_adapters = "a"
    model.active_head = "alone"
    model.save_pretrained(tmp_path / "whole")
    other = ah.AutoAdapterModel.from_pretrained(tmp_path / "whole")
    for head in ("a", "alone"):
        model.active_head = other.active_head = head
        assert torch.equal(logits(other), logits(model))


def test_the_stock_class_then_init(tmp_path: Path) -> None:
    model = ah.AutoModelForSequenceClassification.from_pretrained(write_model(tmp_path / "base"))
    model.add_adapter("a", config="pfeiffer")
    shaken(model).active_adapters = "a"
    model.save_pretrained(tmp_path / "whole")
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    ah.init(stock)
    assert stock.load_all_adapters(tmp_path / "whole") == ["a"]
    assert torch.equal(logits(stock), logits(model))


def test_what_save_all_adapters_wrote_comes_back(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    model = ah.AutoModelForSequenceClassification.from_pretrained(base)
    for name in ("a", "b"):
        model.add_adapter(name, config="pfeiffer")
    shaken(model).save_all_adapters(tmp_path / "all")
    other = ah.AutoModelForSequenceClassification.from_pretrained(base)
    assert sorted(other.load_all_adapters(tmp_path / "all")) == ["a", "b"]
    for name in ("a", "b"):
        for key, value in model.get_adapter(name).items():
            assert torch.equal(other.get_adapter(name)[key], value)


def test_saving_again_leaves_no_adapter_of_before(tmp_path: Path) -> None:
    model = ah.AutoModelForSequenceClassification.from_pretrained(write_model(tmp_path / "base"))
    model.add_adapter("a", config="pfeiffer")
    model.save_pretrained(tmp_path / "whole")
    model.delete_adapter("a")
    model.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole" / "adapters").exists()
    assert ah.AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").adapters == ()


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    model = ah.AutoModelForSequenceClassification.from_pretrained(write_model(tmp_path / "base"))
    (tmp_path / "whole" / "adapters").mkdir(parents=True)
    (tmp_path / "whole" / "adapters" / "mine.txt").write_text("mine")
    model.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "adapters" / "mine.txt").read_text() == "mine"


def test_an_index_that_points_outside_is_refused(tmp_path: Path) -> None:
    model = ah.AutoModelForSequenceClassification.from_pretrained(write_model(tmp_path / "base"))
    model.add_adapter("a", config="pfeiffer")
    model.save_pretrained(tmp_path / "whole")
    index = tmp_path / "whole" / "adapters" / "adapters.json"
    index.write_text(index.read_text().replace('"a": "a"', '"a": "../../elsewhere"'))
    with pytest.raises(CheckpointError, match="points elsewhere"):
        ah.AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "adapters")
    with pytest.raises(CheckpointError, match="no adapters"):
        model.load_all_adapters(tmp_path / "whole")
