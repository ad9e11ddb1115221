"""Native checkpoints: what is written, that nothing is lost or half-written, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, randomise, train, write_model
from safetensors.torch import load_file, save_file

import adapterhub.core as ah
from adapterhub.core.formats.files import write_folder
from adapterhub.spec.errors import AdapterNotFoundError, CheckpointError, InvalidConfigError, ModelMismatchError
from adapterhub.spec.validation.adapter_folder import folder_problems


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny-bert")


def classifier(base: Path, labels: int = 2) -> transformers.PreTrainedModel:
    return transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)


def trained(base: Path, name: str = "task", config: str = "pfeiffer") -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = classifier(base)
    ah.init(model, model_name="someone/tiny-bert")
    model.add_adapter(name, config=config)
    model.train_adapter(name)
    train(model, {**inputs(), "labels": torch.tensor([0, 1, 0, 1])})
    return model


def test_a_folder_holds_what_the_format_says_and_the_validator_finds_nothing(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    folder = model.save_adapter(tmp_path / "task", "task") or tmp_path / "task"
    assert sorted(os.listdir(folder)) == [
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "head.safetensors",
        "head_config.json",
    ]
    assert folder_problems(Path(folder)) == []
    document = json.loads((tmp_path / "task" / "adapter_config.json").read_text())
    assert document["config"] == model.adapter_config("task").expand()
    assert document["config_id"] == model.adapter_config("task").config_id
    assert document["base_model"] == {
        "name": "someone/tiny-bert",
        "revision": None,
        "family": "bert",
        "hidden_size": 32,
    }
    tensors = load_file(tmp_path / "task" / "adapter.safetensors")
    assert set(tensors) == {
        f"encoder.{i}.ffn.{j}.{k}" for i in (0, 1) for j in ("down", "up") for k in ("weight", "bias")
    }
    card = (tmp_path / "task" / "README.md").read_text()
    assert 'base_model: "someone/tiny-bert"' in card and "load_adapter(" in card


def test_a_local_base_model_is_named_by_its_folder_not_by_its_path(base: Path, tmp_path: Path) -> None:
    model = classifier(base)
    ah.init(model)
    model.add_adapter("a")
    model.save_adapter(tmp_path / "a", "a")
    written = "".join(path.read_text() for path in (tmp_path / "a").iterdir() if path.suffix in (".json", ".md"))
    assert '"name": "tiny-bert"' in written and str(base.parent) not in written


def test_a_fresh_process_gives_the_same_bits(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    logits = model(**inputs()).logits.detach()
    model.save_adapter(tmp_path / "task", "task")
    script = f"""
import torch, transformers, adapterhub.core as ah
from packages.core.tests.small_models import inputs
from safetensors.torch import save_file
torch.manual_seed(12345)
model = transformers.AutoModelForSequenceClassification.from_pretrained({str(base)!r}, num_labels=2)
ah.init(model)
model.active_adapters = model.load_adapter({str(tmp_path / "task")!r})
save_file({{"logits": model.eval()(**inputs()).logits.detach()}}, {str(tmp_path / "out.safetensors")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "out.safetensors")["logits"], logits)


def test_saving_twice_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    for folder in ("one", "two"):
        model.save_adapter(tmp_path / folder, "task")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    "config", ["pfeiffer", "houlsby", "parallel", "scaled_parallel", "bapna", "adapter_plus", "pfeiffer+inv"]
)
def test_every_tensor_comes_back_under_any_name(base: Path, tmp_path: Path, config: str) -> None:
    model = ah.AutoAdapterModel.from_pretrained(base)
    model.add_adapter("a.b/c", config=config)
    randomise(model.get_adapter("a.b/c").values())
    model.active_adapters = "a.b/c"
    before = model(**inputs()).last_hidden_state
    model.save_adapter(tmp_path / "x", "a.b/c")
    other = ah.AutoAdapterModel.from_pretrained(base)
    assert other.load_adapter(tmp_path / "x", load_as="named otherwise") == "named otherwise"
    other.active_adapters = "named otherwise"
    assert torch.equal(other(**inputs()).last_hidden_state, before)
    report = ah.load_report()
    assert report is not None and report.complete and report.name == "named otherwise" and report.format == "native"
    assert set(report.used) == set(other.get_adapter("named otherwise"))
    size, payload = (
        (tmp_path / "x" / "adapter.safetensors").stat().st_size,
        sum(p.numel() * p.element_size() for p in model.get_adapter("a.b/c").values()),
    )
    assert size - payload < 8192


def test_dtype_casts_what_is_saved(base: Path, tmp_path: Path) -> None:
    trained(base).save_adapter(tmp_path / "half", "task", dtype=torch.float16)
    tensors = load_file(tmp_path / "half" / "adapter.safetensors") | load_file(tmp_path / "half" / "head.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_what_stood_in_the_folder_before_is_replaced_and_other_files_stay(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    model.save_adapter(tmp_path / "x", "task")
    (tmp_path / "x" / "notes.txt").write_text("keep me")
    model.save_adapter(tmp_path / "x", "task", with_head=False)
    assert sorted(os.listdir(tmp_path / "x")) == [
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "notes.txt",
    ]
    model.save_adapter(tmp_path / "x", "task", format="adapters")
    assert "model_head.safetensors" in os.listdir(tmp_path / "x") and "head.safetensors" not in os.listdir(
        tmp_path / "x"
    )


def test_a_save_that_fails_leaves_the_old_folder_and_nothing_else(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    model.save_adapter(tmp_path / "x", "task")
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    with pytest.raises(RuntimeError, match="disk"), write_folder(tmp_path / "x", owned=before) as folder:
        (folder / "adapter_config.json").write_text("half")
        raise RuntimeError("the disk is full")
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before
    assert os.listdir(tmp_path) == ["x"]


def test_missing_and_left_over_tensors_are_errors_unless_told_otherwise(base: Path, tmp_path: Path) -> None:
    trained(base).save_adapter(tmp_path / "x", "task", with_head=False)
    path = tmp_path / "x" / "adapter.safetensors"
    tensors = load_file(path)
    tensors["encoder.0.ffn.stray"] = tensors.pop("encoder.0.ffn.down.bias")
    save_file(tensors, path)
    model = classifier(base)
    ah.init(model)
    with pytest.raises(CheckpointError, match=r"encoder\.0\.ffn\.down\.bias"):
        model.load_adapter(tmp_path / "x")
    assert not model.has_adapters()
    model.load_adapter(tmp_path / "x", strict=False)
    report = ah.load_report(model, "task")
    assert report is not None
    assert report.missing == ["encoder.0.ffn.down.bias"] and report.unexpected == ["encoder.0.ffn.stray"]
    assert "encoder.0.ffn.stray" in str(report)


def test_a_damaged_file_is_refused_and_nothing_is_loaded(base: Path, tmp_path: Path) -> None:
    trained(base).save_adapter(tmp_path / "x", "task")
    weights = tmp_path / "x" / "adapter.safetensors"
    whole = weights.read_bytes()
    model = classifier(base)
    ah.init(model)
    for bad in (whole[: len(whole) // 2], b"", b"\x00" * 64):
        weights.write_bytes(bad)
        with pytest.raises(CheckpointError):
            model.load_adapter(tmp_path / "x")
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        model.load_adapter(tmp_path / "x")
    (tmp_path / "x" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        model.load_adapter(tmp_path / "x")
    assert not model.has_adapters() and model.head_names == []


def test_a_config_edited_by_hand_is_noticed(base: Path, tmp_path: Path) -> None:
    trained(base).save_adapter(tmp_path / "x", "task")
    path = tmp_path / "x" / "adapter_config.json"
    document = json.loads(path.read_text())
    document["config"]["non_linearity"] = "tanh"
    path.write_text(json.dumps(document))
    model = classifier(base)
    ah.init(model)
    with pytest.raises(CheckpointError, match="config_id"):
        model.load_adapter(tmp_path / "x")


def test_the_wrong_model_is_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    trained(base).save_adapter(tmp_path / "x", "task")
    wide = write_model(tmp_path / "wide", hidden_size=64)
    short = write_model(tmp_path / "short", num_hidden_layers=1)
    other = write_model(tmp_path / "gpt2", "gpt2")
    for folder, said in ((wide, "hidden size 32; this one has 64"), (short, "layer"), (other, "family gpt2")):
        model = ah.AutoAdapterModel.from_pretrained(folder)
        with pytest.raises(ModelMismatchError, match=said):
            model.load_adapter(tmp_path / "x")
        assert not model.has_adapters()


def test_a_name_that_is_taken_is_not_silently_replaced(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    model.save_adapter(tmp_path / "x", "task")
    with pytest.raises(InvalidConfigError, match="already has an adapter 'task'"):
        model.load_adapter(tmp_path / "x")
    assert model.load_adapter(tmp_path / "x", overwrite_ok=True) == "task"


def test_layers_can_be_left_out_while_loading(base: Path, tmp_path: Path) -> None:
    trained(base).save_adapter(tmp_path / "x", "task")
    model = classifier(base)
    ah.init(model)
    model.load_adapter(tmp_path / "x", leave_out=[0])
    assert {key.split(".")[1] for key in model.get_adapter("task")} == {"1"}


def test_an_unknown_adapter_or_format_is_named_in_the_error(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    with pytest.raises(AdapterNotFoundError, match="'tsak'"):
        model.save_adapter(tmp_path / "x", "tsak")
    with pytest.raises(InvalidConfigError, match="onnx"):
        model.save_adapter(tmp_path / "x", "task", format="onnx")
    assert not (tmp_path / "x").exists()
