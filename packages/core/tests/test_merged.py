"""Merging into the base weights changes nothing but the cost, and can be undone to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

import adapterhub.core as ah
from adapterhub.spec import InvalidConfigError


def _bert() -> Any:
    return BertModel(
        BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    )


def _gpt2() -> Any:
    return GPT2Model(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2))


CONFIGS = [
    "lora[alpha=20,init_weights='bert',intermediate_lora=true,output_lora=true]",
    "dora[alpha=20,init_weights='bert']",
    "ia3",
    "ia3[ffn='down_input']",
]


@pytest.mark.parametrize("make", [_bert, _gpt2])
@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_merged_equals_unmerged_and_comes_back_to_the_bit(make: Any, config: str) -> None:
    torch.manual_seed(0)
    model = ah.init(make().eval())
    ids = torch.randint(3, 60, (2, 6))
    bare = model(ids)[0]
    model.add_adapter("a", config=config)
    for key, parameter in model.named_parameters():
        if "adapterhub" in key:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.set_active_adapters("a")
    adapted = model(ids)[0]
    assert not torch.allclose(adapted, bare, atol=1e-3)
    model.merge_adapter("a")
    assert model.active_adapters is None
    assert torch.allclose(model(ids)[0], adapted, atol=1e-5)
    model.unmerge_adapter("a")
    assert torch.equal(model(ids)[0], adapted)
    model.merge_adapter("a")
    ah.detach(model)
    assert torch.equal(model(ids)[0], bare)


def test_what_cannot_be_merged_is_refused_and_nothing_changes() -> None:
    model = ah.init(_bert().eval())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.add_adapter("bottleneck", config="pfeiffer")
    model.add_adapter("gated", config="lora[use_gating=true]")
    model.add_adapter("a", config="lora")
    model.add_adapter("b", config="lora")
    for name in ("bottleneck", "gated"):
        with pytest.raises(InvalidConfigError, match="merged"):
            model.merge_adapter(name)
    model.set_active_adapters(ah.Stack("a", "b"))
    with pytest.raises(InvalidConfigError, match="together with others"):
        model.merge_adapter("a")
    with pytest.raises(InvalidConfigError, match="No adapter is merged"):
        model.unmerge_adapter()
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    model.set_active_adapters(None)
    model.merge_adapter("a")
    with pytest.raises(InvalidConfigError, match="'a' is merged already"):
        model.merge_adapter("b")
    model.delete_adapter("a")
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
