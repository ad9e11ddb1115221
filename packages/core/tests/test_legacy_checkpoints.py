"""The layout of adapters 1.x: keys taken apart and put together, folders, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.small_models import inputs, randomise, write_model
from safetensors.torch import load_file

import adapterhub.core as ah
from adapterhub.core.formats.adapters_v1 import LegacyKey, split_key
from adapterhub.spec.errors import CheckpointError, ModelMismatchError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("bert", "distilbert", "gpt2", "llama", "bart", "t5"):
        write_model(folder / kind, kind)
    return folder


def test_keys_are_taken_apart_by_structure() -> None:
    assert split_key("bert.encoder.layer.0.output.adapters.loras.adapter_up.bias") == LegacyKey(
        "bert.encoder.layer.0.output", "bottleneck", "loras", "adapter_up.bias"
    )
    assert split_key("encoder.layer.3.output.adapter_fusion_layer.a,b,c.query.weight") == LegacyKey(
        "encoder.layer.3.output", "fusion", "a,b,c", "query.weight"
    )
    assert split_key(
        "encoder.layer.0.attention.output.attention_text_lang_adapters.en.adapter_down.0.weight"
    ) == LegacyKey("encoder.layer.0.attention.output", "bottleneck", "en", "adapter_down.0.weight")
    assert split_key("encoder.layer.0.output.dense.weight") is None


LAYOUT = {
    "bert": "encoder.layer.1.output.adapters.a.adapter_down.0.weight",
    "distilbert": "transformer.layer.1.output_adapters.adapters.a.adapter_down.0.weight",
    "gpt2": "h.1.output_adapters.adapters.a.adapter_down.0.weight",
    "llama": "layers.1.output_adapters.adapters.a.adapter_down.0.weight",
    "bart": "decoder.layers.1.output_adapters.adapters.a.adapter_down.0.weight",
    "t5": "decoder.block.1.layer.2.adapters.a.adapter_down.0.weight",
}


@pytest.mark.parametrize("kind", LAYOUT)
@pytest.mark.parametrize("config", ["houlsby", "bapna", "compacter[reduction_factor=4]", "pfeiffer+inv"])
def test_their_layout_is_written_and_read_back(models: Path, tmp_path: Path, kind: str, config: str) -> None:
    model = ah.AutoAdapterModel.from_pretrained(models / kind)
    model.add_adapter("a", config=config)
    randomise(model.get_adapter("a").values())
    model.save_adapter(tmp_path / "a", "a", format="adapters")
    written = load_file(tmp_path / "a" / "adapter.safetensors")
    prefix = f"{model.base_model_prefix}."
    wanted = LAYOUT[kind].replace("down.0", "down.1") if config == "bapna" else LAYOUT[kind]
    if config.startswith("compacter"):
        wanted = wanted.replace("weight", "W_left")
    assert prefix + wanted in written
    document = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert document["version"] == "adapters.1.3.0" and document["model_type"] == kind and document["name"] == "a"
    other = ah.AutoAdapterModel.from_pretrained(models / kind)
    other.load_adapter(tmp_path / "a", load_as="b")
    for key, tensor in model.get_adapter("a").items():
        assert torch.equal(other.get_adapter("b")[key], tensor)
    report = ah.load_report()
    assert report is not None and report.format == "adapters" and report.complete


PHM = {
    "shared_W_phm=True": "shared_parameters.a.W_down_left",
    "shared_W_phm=True, factorized_phm_W=False": "shared_parameters.a.W_up",
    "factorized_phm_rule=True": "shared_parameters.a.phm_rule_left",
    "shared_phm_rule=False": "encoder.layer.0.output.adapters.a.adapter_up.phm_rule",
    "shared_phm_rule=False, factorized_phm_rule=True": "encoder.layer.0.output.adapters.a.adapter_down.0.phm_rule_right",
    "shared_W_phm=True, shared_phm_rule=False, phm_bias=False": "encoder.layer.1.output.adapters.a.adapter_up.phm_rule",
}


@pytest.mark.parametrize("fields", PHM)
def test_every_kind_of_hypercomplex_layer_has_their_names(models: Path, tmp_path: Path, fields: str) -> None:
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    model.add_adapter("a", config=f"compacter[reduction_factor=4, {fields}]")
    randomise(model.get_adapter("a").values())
    model.save_adapter(tmp_path / "a", "a", format="adapters")
    assert f"bert.{PHM[fields]}" in load_file(tmp_path / "a" / "adapter.safetensors")
    other = ah.AutoAdapterModel.from_pretrained(models / "bert")
    other.load_adapter(tmp_path / "a")
    assert set(other.get_adapter("a")) == set(model.get_adapter("a"))
    for key, tensor in model.get_adapter("a").items():
        assert torch.equal(other.get_adapter("a")[key], tensor)


def test_a_fusion_without_projections_comes_with_a_map_nothing_reads(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    for name in "ab":
        model.add_adapter(name)
    nothing = {"key": False, "query": False, "value": False, "regularization": False}
    model.add_adapter_fusion(["a", "b"], nothing)
    model.save_adapter_fusion(tmp_path / "f", "a,b", format="adapters")
    dense = "bert.encoder.layer.{}.output.adapter_fusion_layer.a,b.dense.weight"
    save_file(
        {dense.format(i): torch.zeros(1, 32) for i in (0, 1)}, tmp_path / "f" / "model_adapter_fusion.safetensors"
    )
    model.delete_adapter_fusion("a,b")
    assert model.load_adapter_fusion(tmp_path / "f") == "a,b"


def test_flexible_heads_go_back_and_forth(models: Path, tmp_path: Path) -> None:
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    model.add_adapter("a")
    model.add_classification_head("a", num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    model.active_adapters = "a"
    logits = model(**inputs()).logits
    model.save_adapter(tmp_path / "a", "a", format="adapters")
    assert set(load_file(tmp_path / "a" / "model_head.safetensors")) == {
        f"heads.a.{index}.{leaf}" for index in (1, 4) for leaf in ("weight", "bias")
    }
    other = ah.AutoAdapterModel.from_pretrained(models / "bert")
    other.load_adapter(tmp_path / "a", load_as="b", set_active=True)
    assert other.active_head == "b" and other.get_labels() == ["x", "y", "z"]
    assert torch.equal(other(**inputs()).logits, logits)


def saved(models: Path, folder: Path) -> Path:
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    model.add_adapter("a")
    model.save_adapter(folder, "a", format="adapters")
    return folder


def test_a_pickle_with_code_in_it_is_refused_and_not_run(models: Path, tmp_path: Path) -> None:
    folder = saved(models, tmp_path / "a")
    weights = load_file(folder / "adapter.safetensors")
    (folder / "adapter.safetensors").unlink()
    torch.save(weights, folder / "pytorch_adapter.bin")
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    assert model.load_adapter(folder) == "a"  # a plain state dict is fine

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "hacked",)

    (folder / "pytorch_adapter.bin").write_bytes(pickle.dumps({"weight": Attack()}))
    with pytest.raises(CheckpointError):
        model.load_adapter(folder, load_as="b")
    torch.save({"weight": Attack()}, folder / "pytorch_adapter.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        model.load_adapter(folder, load_as="b")
    assert not (tmp_path / "hacked").exists()


def test_safetensors_are_preferred_to_a_pickle_beside_them(models: Path, tmp_path: Path) -> None:
    folder = saved(models, tmp_path / "a")
    (folder / "pytorch_adapter.bin").write_bytes(b"not a pickle")
    assert ah.AutoAdapterModel.from_pretrained(models / "bert").load_adapter(folder) == "a"


def test_another_models_checkpoint_is_refused(models: Path, tmp_path: Path) -> None:
    folder = saved(models, tmp_path / "a")
    with pytest.raises(ModelMismatchError, match="made for a bert model"):
        ah.AutoAdapterModel.from_pretrained(models / "gpt2").load_adapter(folder)


def test_keys_with_no_place_are_reported(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = saved(models, tmp_path / "a")
    weights = load_file(folder / "adapter.safetensors")
    weights["bert.encoder.layer.0.somewhere.adapters.a.adapter_up.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "adapter.safetensors")
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    with pytest.raises(CheckpointError, match="somewhere"):
        model.load_adapter(folder)
    assert not model.has_adapters()
    model.load_adapter(folder, strict=False)
    report = ah.load_report()
    assert report is not None and len(report.unexpected) == 1


METHODS = [("bert", config) for config in ("lora[intermediate_lora=True]", "ia3", "mam", "unipelt", "prompt")]
METHODS += [("llama", "lora[intermediate_lora=True]"), ("llama", "lora[output_lora=True]"), ("llama", "ia3")]
METHODS += [("gpt2", "unipelt"), ("gpt2", "ia3"), ("distilbert", "mam")]
METHODS += [("bert", "ia3[targets=('k', 'v', 'down')]"), ("bert", "ia3[targets=('up', 'down', 'q')]")]


@pytest.mark.parametrize(("kind", "config"), METHODS)
def test_other_methods_in_their_layout(models: Path, tmp_path: Path, kind: str, config: str) -> None:
    """On Llama their two feed-forward switches mean each other's projection: the tensors come back where they were."""
    model = ah.AutoAdapterModel.from_pretrained(models / kind)
    model.add_adapter("a", config=config)
    randomise(model.get_adapter("a").values())
    model.save_adapter(tmp_path / "a", "a", format="adapters")
    other = ah.AutoAdapterModel.from_pretrained(models / kind)
    other.load_adapter(tmp_path / "a")
    assert set(other.get_adapter("a")) == set(model.get_adapter("a"))
    for key, tensor in model.get_adapter("a").items():
        assert torch.equal(other.get_adapter("a")[key], tensor)


@pytest.mark.parametrize("config", ["lora", "ia3", "unipelt"])
def test_an_output_projection_that_adapters_1x_passed_over_is_left_out(
    models: Path, tmp_path: Path, config: str
) -> None:
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    model.add_adapter("a", config=config)
    randomise(model.get_adapter("a").values())
    model.save_adapter(tmp_path / "a", "a", format="adapters")
    file = tmp_path / "a" / "adapter_config.json"
    document = json.loads(file.read_text())
    for member in document["config"].get("configs", [document["config"]]):
        if "attn_matrices" in member:
            member["attn_matrices"].append("o")
    file.write_text(json.dumps(document))
    other = ah.AutoAdapterModel.from_pretrained(models / "bert")
    other.load_adapter(tmp_path / "a")
    report = ah.load_report()
    assert report is not None and report.complete and any("output projection" in note for note in report.notes)
    assert other.adapter_config("a") == model.adapter_config("a")


def test_dora_of_adapters_13_only_under_compat(models: Path, tmp_path: Path) -> None:
    """Its norm leaves the scale out and its bias is rescaled: what we write there must mean the same, or is refused."""
    model = ah.AutoAdapterModel.from_pretrained(models / "bert")
    model.add_adapter("a", config="dora")
    with pytest.raises(CheckpointError, match="DoRA"):
        model.save_adapter(tmp_path / "a", "a", format="adapters")
    llama = ah.AutoAdapterModel.from_pretrained(models / "llama")  # no biases, and alpha / r is 1: one and the same
    llama.add_adapter("a", config="dora")
    randomise(llama.get_adapter("a").values())
    llama.save_adapter(tmp_path / "a", "a", format="adapters")
    outputs = []
    for compat in (None, "adapters-1.3"):
        other = ah.AutoAdapterModel.from_pretrained(models / "llama")
        other.load_adapter(tmp_path / "a", set_active=True, compat=compat)
        report = ah.load_report()
        assert report is not None and bool(report.notes) == (compat is None)
        outputs.append(other(**inputs()).last_hidden_state)
    torch.testing.assert_close(outputs[0], outputs[1])
    with pytest.raises(CheckpointError, match="compat"):
        other.save_adapter(tmp_path / "b", "a")
