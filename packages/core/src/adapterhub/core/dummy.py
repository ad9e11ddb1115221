"""A small input for any transformers model, to run it once and look at it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["dummy_inputs"]


def dummy_inputs(model: nn.Module, *, tokens: int = 5, rows: int = 1) -> dict[str, Tensor]:
    """Keyword arguments of `model.forward` with `rows` small examples; no random number is drawn.

    Text gets `tokens` ids that are no padding, images and sound as much as the config asks for.
    """
    parameter = next(model.parameters())
    device = parameter.device
    dtype = parameter.dtype if parameter.is_floating_point() else torch.get_default_dtype()
    accepted = inspect.signature(model.forward).parameters
    config: Any = getattr(model, "config", None)
    found: dict[str, Tensor] = {}
    if "input_ids" in accepted:
        found["input_ids"] = _ids(config, rows, tokens, device)
    for name in ("pixel_values", "input_values", "input_features"):
        if name in accepted and (name == _main_input(model) or _has_part(config, name)):
            found[name] = _MAKERS[name](config, rows).to(device, dtype)
    if "decoder_input_ids" in accepted and getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = _ids(config, rows, max(2, tokens - 1), device)
    if "encoder_hidden_states" in accepted and getattr(config, "add_cross_attention", False):
        width = int(getattr(config, "cross_attention_hidden_size", None) or config.hidden_size)
        states = torch.linspace(-1, 1, rows * 3 * width, device=device, dtype=dtype)
        found["encoder_hidden_states"] = states.view(rows, 3, width)
    if "bbox" in accepted:
        found["bbox"] = torch.zeros(rows, tokens, 4, dtype=torch.long, device=device)
    return found


def _main_input(model: nn.Module) -> str:
    return str(getattr(model, "main_input_name", "input_ids"))


def _has_part(config: Any, name: str) -> bool:
    part = {"pixel_values": "vision_config", "input_features": "audio_config", "input_values": "audio_config"}[name]
    return getattr(config, part, None) is not None and getattr(config, "text_config", None) is not None


def _ids(config: Any, rows: int, tokens: int, device: torch.device) -> Tensor:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = int(getattr(text, "vocab_size", None) or getattr(config, "vocab_size", None) or 100)
    special = {getattr(text, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    free = [number for number in range(min(size, tokens + 16)) if number not in special] or [0]
    ids = [free[(row + place) % len(free)] for row in range(rows) for place in range(tokens)]
    return torch.tensor(ids, dtype=torch.long, device=device).view(rows, tokens)


def _image(config: Any, rows: int) -> Tensor:
    part = getattr(config, "vision_config", None) or config
    size = getattr(part, "image_size", 32)
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    count = rows * int(getattr(part, "num_channels", 3)) * height * width
    return torch.linspace(-1, 1, count).view(rows, -1, height, width)


def _sound(config: Any, rows: int) -> Tensor:
    part = getattr(config, "audio_config", None) or config
    stride = 1
    for step in getattr(part, "conv_stride", ()):
        stride *= step
    return torch.sin(torch.arange(max(400, 20 * stride) * rows) / 7.0).view(rows, -1)


def _spectrogram(config: Any, rows: int) -> Tensor:
    part = getattr(config, "audio_config", None) or config
    bands = getattr(part, "num_mel_bins", None) or getattr(part, "input_feat_per_channel", None) or 80
    frames = 2 * int(getattr(part, "max_source_positions", 100))
    if getattr(part, "feature_size", None):
        return torch.sin(torch.arange(rows * 64 * part.feature_size) / 7.0).view(rows, 64, part.feature_size)
    return torch.sin(torch.arange(rows * int(bands) * frames) / 7.0).view(rows, int(bands), frames)


_MAKERS = {"pixel_values": _image, "input_values": _sound, "input_features": _spectrogram}
