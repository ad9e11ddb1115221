"""A small input for any transformers model, to run it once and look at it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["dummy_inputs", "run_small"]


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


def run_small(model: nn.Module, *, rows: int = 1, again: Callable[[], None] | None = None) -> dict[str, Tensor]:
    """Run the model once on a small input and return what it was: all it takes or, where it does not run on that (images
    have to have their place in the text, sound comes in other orders), the first of several others that it runs on.

    Args:
        again: called before each further attempt, to forget what was seen of the one before.

    Raises:
        Exception: what the first attempt raised, where all fail.
    """
    first: Exception | None = None
    for inputs in _attempts(model, rows):
        if first is not None and again is not None:
            again()
        try:
            model(**inputs)
        except Exception as error:  # noqa: BLE001 - whatever a model of another library raises
            first = first or error
            continue
        return inputs
    assert first is not None
    raise first


def _attempts(model: nn.Module, rows: int) -> Iterator[dict[str, Tensor]]:
    """Small inputs for a model, the most likely first, none twice."""
    plain = dummy_inputs(model, rows=rows)
    yield plain
    text = {
        name: value for name, value in plain.items() if not name.startswith(("pixel", "input_features", "input_values"))
    }
    if "input_ids" in text and text.keys() != plain.keys():
        yield text
    parameter, config = next(model.parameters()), getattr(model, "config", None)
    accepted = inspect.signature(model.forward).parameters
    dtype = parameter.dtype if parameter.is_floating_point() else torch.get_default_dtype()
    for name, make in _OTHERWISE:
        if name in accepted:
            for value in make(config, rows):
                yield {**(plain if "input_ids" not in plain else text), name: value.to(parameter.device, dtype)}


def _films(config: Any, rows: int) -> Iterator[Tensor]:
    """[rows, frames, channels, height, width], and the image of several tiles of the same shape."""
    image = _image(config, rows)
    for frames in dict.fromkeys((int(getattr(config, "num_frames", 2) or 2), 2, 1)):
        yield image[:, None].expand(-1, frames, -1, -1, -1).contiguous()


def _sounds(config: Any, rows: int) -> Iterator[Tensor]:
    """[rows, frames, bands], of many names of the number of bands."""
    part = getattr(config, "audio_config", None) or getattr(config, "encoder_config", None) or config
    names = ("num_mel_bins", "feature_size", "input_dim", "input_feat_per_channel", "feature_projection_input_dim")
    bands = {value for name in names if isinstance(value := getattr(part, name, None), int)} or {80}
    for size in sorted(bands):
        for frames in (getattr(part, "max_length", None), 64):
            if isinstance(frames, int):
                yield torch.sin(torch.arange(rows * frames * size) / 7.0).view(rows, frames, size)


def _waves(config: Any, rows: int) -> Iterator[Tensor]:
    """[rows, 1, samples]."""
    yield torch.sin(torch.arange(rows * 3840) / 7.0).view(rows, 1, -1)
    yield torch.sin(torch.arange(rows * 16000) / 7.0).view(rows, -1)


def _images(config: Any, rows: int) -> Iterator[Tensor]:
    yield _image(config, rows)


def _main_input(model: nn.Module) -> str:
    return str(getattr(model, "main_input_name", "input_ids"))


def _has_part(config: Any, name: str) -> bool:
    part = {"pixel_values": "vision_config", "input_features": "audio_config", "input_values": "audio_config"}[name]
    return getattr(config, part, None) is not None and getattr(config, "text_config", None) is not None


def _ids(config: Any, rows: int, tokens: int, device: torch.device) -> Tensor:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = int(getattr(text, "vocab_size", None) or getattr(config, "vocab_size", None) or 100)
    special: set[Any] = set()
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        given = getattr(text, name, None)
        special.update(given if isinstance(given, list | tuple) else [given])
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


#: argument → other shapes of it to try
_OTHERWISE: list[tuple[str, Callable[[Any, int], Iterator[Tensor]]]] = [
    ("pixel_values", _images),
    ("pixel_values", _films),
    ("pixel_values_videos", _films),
    ("input_features", _sounds),
    ("input_values", _sounds),
    ("input_values", _waves),
]
_MAKERS = {"pixel_values": _image, "input_values": _sound, "input_features": _spectrogram}
