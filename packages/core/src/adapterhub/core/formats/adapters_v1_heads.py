"""Heads in checkpoints of adapter-transformers and adapters: `head_config.json` and keys `heads.<name>.<index>.<leaf>`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adapterhub.core.formats.adapters_v1 import HEAD_WEIGHTS, weights_file
from adapterhub.core.formats.checkpoint import HeadCheckpoint
from adapterhub.core.formats.files import read_json, read_tensors
from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.heads import HEAD_TYPES, HeadConfig, parse_head

__all__ = ["legacy_head_document", "legacy_head_tensors", "read_legacy_head"]

_KEY = re.compile(r"heads\.(?P<name>[^.]+)\.(?P<index>\d+)\.(?P<leaf>weight|bias)")
_FIELDS = frozenset(HeadConfig.model_fields)
#: Fields of theirs we know and do not need.
_IGNORED = frozenset({"model_class", "num_choices_config"})
_LANGUAGE_MODELS = ("masked_lm", "causal_lm", "seq2seq_lm")


def read_legacy_head(folder: Path) -> HeadCheckpoint | None:
    """The head beside an adapter of theirs, or None.

    Raises:
        CheckpointError: weights missing, or a head type there is none of here.
    """
    path = folder / "head_config.json"
    if not path.is_file():
        return None
    document = read_json(path)
    weights = weights_file(folder, HEAD_WEIGHTS)
    if weights is None:
        raise CheckpointError(f"{folder} has a head_config.json but none of {', '.join(HEAD_WEIGHTS)}.")
    state = read_tensors(weights)
    fields = document.get("config")
    if not isinstance(fields, Mapping):
        return _static(document, state, path)
    head_type = fields.get("head_type")
    if head_type not in HEAD_TYPES:
        raise CheckpointError(
            f"{path}: there is no head of type {head_type!r}.", hint="Pass with_head=False to load the adapter alone."
        )
    config = parse_head(
        {key: _value(key, value) for key, value in fields.items() if key in _FIELDS and key not in _IGNORED}
    )
    name = document.get("name")
    return HeadCheckpoint(config, _flexible(state, config, path), str(name) if name else None)


def legacy_head_document(head: HeadCheckpoint, context: Mapping[str, Any]) -> dict[str, Any]:
    """Their `head_config.json` for `head`; `context` are the members their config files share."""
    if head.config.head_type == "static":
        labels = {"label2id": head.config.label2id, "num_labels": head.config.num_labels}
        return {"config": None, "name": None, **labels, **context}
    fields = {key: value for key, value in head.config.expand().items() if key != "model_class" and value is not None}
    if head.config.head_type in ("masked_lm", "causal_lm", "seq2seq_lm"):
        for key in ("num_labels", "use_pooler", "dropout_prob"):
            fields.pop(key, None)
    else:
        for key in ("layer_norm", "shift_labels", "embedding_size", "vocab_size"):
            fields.pop(key, None)
    return {"config": fields, "name": head.name, **context}


def legacy_head_tensors(head: HeadCheckpoint, name: str, base_prefix: str) -> dict[str, Tensor]:
    """The state dict of a head as they save it."""
    if head.config.head_type == "static":
        return {re.sub(r"^base\.", f"{base_prefix}.", key): tensor for key, tensor in head.tensors.items()}
    state = {}
    for key, tensor in head.tensors.items():
        path, _, leaf = key.rpartition(".")
        state[f"heads.{name}.{_index(path, head.config, key)}.{leaf}"] = tensor
    return state


def _static(document: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> HeadCheckpoint:
    model_class = document.get("model_class")
    if not isinstance(model_class, str):
        raise CheckpointError(f"{path} names no model_class.")
    labels = document.get("label2id")
    count = document.get("num_labels")
    fitting = isinstance(labels, Mapping) and len(labels) == count
    config = parse_head(
        {
            "head_type": "static",
            "model_class": model_class,
            "num_labels": count,
            "label2id": _labels(labels) if fitting else None,
        }
    )
    return HeadCheckpoint(config, dict(state), None)


def _flexible(state: Mapping[str, Tensor], config: HeadConfig, path: Path) -> dict[str, Tensor]:
    """Linear layers and norms in the order of their index become ours in the order of their use."""
    layers: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise CheckpointError(
                f"The head's tensor {key!r} has no place in a {config.head_type} head.",
                hint="Pass with_head=False to load the adapter alone.",
            )
        layers[int(found["index"])][found["leaf"]] = tensor
    ordered = [layers[index] for index in sorted(layers) if "weight" in layers[index]]
    linears = [layer for layer in ordered if layer["weight"].dim() == 2]
    norms = [layer for layer in ordered if layer["weight"].dim() == 1]
    if not linears:
        raise CheckpointError(f"The head in {path.parent} has no layers.")
    front = "" if config.head_type in _LANGUAGE_MODELS else "layers."
    named = {f"{front}dense.{position}": layer for position, layer in enumerate(linears[:-1])}
    named[f"{front}out"] = linears[-1]
    named |= {f"norm.{position}": layer for position, layer in enumerate(norms)}
    return {f"{place}.{leaf}": tensor for place, layer in named.items() for leaf, tensor in layer.items()}


def _index(path: str, config: HeadConfig, key: str) -> int:
    """Position in their Sequential: [dropout, linear, act] a layer, or [linear, act, (norm)] in language-model heads."""
    kind, _, position = path.removeprefix("layers.").partition(".")
    if config.head_type in _LANGUAGE_MODELS:
        step = 3 if config.layer_norm else 2
        places = {"dense": 0, "norm": 2}
        if kind == "out":
            return (config.layers - 1) * step
        if kind in places:
            return int(position) * step + places[kind]
    elif kind in ("dense", "out"):
        return 1 + 3 * (config.layers - 1 if kind == "out" else int(position))
    raise CheckpointError(f"{key!r} has no place in the heads of `adapters`.", hint='Use format="native".')


def _value(key: str, value: Any) -> Any:
    return _labels(value) if key == "label2id" and isinstance(value, Mapping) else value


def _labels(labels: Any) -> dict[str, int]:
    return {str(label): int(number) for label, number in labels.items()}
