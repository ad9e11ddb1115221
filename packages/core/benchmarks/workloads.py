"""The models and inputs of the benchmarks, the same for us and for the peers: shapes, seed, nothing else.

Only torch and transformers are imported here, so that the peers' own environments can run this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

SEED = 20200714
#: shape name → (layers, hidden size, heads, intermediate size)
SHAPES = {
    "tiny": (12, 64, 2, 256),
    "minilm": (6, 384, 12, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


_weights: dict[str, dict[str, torch.Tensor]] = {}


def bert(shape: str, *, vocabulary: int = 1000) -> BertModel:
    """A BERT of that shape with random weights from `SEED`, in evaluation mode, SDPA attention.

    All of one shape share their weights, which no benchmark changes: where weights lie in memory alone makes a model up to 4 %
    faster than its twin, and that is not to count for or against an adapter.
    """
    layers, hidden, heads, intermediate = SHAPES[shape]
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=512,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    if vocabulary == 1000 and shape in _weights:
        model.load_state_dict(_weights[shape], assign=True)
    elif vocabulary == 1000:
        _weights[shape] = model.state_dict()
    return model


def llama() -> LlamaForCausalLM:
    """A Llama of MiniLM size with random weights from `SEED`, in evaluation mode; all share their weights, see `bert`."""
    layers, hidden, heads, _ = SHAPES["minilm"]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=2000,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=1024,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    if "llama" in _weights:
        model.load_state_dict(_weights["llama"], assign=True)
    else:
        _weights["llama"] = model.state_dict()
    return model


def generating(model: torch.nn.Module, inputs: dict[str, torch.Tensor], count: int, **extra: Any) -> Callable[[], Any]:
    """A call that continues each row by `count` tokens."""
    return lambda: model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, **extra)  # type: ignore[operator]


def tokens(rows: int, length: int, *, vocabulary: int = 1000) -> dict[str, torch.Tensor]:
    """Random token ids [rows, length] with a full attention mask."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def inference(model: torch.nn.Module, inputs: dict[str, torch.Tensor], **extra: Any) -> Callable[[], Any]:
    """A call that runs `model` forward without gradients."""

    def call() -> Any:
        with torch.no_grad():
            return model(**inputs, **extra)

    return call


def training(model: torch.nn.Module, inputs: dict[str, torch.Tensor], **extra: Any) -> Callable[[], Any]:
    """A call that runs `model` forward and backward; gradients are dropped afterwards."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def call() -> None:
        model(**inputs, **extra)[0].square().mean().backward()
        for parameter in trained:
            parameter.grad = None

    return call


def floor(model: BertModel) -> BertModel:
    """The least that training an adapter in every layer can cost: all frozen but the bias after layer 0's feed-forward."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.encoder.layer[0].output.dense.bias.requires_grad_(True)
    return model
