"""Checkpoints of PEFT, written by hand: read to what the model computes by itself from embeddings, a cache or a hook, and written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, write_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import adapterhub.core as ah
from adapterhub.spec.errors import CheckpointError, InvalidConfigError

LENGTH = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("bert", "roberta", "gpt2", "llama", "t5"):
        write_model(folder / kind, kind)
    return folder


def checkpoint(folder: Path, kind: str, embeddings: Tensor, **fields: Any) -> Path:
    folder.mkdir()
    save_file({"prompt_embeddings": embeddings}, folder / "adapter_model.safetensors")
    document = {"peft_type": kind, "num_virtual_tokens": LENGTH, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4)) * 0.5


def padded() -> dict[str, Tensor]:
    batch = inputs()
    batch["attention_mask"][1, 6:] = 0
    return batch


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("method", ["PROMPT_TUNING", "P_TUNING"])
@torch.no_grad()
def test_prompts_stand_among_the_words(models: Path, tmp_path: Path, kind: str, method: str) -> None:
    prompt = numbers(LENGTH, 32)
    model = transformers.AutoModel.from_pretrained(models / kind).eval()
    batch = padded()
    rows = len(batch["input_ids"])
    words = model.get_input_embeddings()(batch["input_ids"])
    mask = torch.cat((batch["attention_mask"].new_ones(rows, LENGTH), batch["attention_mask"]), 1)
    wanted = model(inputs_embeds=torch.cat((prompt.expand(rows, -1, -1), words), 1), attention_mask=mask)
    ah.init(model)
    model.load_adapter(checkpoint(tmp_path / "p", method, prompt), load_as="p", set_active=True)
    got = model(**batch).last_hidden_state
    torch.testing.assert_close(got, wanted.last_hidden_state, rtol=0, atol=1e-6)
    model.save_adapter(tmp_path / "q", "p", format="peft")
    assert torch.equal(load_file(tmp_path / "q" / "adapter_model.safetensors")["prompt_embeddings"], prompt)
    model.save_adapter(tmp_path / "n", "p")
    model.load_adapter(tmp_path / "n", load_as="again", set_active=True)
    assert torch.equal(model(**batch).last_hidden_state, got)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@torch.no_grad()
def test_prefixes_are_a_cache_the_text_stands_behind(models: Path, tmp_path: Path, kind: str) -> None:
    model = transformers.AutoModel.from_pretrained(models / kind).eval()
    layers, heads, size = 2, 2 if kind == "llama" else 4, 8
    prefix = numbers(LENGTH, 2 * layers * heads * size)
    batch = padded()
    rows = len(batch["input_ids"])
    parts = (
        prefix.view(LENGTH, layers, 2, heads, size).permute(1, 2, 3, 0, 4)[:, :, None].expand(-1, -1, rows, -1, -1, -1)
    )
    mask = torch.cat((batch["attention_mask"].new_ones(rows, LENGTH), batch["attention_mask"]), 1)
    options = {"position_ids": torch.arange(LENGTH, LENGTH + batch["input_ids"].shape[1])[None]}
    cache = transformers.DynamicCache([tuple(layer) for layer in parts])
    wanted = model(batch["input_ids"], attention_mask=mask, past_key_values=cache, **options).last_hidden_state
    ah.init(model)
    model.load_adapter(checkpoint(tmp_path / "p", "PREFIX_TUNING", prefix), load_as="p", set_active=True)
    got = model(**batch).last_hidden_state
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    model.save_adapter(tmp_path / "q", "p", format="peft")
    assert torch.equal(load_file(tmp_path / "q" / "adapter_model.safetensors")["prompt_embeddings"], prefix)
    model.save_adapter(tmp_path / "n", "p")
    model.load_adapter(tmp_path / "n", load_as="again", set_active=True)
    assert torch.equal(model(**batch).last_hidden_state, got)
    rows_of = model(**batch, adapter_names=["p", None, "again", None]).last_hidden_state
    torch.testing.assert_close(rows_of[0], got[0], rtol=0, atol=1e-5)
    model.active_adapters = None
    torch.testing.assert_close(rows_of[1], model(**batch).last_hidden_state[1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_prefixes_of_two_towers_are_the_decoders(models: Path, tmp_path: Path) -> None:
    """Four numbers a layer are cut from a tensor that holds two: with two layers both get the first prefix."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(models / "t5").eval()
    prefix = numbers(LENGTH, 2 * 2 * 32)
    batch = {**padded(), "decoder_input_ids": inputs(length=5)["input_ids"]}
    first = prefix.view(LENGTH, 2, 2, 4, 8)[:, 0].permute(1, 2, 0, 3)[:, None].expand(-1, 4, -1, -1, -1)
    own = transformers.DynamicCache([tuple(first), tuple(first)])
    cache = transformers.EncoderDecoderCache(own, transformers.DynamicCache())
    wanted = model(**batch, past_key_values=cache).logits
    ah.init(model)
    folder = checkpoint(tmp_path / "p", "PREFIX_TUNING", prefix, task_type="SEQ_2_SEQ_LM")
    if not hasattr(transformers.models.t5.modeling_t5, "ALL_ATTENTION_FUNCTIONS"):  # before 5.15
        with pytest.raises(InvalidConfigError, match="attention interface"):
            model.load_adapter(folder)
        return
    model.load_adapter(folder, load_as="p", set_active=True)
    torch.testing.assert_close(model(**batch).logits, wanted, rtol=0, atol=1e-5)
    model.save_adapter(tmp_path / "q", "p", format="peft")
    model.load_adapter(tmp_path / "q", load_as="again", set_active=True)
    torch.testing.assert_close(model(**batch).logits, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_prompts_and_prefixes_generate_as_without_a_cache(models: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(models / "llama").eval()
    ah.init(model)
    model.load_adapter(checkpoint(tmp_path / "p", "PREFIX_TUNING", numbers(LENGTH, 2 * 2 * 16)), load_as="prefix")
    model.load_adapter(checkpoint(tmp_path / "q", "PROMPT_TUNING", numbers(LENGTH, 32)), load_as="prompt")
    for name in ("prefix", "prompt"):
        model.active_adapters = name
        found = [
            model.generate(**inputs(), max_new_tokens=6, do_sample=False, use_cache=flag) for flag in (True, False)
        ]
        assert torch.equal(*found)


@torch.no_grad()
def test_classifiers_of_decoders_read_the_last_token_behind_a_prompt(models: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(models / "llama", num_labels=3).eval()
    ah.init(model)
    model.add_adapter("p", config="prompt[prompt_length=3]", set_active=True)
    batch = padded()
    batch["input_ids"][1, 6:] = 0
    scores = model.score(model.model(**batch).last_hidden_state)
    last = 3 + batch["attention_mask"].sum(1) - 1
    torch.testing.assert_close(model(**batch).logits, scores[torch.arange(len(last)), last])


@torch.no_grad()
def test_the_offset_of_lora_b_is_scaled(models: Path, tmp_path: Path) -> None:
    """W x + s (B A x + c) with s = alpha / r; on maps without a bias of their own an offset is written that way."""
    model = transformers.AutoModel.from_pretrained(models / "llama").eval()
    a, b, c = numbers(2, 32), numbers(32, 2), numbers(32)
    batch, linear = inputs(), model.layers[1].self_attn.q_proj
    hook = linear.register_forward_hook(lambda module, args, output: output + 3 * (args[0] @ a.T @ b.T + c))
    wanted = model(**batch).last_hidden_state
    hook.remove()
    front = "base_model.model.layers.1.self_attn.q_proj"
    (tmp_path / "a").mkdir()
    tensors = {f"{front}.lora_A.weight": a, f"{front}.lora_B.weight": b, f"{front}.lora_B.bias": c}
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "lora_bias": True, "bias": "none"}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**fields, "target_modules": ["q_proj"]}))
    ah.init(model)
    model.load_adapter(tmp_path / "a", set_active=True)
    torch.testing.assert_close(model(**batch).last_hidden_state, wanted, rtol=0, atol=1e-5)
    model.save_adapter(tmp_path / "b", "a", format="peft")
    written = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert set(written) == set(tensors)
    torch.testing.assert_close(written[f"{front}.lora_B.bias"], c)


def test_what_does_not_fit_is_refused(models: Path, tmp_path: Path) -> None:
    model = ah.init(transformers.AutoModel.from_pretrained(models / "bert"))
    for number, (method, embeddings) in enumerate(
        [
            ("PROMPT_TUNING", numbers(LENGTH, 31)),
            ("PROMPT_TUNING", numbers(2, 32)),
            ("PREFIX_TUNING", numbers(LENGTH, 64)),
        ]
    ):
        with pytest.raises(CheckpointError):
            model.load_adapter(checkpoint(tmp_path / str(number), method, embeddings))
    assert not model.has_adapters()
    model.add_adapter("behind", config="prompt")
    model.add_adapter("unmoved", config="prefix[bottleneck_size=8]")
    for name in ("behind", "unmoved"):
        with pytest.raises(InvalidConfigError, match="PEFT"):
            model.save_adapter(tmp_path / name, name, format="peft")


@torch.no_grad()
def test_linear_maps_are_found_under_their_names_of_transformers_4(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=8, patch_size=4
    )
    model = transformers.ViTModel(config).eval()
    a, b = numbers(2, 32), numbers(32, 2)
    pixels = numbers(2, 3, 8, 8)
    hook = model.layers[1].attention.q_proj.register_forward_hook(
        lambda module, args, output: output + 3 * (args[0] @ a.T @ b.T)
    )
    wanted = model(pixels).last_hidden_state
    hook.remove()
    front = "base_model.model.encoder.layer.1.attention.attention.query"
    (tmp_path / "a").mkdir()
    save_file({f"{front}.lora_A.weight": a, f"{front}.lora_B.weight": b}, tmp_path / "a" / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {"query": 6}, "target_modules": ["query"]}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(fields))
    ah.init(model)
    model.load_adapter(tmp_path / "a", set_active=True)
    torch.testing.assert_close(model(pixels).last_hidden_state, wanted, rtol=0, atol=1e-5)
