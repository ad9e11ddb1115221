"""Tiny random models of model types by name: transformers' default config of a type with every size made small."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

_SMALL = {
    32: (
        "hidden_size", "d_model", "dim", "n_embd", "embed_dim", "embedding_size", "projection_dim", "encoder_hidden_size",
        "decoder_hidden_size", "word_embed_proj_dim", "moe_intermediate_size", "image_size",
    ),
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
        "num_encoder_layers", "num_key_value_heads", "num_experts_per_tok", "type_vocab_size", "eos_token_id",
    ),
    4: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
        "num_experts", "num_local_experts", "n_routed_experts", "rotary_dim", "num_conv_pos_embedding_groups",
    ),
    8: ("head_dim", "kv_channels", "d_kv", "patch_size", "sliding_window"),
    48: (
        "intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "n_inner",
        "ffn_hidden_size",
    ),
    64: ("max_position_embeddings", "n_positions", "n_ctx"),
    99: ("vocab_size",),
    30: ("max_source_positions", "max_target_positions"),
    16: ("num_mel_bins", "num_conv_pos_embeddings"),
    1: ("pad_token_id",),
    0: ("bos_token_id", "decoder_start_token_id"),
}  # fmt: skip


def shrunken(model_type: str, **fixed: Any) -> nn.Module:
    """A random bare model of this type in evaluation mode; `fixed` are fields of its config to set."""
    config = shrink(CONFIG_MAPPING[model_type]())
    for name, value in fixed.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model: nn.Module = AutoModel.from_config(config)
    return model.eval()


def shrink(config: Any, depth: int = 0) -> Any:
    """Make every size of a config, and of the configs in it, small."""
    for size, names in _SMALL.items():
        for name in names:
            value = getattr(config, name, None)
            if (isinstance(value, int) and not isinstance(value, bool)) or (
                value is None and name == "num_key_value_heads" and hasattr(config, name)
            ):
                with suppress(AttributeError):  # a few are computed from others
                    setattr(config, name, size)
    if isinstance(getattr(config, "conv_dim", None), list | tuple):
        config.conv_dim = (32,) * len(config.conv_dim)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    for name in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, name, None)
        if part is not None and depth < 3:
            shrink(part, depth + 1)
    return config
