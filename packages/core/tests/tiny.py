"""Tiny random models with adapters whose numbers matter, for the tests of the engine."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

import adapterhub.core as ah

_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny(model_class: str = "BertModel", *, seed: int = 0, **sizes: Any) -> nn.Module:
    """A random model of this class in evaluation mode, without dropout, with weights large enough to tell outputs apart."""
    cls = getattr(transformers, model_class)
    config = cls.config_class
    names = {"vocab_size": 96, **_SPECIAL, **_sizes(config), **sizes}
    torch.manual_seed(seed)
    model: nn.Module = cls(config(**names)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


def _sizes(config: type) -> dict[str, Any]:
    known = {
        "DistilBertConfig": {
            "dim": 32,
            "hidden_dim": 56,
            "n_layers": 3,
            "n_heads": 4,
            "dropout": 0,
            "attention_dropout": 0,
        },
        "GPT2Config": {"n_embd": 32, "n_layer": 3, "n_head": 4, "embd_pdrop": 0, "resid_pdrop": 0, "attn_pdrop": 0},
        "T5Config": {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 56,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        "BartConfig": {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 56,
            "decoder_ffn_dim": 56,
            "dropout": 0,
            "forced_eos_token_id": None,
        },
    }
    common = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 56}
    if config.__name__ in ("BertConfig", "RobertaConfig"):
        common |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return known.get(config.__name__, common)


def with_adapters(model: nn.Module, seed: int = 1, **configs: Any) -> Any:
    """The model after `init` with these adapters, every parameter of which is random."""
    ah.init(model)
    for name, config in configs.items():
        model.add_adapter(name, config=config)
    shake(model, seed)
    return model


def shake(model: Any, seed: int = 1) -> None:
    """Give every adapter and fusion parameter another value."""
    generator = torch.Generator().manual_seed(seed)
    pool = ah.pool_of(model)
    for held in (*pool.adapters.values(), *pool.fusions.values()):
        for parameter in held.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2


def ids(rows: int = 3, tokens: int = 8, seed: int = 2) -> dict[str, Tensor]:
    """Random token ids without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(5, 90, (rows, tokens), generator=generator)}


@torch.no_grad()
def run(model: Any, inputs: dict[str, Tensor] | None = None, setup: Any = ..., **options: Any) -> Tensor:
    """Logits or last hidden state, with `setup` made active before where one is given."""
    if setup is not ...:
        model.active_adapters = setup
    output = model(**(inputs or ids()), **options)
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found


def loss_of(output: Tensor) -> Tensor:
    """A number that depends on every feature (a plain sum of squares would not, after a norm)."""
    weights = torch.linspace(-1, 1, output.shape[-1])
    return (output * weights).sum() + (output**3 * weights.flip(0)).sum()


def close(one: Tensor, other: Tensor, tolerance: float = 2e-5) -> bool:
    """Equal up to rounding."""
    return one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance
