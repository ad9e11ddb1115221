"""`convert`: an adapter from one format to another. The base model is built without weights, only for its shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapterhub.core.base_models import check_base_model, hub_name_of
from adapterhub.core.checkpoints import read_adapter, write_checkpoint
from adapterhub.core.commands.loading import adapter_folder, note, quiet
from adapterhub.core.formats import FORMATS, detect
from adapterhub.core.formats.files import read_json
from adapterhub.core.model import init
from adapterhub.core.pool import Pool, pool_of
from adapterhub.spec.errors import AdapterHubError, CheckpointError, InvalidConfigError

__all__ = ["convert"]

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def convert(
    source: str, target: Path, format: str, model: str | None, dtype: str | None, name: str | None
) -> dict[str, Any]:
    """Reads `source`, checks every tensor against the model, writes `target`; returns what was done.

    Raises:
        CheckpointError: tensors that do not fit the model.
        InvalidConfigError: an unknown format or dtype, or a method the format does not have.
    """
    if format not in FORMATS:
        raise InvalidConfigError(f"There is no format {format!r}.", hint=f"Formats: {', '.join(FORMATS)}.")
    if dtype is not None and dtype not in _TYPES:
        raise InvalidConfigError(f"There is no dtype {dtype!r}.", hint=f"Types: {', '.join(_TYPES)}.")
    quiet()
    folder = adapter_folder(source)
    pool = _shape_of(model, folder, needs_weights=_needs_weights(folder, format))
    checkpoint = read_adapter(folder, pool)
    check_base_model(checkpoint.base_model, pool, folder)
    shapes = pool.shapes(checkpoint.config)
    wrong = sorted(set(shapes) ^ set(checkpoint.tensors)) + sorted(
        key for key in set(shapes) & set(checkpoint.tensors) if tuple(checkpoint.tensors[key].shape) != shapes[key]
    )
    if wrong or checkpoint.unexpected:
        raise CheckpointError(
            f"{folder} does not fit the base model: {', '.join([*wrong, *checkpoint.unexpected][:4])}.",
            hint="Name the model it was trained on with --model.",
        )
    checkpoint.name = name or checkpoint.name
    if checkpoint.head is not None:
        checkpoint.head.name = name or checkpoint.head.name
    if checkpoint.base_model.name is None and model is not None:
        checkpoint.base_model.name = hub_name_of(pool)
    checkpoint.base_model.family = pool.layout.family
    checkpoint.base_model.hidden_size = pool.layout.layers[0].width
    write_checkpoint(target, checkpoint, pool, format, _TYPES.get(dtype or ""))
    for remark in checkpoint.notes:
        note(f"Note: {remark}.")
    return {
        "from": checkpoint.format,
        "to": format,
        "folder": str(target),
        "method": checkpoint.config.method,
        "tensors": len(checkpoint.tensors),
        "head": None if checkpoint.head is None else checkpoint.head.config.head_type,
    }


def _shape_of(model: str | None, folder: Path, needs_weights: bool) -> Pool:
    """The pool of the base model: its real weights only where the conversion reads them."""
    import transformers

    document = read_json(folder / "adapter_config.json")
    given = document.get("base_model")
    named = (given.get("name") if isinstance(given, Mapping) else None) or document.get("model_name")
    wanted = model or named or document.get("base_model_name_or_path")
    if needs_weights:
        if wanted is None:
            raise InvalidConfigError(
                "This conversion needs the weights of the base model.", hint="Name it with --model."
            )
        return pool_of(init(transformers.AutoModel.from_pretrained(wanted), model_name=named, verify=False))
    config = _config(model, wanted, document)
    with torch.device("meta"):
        bare = transformers.AutoModel.from_config(config)
    own = named or (None if wanted is None or Path(str(wanted)).is_dir() else str(wanted))
    return pool_of(init(bare, model_name=own, verify=False))


def _config(model: str | None, wanted: str | None, document: Mapping[str, Any]) -> Any:
    """The config of the base model: from its folder or hub; where neither can be reached, one of the shape the files tell."""
    import transformers

    if wanted is not None:
        try:
            return transformers.AutoConfig.from_pretrained(wanted)
        except (OSError, ValueError) as error:
            if model is not None:
                raise AdapterHubError(
                    f"The model {model!r} cannot be reached.", hint="Give a folder with its config.json."
                ) from error
    kind, width = document.get("model_type"), document.get("hidden_size")
    if not isinstance(kind, str) or not isinstance(width, int):
        raise InvalidConfigError(
            "The adapter does not say for which model it is.", hint="Name the base model with --model."
        )
    note(f"The base model {wanted or ''} cannot be reached; a {kind} of width {width} is assumed.")
    try:
        config = transformers.AutoConfig.for_model(kind)
    except ValueError as error:
        raise InvalidConfigError(
            f"transformers knows no model type {kind!r}.", hint="Name the model with --model."
        ) from error
    standard = int(getattr(config, "hidden_size", width))
    config.hidden_size = width
    heads = int(getattr(config, "num_attention_heads", 1))
    if width % heads or width != standard:
        config.num_attention_heads = max(1, width // 64)
    return config


def _needs_weights(folder: Path, format: str) -> bool:
    """PEFT keeps whole biases where we keep the difference to the model's."""
    document = read_json(folder / "adapter_config.json")
    if detect(folder) == "peft":
        return document.get("bias") in ("all", "lora_only")
    config = document.get("config")
    return format == "peft" and isinstance(config, Mapping) and bool(config.get("bias"))
