"""Static heads of transformers as flexible heads and back: the same numbers under the other keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from torch import Tensor

from adapterhub.core.formats.checkpoint import HeadCheckpoint
from adapterhub.core.heads.base import token_scale
from adapterhub.core.heads.kinds import kind_of_head
from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.heads import HeadConfig

__all__ = ["flexible_to_static", "static_to_flexible"]


def static_to_flexible(head: HeadCheckpoint, model_config: Any) -> HeadCheckpoint:
    """A flexible head that computes what the static `head` does.

    Args:
        head: with a config of type `static`; tensors under the keys of its class.
        model_config: the transformers config of the model it goes on.

    Raises:
        CheckpointError: the class or its layers are not known here.
    """
    model_class = head.config.model_class or ""
    kind = kind_of_head(model_class)
    entry = _entry(_modules(head.tensors))
    if kind is None or entry is None:
        raise CheckpointError(
            f"The head of {model_class} ({', '.join(sorted(_modules(head.tensors)))}) has no flexible form.",
            hint=f"Load the adapter on a {model_class}, or pass with_head=False.",
        )
    places = {**entry["modules"], **entry.get("optional", {})}
    tensors, rest = {}, []
    for key, tensor in head.tensors.items():
        path, _, leaf = key.rpartition(".")
        if path in places:
            tensors[f"{places[path]}.{leaf}"] = tensor
        elif not key.startswith("base.") and not (path == "" and bool((tensor == 0).all())):  # an offset of nothing
            rest.append(key)
    if rest:
        raise CheckpointError(f"The head of {model_class} has {', '.join(rest)}, which no flexible head has.")
    if kind == "question_answering":  # their static one reads the states as they are
        tensors["layers.out.weight"] = tensors["layers.out.weight"] / token_scale(model_config)
    bias = any(key.endswith("out.bias") for key in tensors)
    out = tensors.get("layers.out.weight")
    labelled = kind in ("classification", "image_classification", "tagging", "question_answering")
    activation = entry.get("activation_function")
    if "activation_from" in entry:
        activation = getattr(model_config, entry["activation_from"], "gelu")
    activation = entry.get("activation_by_model_type", {}).get(getattr(model_config, "model_type", ""), activation)
    labels = head.config.label2id
    config = HeadConfig(
        head_type=kind,  # type: ignore[arg-type]
        model_class=None,
        num_labels=out.shape[0] if out is not None and labelled else None,
        layers=entry["layers"],
        activation_function=activation,
        bias=bias,
        use_pooler=kind in entry.get("pooler_for", ()),
        layer_norm=entry.get("layer_norm", False),
        label2id=labels if labels and out is not None and len(labels) == out.shape[0] and labelled else None,
    )
    return HeadCheckpoint(config, tensors, head.name)


def flexible_to_static(
    head: HeadCheckpoint, keys: Iterable[str], kind: str | None, model_config: Any
) -> dict[str, Tensor]:
    """The tensors of a flexible head under the keys of a static head that computes the same.

    Args:
        head: a flexible head.
        keys: the keys of the static head.
        kind: head type of the static head.

    Raises:
        CheckpointError: the static head computes something else.
    """
    entry = _entry({key.rpartition(".")[0] for key in keys})
    config = head.config
    fits = entry is not None and kind == config.head_type and entry["layers"] == config.layers
    if fits and entry is not None and config.layers > 1 and not entry.get("layer_norm"):
        wanted = entry.get("activation_by_model_type", {}).get(
            getattr(model_config, "model_type", ""), entry.get("activation_function")
        )
        fits = (config.activation_function or "tanh") == wanted
    if fits and entry is not None and kind in ("classification", "multiple_choice"):
        fits = config.use_pooler == (kind in entry.get("pooler_for", ()))
    if not fits or entry is None:
        raise CheckpointError(
            f"The checkpoint's {config.head_type} head ({config.layers} layers"
            f"{', on the pooler' if config.use_pooler else ''}) is not what this model's own head computes.",
            hint="Use AutoAdapterModel, which takes any head, or pass with_head=False.",
        )
    back = {ours: theirs for theirs, ours in {**entry.get("optional", {}), **entry["modules"]}.items()}
    tensors = {}
    for key, tensor in head.tensors.items():
        path, _, leaf = key.rpartition(".")
        if path not in back:
            raise CheckpointError(f"This model's head has no place for {key!r}.", hint="Pass with_head=False.")
        rescaled = kind == "question_answering" and leaf == "weight" and path == "layers.out"
        tensors[f"{back[path]}.{leaf}"] = tensor * token_scale(model_config) if rescaled else tensor
    return tensors


def _modules(tensors: Mapping[str, Tensor]) -> set[str]:
    return {key.rpartition(".")[0] for key in tensors if not key.startswith("base.")}


def _entry(modules: set[str]) -> dict[str, Any] | None:
    return next((entry for entry in _table() if set(entry["modules"]) <= modules), None)


@cache
def _table() -> list[dict[str, Any]]:
    text = resources.files("adapterhub.core.heads").joinpath("static_heads.json").read_text(encoding="utf-8")
    table: list[dict[str, Any]] = json.loads(text)["heads"]
    return table
