"""What core saves is what the spec describes: every preset, and other models, pass validation and become manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.t5 import modeling_t5

import adapterhub.core as ah
from adapterhub.spec import InvalidConfigError, Manifest, build_manifest, load_preset, preset_names, validate_path

OVERRIDES: dict[str, dict[str, Any]] = {
    "compacter": {"reduction_factor": 4},
    "compacter++": {"reduction_factor": 4},
}
MODELS: dict[str, Any] = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            vocab_size=40,
            num_labels=3,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=40, n_positions=16)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            vocab_size=40,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=40)
    ),
}
CASES = [
    *(("bert", name, OVERRIDES.get(name, {})) for name in preset_names()),
    ("bert", "lora", {"use_dora": True, "bias": True, "intermediate_lora": True, "output_lora": True}),
    ("bert", "houlsby", {"leave_out": [0], "reduction_factor": {"default": 4, "1": 8}, "ln_before": True}),
    ("bert", "pfeiffer", {"use_gating": True, "scaling": "learned", "ln_after": True}),
    ("bert", "ia3", {"ffn": "down_input", "use_gating": True}),
    ("gpt2", "houlsby", {"reduction_factor": 4}),
    ("gpt2", "lora", {}),
    ("gpt2", "prefix", {"prefix_length": 3, "bottleneck_size": 5}),
    ("llama", "pfeiffer", {"bottleneck_size": 3}),
    ("llama", "lora", {"attn_matrices": ["q", "k", "v", "o"]}),
    ("llama", "prefix_flat", {"prefix_length": 3}),
    ("t5", "houlsby", {"cross_adapter": True, "reduction_factor": 4}),
    ("t5", "houlsby", {"leave_out": [0], "reduction_factor": {"default": 4, "2": 8}}),
    ("t5", "lora", {}),
    ("t5", "prefix", {"prefix_length": 3, "bottleneck_size": 5}),
]


@pytest.mark.parametrize(
    ("kind", "preset", "overrides"), CASES, ids=[f"{kind}-{name}-{len(o)}" for kind, name, o in CASES]
)
def test_saved_adapters_are_valid_and_publishable(
    kind: str, preset: str, overrides: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = ah.init(MODELS[kind]())
    config = load_preset(preset, **overrides)
    if (kind, preset) == ("t5", "prefix") and not hasattr(modeling_t5, "ALL_ATTENTION_FUNCTIONS"):  # before 5.15
        with pytest.raises(InvalidConfigError, match="attention interface"):
            model.add_adapter("x", config=config)
        return
    model.add_adapter("x", config=config)
    model.save_adapter(tmp_path / "x", "x")
    assert [str(problem) for problem in validate_path(tmp_path / "x")] == []
    manifest = build_manifest(tmp_path / "x", reference="sentiment/sst-2@ukp", model_name="owner/model")
    assert Manifest.from_bytes(manifest.canonical_bytes()) == manifest
    assert manifest.config_id == config.config_id and manifest.base_model.hidden_size == 32
    assert sum(1 for tensor in manifest.tensors if tensor.file == "adapter.safetensors")


def test_saved_fusions_setups_and_whole_models_are_valid(tmp_path: Path) -> None:
    model = ah.init(MODELS["bert"]())
    for name in ("a", "b.c"):
        model.add_adapter(name, config="pfeiffer[reduction_factor=4]")
    model.add_adapter_fusion(["a", "b.c"])
    model.save_adapter_fusion(tmp_path / "fusion", "a,b.c")
    model.save_adapter_setup(tmp_path / "setup", ah.Fuse("a", "b.c"))
    model.save_all_adapters(tmp_path / "all")
    for name in ("fusion", "setup", "all"):
        assert [str(problem) for problem in validate_path(tmp_path / name)] == [], name


def test_saved_heads_of_every_kind_are_valid(tmp_path: Path) -> None:
    static = ah.init(MODELS["bert"]())
    static.add_adapter("x", config="pfeiffer[reduction_factor=4]")
    static.train_adapter("x")
    static.save_adapter(tmp_path / "static", "x")
    static.bert.save_pretrained(tmp_path / "base")
    model = ah.AutoAdapterModel.from_pretrained(tmp_path / "base")
    kinds: dict[str, dict[str, Any]] = {
        "classification": {"num_labels": 3, "layers": 2, "id2label": {0: "a", 1: "b", 2: "c"}},
        "tagging": {"num_labels": 3},
        "qa": {},
        "multiple_choice": {},
        "dependency_parsing": {"num_labels": 4},
        "image_classification": {"num_labels": 2},
        "masked_lm": {},
        "causal_lm": {},
    }
    for name, options in kinds.items():
        getattr(model, f"add_{name}_head")(name, **options)
        model.add_adapter(name, config="lora[r=2]")
        model.save_adapter(tmp_path / name, name)
    for name in ("static", *kinds):
        assert (tmp_path / name / "head_config.json").is_file(), name
        assert [str(problem) for problem in validate_path(tmp_path / name)] == [], name
        assert build_manifest(tmp_path / name, reference="a/b@c", model_name="m").head is not None


@pytest.mark.parametrize(("origin", "adapters"), [("adapters-1.3", 134), ("peft-0.21", 11)])
def test_checkpoints_of_other_libraries_are_valid_once_converted(
    origin: str, adapters: int, test_data: Path, tmp_path: Path
) -> None:
    """Every adapter among the golden cases; the numbers they give are compared in core's tests."""
    from adapterhub.core.commands.converting import convert

    wrong: dict[str, list[str]] = {}
    count = 0
    for case in sorted((test_data / "golden" / origin).glob("*/cases/*/case.json")):
        for name, folder in (json.loads(case.read_text()).get("adapters") or {}).items():
            target = tmp_path / str(count)
            count += 1
            convert(str(case.parent / folder), target, "native", str(case.parents[2] / "model"), None, None)
            problems = validate_path(target)
            if problems:
                wrong[f"{case.parent} {name}"] = [str(problem) for problem in problems]
    assert wrong == {} and count == adapters
