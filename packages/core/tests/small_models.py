"""Random models of a few kilobytes, and one step of training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    },
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
    },
    "t5": {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48},
}


def write_model(folder: Path, model_type: str = "bert", seed: int = 0, **sizes: Any) -> Path:
    """A random bare transformer as `from_pretrained` reads it."""
    special = {"t5": {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}, "bart": {}}.get(model_type)
    if special is None:
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    known = {"vocab_size": 96, "max_position_embeddings": 64, **SIZES[model_type], **special, **sizes}
    config = transformers.AutoConfig.for_model(model_type, **known)
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config)
    for parameter in model.parameters():  # large enough for adapters to matter
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return folder


def inputs(rows: int = 4, length: int = 9, seed: int = 1) -> dict[str, Tensor]:
    """Random tokens without padding, ending in token 2."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 96, (rows, length), generator=generator)
    ids[:, -1] = 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def train(model: Any, batch: dict[str, Any], steps: int = 3, rate: float = 5e-2) -> float:
    """A few steps on one batch; the last loss."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss.detach())


def randomise(parameters: Any, seed: int = 3) -> None:
    """Values far from 0, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        if parameter.is_floating_point():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.2
