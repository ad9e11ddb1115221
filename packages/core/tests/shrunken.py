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
        "decoder_hidden_size", "word_embed_proj_dim", "moe_intermediate_size", "image_size", "projection_size",
        "attention_hidden_size", "mamba_d_model", "lru_width", "text_hidden_size", "audio_hidden_size",
    ),
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
        "num_encoder_layers", "num_key_value_heads", "num_experts_per_tok", "type_vocab_size", "eos_token_id", "depth",
        "attn_layer_period", "expert_layer_period", "num_layer", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
        "encoder_num_key_value_heads", "decoder_num_key_value_heads", "window_size",
    ),
    4: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
        "num_experts", "num_local_experts", "n_routed_experts", "rotary_dim", "num_conv_pos_embedding_groups",
        "encoder_num_attention_heads", "decoder_num_attention_heads", "linear_num_key_heads", "linear_num_value_heads",
        "mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "moe_num_experts",
    ),
    8: (
        "head_dim", "kv_channels", "d_kv", "patch_size", "sliding_window", "qk_rope_head_dim", "qk_nope_head_dim",
        "v_head_dim", "qk_head_dim", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "attention_head_dim",
    ),
    48: (
        "intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "n_inner",
        "ffn_hidden_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size", "encoder_intermediate_size",
        "decoder_intermediate_size",
    ),
    64: ("max_position_embeddings", "n_positions", "n_ctx", "original_max_position_embeddings"),
    99: ("vocab_size",),
    30: ("max_source_positions", "max_target_positions"),
    16: ("num_mel_bins", "num_conv_pos_embeddings", "kv_lora_rank", "q_lora_rank", "state_size", "mamba_d_state", "mamba_d_head"),
    1: ("pad_token_id", "n_group", "topk_group", "attn_layer_offset", "mamba_n_groups", "n_groups", "num_nextn_predict_layers"),
    0: ("bos_token_id", "decoder_start_token_id", "first_k_dense_replace"),
}  # fmt: skip

#: Fields that may be None and are then computed from sizes that no longer hold.
_GIVEN = ("num_key_value_heads", "head_dim", "vocab_size")

#: Lists of a number a stage → what each entry becomes.
_STAGES = {
    "depths": 1, "hidden_sizes": 32, "embed_dims": 32, "encoder_hidden_sizes": 32, "layer_depths": 1, "num_attention_heads": 4,
    "num_heads": 4, "conv_dim": 32, "stage_layers": 1, "neck_hidden_sizes": 32,
}  # fmt: skip

#: Parts of the names of types whose rotary embedding has three sections: time, height, width.
_SECTIONS = ("_vl", "glm4v", "glm_ocr", "glm_image", "glm46v", "omni")

#: What some types need besides.
_OWN: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 4},
    "bamba": {"attn_layer_indices": [1]},
    "beit": {"image_size": 32},
    "convnext": {"image_size": 64},
    "bros": {"dim_bbox_sinusoid_emb_2d": 8, "dim_bbox_sinusoid_emb_1d": 4, "dim_bbox_projection": 8, "dim_bbox": 8},
    "csm": {"num_codebooks": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "donut-swin": {"patch_size": 2, "window_size": 2},
    "esm": {"pad_token_id": 1, "mask_token_id": 3, "position_embedding_type": "rotary"},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4},
    "funnel": {"block_sizes": [1, 1], "block_repeats": [1, 1], "num_decoder_layers": 1, "initializer_std": 0.1},
    "informer": {"prediction_length": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "max_2d_position_embeddings": 64},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 2, "max_2d_position_embeddings": 64},
    "mamba2": {"num_heads": 8},
    "prophetnet": {"num_encoder_layers": 2, "num_decoder_layers": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": (8, 24), "axial_pos_shape": (8, 8), "attn_layers": ["local", "local"]},
    "swin": {"patch_size": 2, "window_size": 2},
    "swin2sr": {"patch_size": 1, "window_size": 4},
    "swinv2": {"patch_size": 2, "window_size": 2},
    "time_series_transformer": {"prediction_length": 4},
    "xmod": {"default_language": "en_XX"},
}


def shrunken(model_type: str, **fixed: Any) -> nn.Module:
    """A random bare model of this type in evaluation mode; `fixed` are fields of its config to set."""
    config = shrink(CONFIG_MAPPING[model_type]())
    for name, value in {**_OWN.get(model_type, {}), **fixed}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model: nn.Module = AutoModel.from_config(config)
    return model.eval()


def shrink(config: Any, depth: int = 0) -> Any:
    """Make every size of a config, and of the configs in it, small."""
    for size, names in _SMALL.items():
        for name in names:
            value = _value(config, name)
            if (isinstance(value, int) and not isinstance(value, bool)) or (
                value is None and name in _GIVEN and _has(config, name)
            ):
                _set(config, name, size)
    for name, size in _STAGES.items():
        value = _value(config, name)
        if isinstance(value, list | tuple) and all(isinstance(entry, int) for entry in value):
            _set(config, name, type(value)([size] * len(value)))
    types = _value(config, "layer_types")
    if isinstance(types, list | tuple) and types:
        _set(config, "layer_types", _two_kinds(types))
    if _value(config, "kv_lora_rank"):  # keys and values of every head come from one small vector
        _set(config, "num_key_value_heads", _value(config, "num_attention_heads"))
    rope = _value(config, "rope_parameters")
    if isinstance(rope, dict) and any(part in str(config.model_type) for part in _SECTIONS):
        rope["mrope_section"] = [1, 1, 0] if float(rope.get("partial_rotary_factor", 1)) < 1 else [2, 1, 1]
    for name in getattr(config, "sub_configs", None) or {}:
        part = _value(config, name)
        if part is not None and depth < 3:
            shrink(part, depth + 1)
    return config


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001 - some configs refuse what differs from layer to layer
        return None


def _has(config: Any, name: str) -> bool:
    try:
        return hasattr(config, name)
    except Exception:  # noqa: BLE001
        return False


def _set(config: Any, name: str, value: Any) -> None:
    with suppress(AttributeError, NotImplementedError):  # a few are computed from others
        setattr(config, name, value)


def _two_kinds(types: Any) -> list[Any]:
    """Two layers of a hybrid: of different kinds where there are some, with attention."""
    kinds = list(dict.fromkeys(types))
    attention = [kind for kind in kinds if "attention" in str(kind) and "linear" not in str(kind)]
    chosen = (attention or kinds)[:1]
    chosen += [kind for kind in kinds if kind not in chosen][:1]
    return sorted((chosen * 2)[:2], key=kinds.index)
