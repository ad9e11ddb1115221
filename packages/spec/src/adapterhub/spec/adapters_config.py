"""Configs of `adapters` and `adapter-transformers`: reading their dicts, and the 16-hex ids they gave them.

Their dicts name the method in `architecture` (none for bottleneck), and older ones carry an `invertible_adapter` block.
The old id is the start of a sha1 over Python's JSON of the config without its falsy values; it cannot be reproduced in
every language, so it is kept as an alias only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from adapterhub.spec.config import (
    AdapterConfig,
    BottleneckConfig,
    IA3Config,
    LoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ReftConfig,
    UnionConfig,
    validated,
)
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["from_adapters", "legacy_config_id", "to_adapters"]

#: Left out of the old id when they have these values: fields newer than the ids.
_IGNORED_DEFAULTS: dict[str, Any] = {
    "phm_layer": True,
    "phm_dim": 4,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "phm_rank": 1,
    "phm_bias": True,
    "init_weights": "bert",
    "scaling": 1.0,
}

#: Fields that only say where a number came from, or belong to another release, and change nothing here.
_DROPPED = frozenset({"architecture", "dtype", "output_reft", "factorized_phm_w", "shared_w_phm", "config_id"})


def from_adapters(config: Mapping[str, Any], *, version: str | None = None) -> AdapterConfig:
    """One of our configs from a config dict of the peers.

    Args:
        config: the dict, expanded (as in their `adapter_config.json` under `config`) or `{"using": preset, …}`.
        version: the `version` of their file, where known: files without one use `gelu` for what is now `gelu_new`, and
            LoRA configs older than 1.1.0 scale by alpha / r with alpha meaning r.

    Raises:
        InvalidConfigError: a method we do not have, or values that make no sense.
    """
    fields = dict(config)
    if "using" in fields:
        from adapterhub.spec.presets import load_preset

        return load_preset(str(fields.pop("using")), **fields)
    architecture = fields.get("architecture")
    reader = _READERS.get(str(architecture) if architecture is not None else "bottleneck")
    if reader is None:
        raise InvalidConfigError(
            f"The config has architecture {architecture!r}, which is not supported.",
            hint=f"Supported: {', '.join(sorted(_READERS))}.",
        )
    return reader(fields, version)


def to_adapters(config: AdapterConfig) -> dict[str, Any]:
    """The config as `adapters` 1.3 writes it.

    Raises:
        InvalidConfigError: the config has something they cannot express.
    """
    return _WRITERS[config.method](config)


def legacy_config_id(config: AdapterConfig) -> str | None:
    """The peers' id of `config`: 16 hex digits, or None where they cannot express it."""
    try:
        fields = to_adapters(config)
    except InvalidConfigError:
        return None
    kept = {
        key: value
        for key, value in fields.items()
        if value and not (key in _IGNORED_DEFAULTS and value == _IGNORED_DEFAULTS[key])
    }
    return hashlib.sha1(json.dumps(kept, sort_keys=True).encode(), usedforsecurity=False).hexdigest()[:16]


def _read_bottleneck(fields: dict[str, Any], version: str | None) -> AdapterConfig:
    fields = {key: value for key, value in fields.items() if key not in _DROPPED}
    invertible = fields.pop("invertible_adapter", None)
    if isinstance(invertible, Mapping):
        fields.setdefault("inv_adapter", invertible.get("block_type"))
        fields.setdefault("inv_adapter_reduction_factor", invertible.get("reduction_factor"))
    if fields.get("inv_adapter") is None:
        fields.pop("inv_adapter_reduction_factor", None)
    if fields.get("non_linearity") is not None and version is None:
        renamed = {"gelu": "gelu_new", "gelu_orig": "gelu"}
        fields["non_linearity"] = renamed.get(str(fields["non_linearity"]).lower(), fields["non_linearity"])
    return validated({"method": "bottleneck", **fields})


def _read_lora(fields: dict[str, Any], version: str | None) -> AdapterConfig:
    if fields.get("vera_d") is not None or fields.get("vera_b") is not None:
        raise InvalidConfigError("VeRA adapters are not supported.", hint="Use LoRA, DoRA or IA3.")
    for key in ("vera_d", "vera_b", *_DROPPED):
        fields.pop(key, None)
    if fields.get("composition_mode") == "scale":
        names = ("alpha", "attn_matrices", "dropout", "use_gating", "leave_out", "init_weights_seed")
        kept: dict[str, Any] = {name: fields[name] for name in names if name in fields}
        kept["selfattn"] = fields.get("selfattn_lora", True)
        kept["ffn"] = "up_output" if fields.get("intermediate_lora", True) else None
        return validated({"method": "ia3", **kept})
    if _older(version, (1, 1, 0)) and "r" in fields:
        fields["alpha"] = fields["r"]
    return validated({"method": "lora", **fields})


def _read_plain(method: str) -> Callable[[dict[str, Any], str | None], AdapterConfig]:
    def read(fields: dict[str, Any], version: str | None) -> AdapterConfig:
        kept = {key: value for key, value in fields.items() if key not in _DROPPED}
        return validated({"method": method, **kept})

    return read


def _read_union(fields: dict[str, Any], version: str | None) -> AdapterConfig:
    members = [from_adapters(member, version=version).expand() for member in fields.get("configs", ())]
    return validated({"method": "union", "configs": members})


_READERS: dict[str, Callable[[dict[str, Any], str | None], AdapterConfig]] = {
    "bottleneck": _read_bottleneck,
    "adapter": _read_bottleneck,
    "lora": _read_lora,
    "prefix_tuning": _read_plain("prefix"),
    "prompt_tuning": _read_plain("prompt"),
    "reft": _read_plain("reft"),
    "union": _read_union,
}


def _write_bottleneck(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, BottleneckConfig)
    if config.bottleneck_size is not None:
        raise InvalidConfigError("The peers have no bottleneck_size, only reduction_factor.")
    fields = config.expand()
    for ours in ("method", "bottleneck_size"):
        fields.pop(ours)
    for number in ("scaling", "dropout", "stochastic_depth"):
        fields[number] = float(fields[number]) if isinstance(fields[number], int) else fields[number]
    return fields


def _write_lora(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, LoRAConfig)
    if config.targets is not None or config.use_rslora or config.rank_pattern or config.alpha_pattern or config.bias:
        raise InvalidConfigError("The peers cannot express targets, patterns, offsets or rank-stabilised scaling.")
    fields = config.expand()
    for ours in ("method", "targets", "use_rslora", "bias", "rank_pattern", "alpha_pattern"):
        fields.pop(ours)
    return {
        "architecture": "lora",
        **fields,
        "vera_d": None,
        "vera_b": None,
        "dtype": None,
        "dropout": float(config.dropout),
    }


def _write_ia3(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, IA3Config)
    if config.targets is not None:
        return _write_ia3_targets(config)
    if config.input_targets or config.ffn == "down_input":
        raise InvalidConfigError("The peers scale outputs of linear maps only.")
    return {
        "architecture": "lora",
        "selfattn_lora": config.selfattn,
        "intermediate_lora": config.ffn is not None,
        "output_lora": False,
        "leave_out": list(config.leave_out),
        "r": 1,
        "alpha": config.alpha,
        "dropout": float(config.dropout),
        "attn_matrices": list(config.attn_matrices),
        "composition_mode": "scale",
        "init_weights": "ia3",
        "init_weights_seed": config.init_weights_seed,
        "use_gating": config.use_gating,
        "use_dora": False,
        "vera_d": None,
        "vera_b": None,
        "dtype": None,
    }


def _write_ia3_targets(config: IA3Config) -> dict[str, Any]:
    """Targets that are roles, as their three switches."""
    targets = set(config.targets or ())
    attention = [role for role in ("q", "k", "v") if role in targets or f"cross_{role}" in targets]
    known = {"up", "down", *(f"{front}{role}" for front in ("", "cross_") for role in "qkv")}
    if config.input_targets or targets - known:
        raise InvalidConfigError("The peers scale outputs of q, k, v and the two feed-forward projections only.")
    plain = config.replace(
        targets=None,
        selfattn=bool(attention),
        attn_matrices=attention or config.attn_matrices,
        ffn="up_output" if "up" in targets else None,
    )
    return {**_write_ia3(plain), "output_lora": "down" in targets}


def _write_prefix(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, PrefixTuningConfig)
    if config.positions:
        raise InvalidConfigError("The prefixes of adapters 1.x take no positions.", hint="Leave positions=True out.")
    fields = config.expand()
    for ours in ("method", "positions"):
        fields.pop(ours)
    return {"architecture": "prefix_tuning", **fields, "dropout": float(config.dropout)}


def _write_prompt(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, PromptTuningConfig)
    if config.combine == "prefix_words":
        raise InvalidConfigError(
            "adapters 1.x puts prompts behind the embeddings only.", hint="Leave combine='prefix_words' out."
        )
    fields = config.expand()
    for ours in ("method", "init_weights_seed", "random_uniform_scale"):
        fields.pop(ours)
    return {"architecture": "prompt_tuning", **fields}


def _write_reft(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, ReftConfig)
    if not config.subtract_projection:
        raise InvalidConfigError("The peers lose subtract_projection=False on saving.")
    fields = config.expand()
    for ours in ("method", "subtract_projection"):
        fields.pop(ours)
    return {"architecture": "reft", **fields, "dtype": None, "output_reft": True}


def _write_union(config: AdapterConfig) -> dict[str, Any]:
    assert isinstance(config, UnionConfig)
    return {"architecture": "union", "configs": [to_adapters(member) for member in config.configs]}


_WRITERS: dict[str, Callable[[AdapterConfig], dict[str, Any]]] = {
    "bottleneck": _write_bottleneck,
    "lora": _write_lora,
    "ia3": _write_ia3,
    "prefix": _write_prefix,
    "prompt": _write_prompt,
    "reft": _write_reft,
    "union": _write_union,
}


def _older(version: str | None, than: tuple[int, ...]) -> bool:
    """Whether a `version` such as `adapters.1.0.1` is older than `than`; files without one are not LoRA files."""
    if not version or not version.startswith("adapters."):
        return version is not None
    parts = version.removeprefix("adapters.").split(".")
    return tuple(int(part) if part.isdigit() else 0 for part in parts[: len(than)]) < than
