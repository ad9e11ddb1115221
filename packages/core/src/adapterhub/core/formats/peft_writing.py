"""LoRA and IA3 adapters as PEFT keeps them: neutral keys to theirs. The reverse of what `peft` reads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from adapterhub.core.formats.checkpoint import AdapterCheckpoint
from adapterhub.core.packed import only_unpacked
from adapterhub.core.pool import Pool
from adapterhub.core.sites.linears import LinearSite
from adapterhub.spec.config import IA3Config, LoRAConfig
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["prefix_of", "write_ia3", "write_lora"]


def prefix_of(pool: Pool) -> str:
    """What stands before paths of the bare transformer in the model: `bert.`, or nothing."""
    with only_unpacked():
        name = next((name for name, module in pool.model.named_modules() if module is pool.base_model), "")
    return f"{name}." if name else ""


def write_lora(
    config: LoRAConfig, checkpoint: AdapterCheckpoint, pool: Pool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of a LoRA adapter.

    Raises:
        InvalidConfigError: switches PEFT does not have.
    """
    if config.use_gating:
        raise InvalidConfigError("PEFT has no gated LoRA.", hint='Use format="native" or format="adapters".')
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    prefix = prefix_of(pool)
    groups = _by_map(checkpoint, pool, "a")
    own_bias = all(isinstance(sites[0].linear._parameters.get("bias"), Tensor) for sites in groups.values())
    if config.bias and not own_bias and config.use_dora:
        raise InvalidConfigError("PEFT cannot train an offset beside DoRA on linear maps without a bias.")
    conv = False
    for path, sites in groups.items():
        downs = [checkpoint.tensors[f"{site.key}.a"] for site in sites]
        ups = [checkpoint.tensors[f"{site.key}.b"] for site in sites]
        linear = sites[0].linear
        conv = conv or type(linear).__name__ == "Conv1D"
        whole = sites[0].place.part is None
        down = torch.cat(downs)
        up = ups[0] if whole else _blocks(sites, ups, down)
        scales = [_scale(config, site, part.shape[0]) for site, part in zip(sites, downs, strict=True)]
        if len(set(scales)) > 1:  # one factor a map: the others go into B
            up = torch.cat(
                [up[:, cut] * (scale / scales[0]) for cut, scale in zip(_columns(downs), scales, strict=True)], dim=1
            )
        rank = down.shape[0]
        alpha = scales[0] * (math.sqrt(rank) if config.use_rslora else rank)
        name = f"{prefix}{path}"
        if rank != config.r:
            ranks[name] = rank
        if not math.isclose(alpha, float(config.alpha)):
            alphas[name] = alpha
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up
        if config.bias:
            offset = up.new_zeros(up.shape[0])
            for site in sites:
                offset[site.place.rows] += checkpoint.tensors[f"{site.key}.bias"].to(offset)
            if own_bias:
                tensors[f"{name}.base_layer.bias"] = linear._parameters["bias"].detach() + offset  # type: ignore[union-attr]
            else:
                tensors[f"{name}.lora_B.bias"] = offset / scales[0]
        if config.use_dora:
            if not whole and sum(part.shape[0] for part in ups) != up.shape[0]:
                raise InvalidConfigError(f"PEFT cannot have DoRA on a part of the fused map {path}.")
            magnitude = up.new_empty(up.shape[0])
            for site in sites:
                magnitude[site.place.rows] = checkpoint.tensors[f"{site.key}.magnitude"].to(magnitude)
            tensors[f"{name}.lora_magnitude_vector"] = magnitude
    fields = {
        "peft_type": "LORA",
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": float(config.dropout),
        "target_modules": _suffixes(groups, prefix, pool),
        "bias": "lora_only" if config.bias and own_bias else "none",
        "lora_bias": config.bias and not own_bias,
        "fan_in_fan_out": conv,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "init_lora_weights": True,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }
    return fields, tensors


def write_ia3(config: IA3Config, checkpoint: AdapterCheckpoint, pool: Pool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of an IA3 adapter.

    Raises:
        InvalidConfigError: switches PEFT does not have.
    """
    if config.use_gating:
        raise InvalidConfigError("PEFT has no gated IA3.", hint='Use format="native" or format="adapters".')
    prefix = prefix_of(pool)
    tensors: dict[str, Tensor] = {}
    outputs = _by_map(checkpoint, pool, "scale")
    inputs = _by_map(checkpoint, pool, "scale", on_input=True)
    both = sorted(set(outputs) & set(inputs))
    if both:
        raise InvalidConfigError(f"PEFT cannot rescale both the input and the output of {both[0]}.")
    for path, sites in outputs.items():
        sizes = [site.place.outputs for site in sites]
        total = sum(sizes) if sites[0].place.part is None else _outputs(sites[0])
        vector = torch.ones(total)
        for site in sites:
            vector[site.place.rows] = checkpoint.tensors[f"{site.key}.scale"].float() * config.alpha
        tensors[f"{prefix}{path}.ia3_l"] = vector[:, None].to(checkpoint.tensors[f"{sites[0].key}.scale"].dtype)
    for path, sites in inputs.items():
        tensors[f"{prefix}{path}.ia3_l"] = checkpoint.tensors[f"{sites[0].key}.scale"][None] * config.alpha
    fields = {
        "peft_type": "IA3",
        "target_modules": _suffixes([*outputs, *inputs], prefix, pool),
        "feedforward_modules": _suffixes(inputs, prefix, pool),
        "fan_in_fan_out": any(type(sites[0].linear).__name__ == "Conv1D" for sites in outputs.values()),
        "init_ia3_weights": True,
    }
    return fields, tensors


def _by_map(
    checkpoint: AdapterCheckpoint, pool: Pool, leaf: str, on_input: bool = False
) -> dict[str, list[LinearSite]]:
    """The adapted sites by the path of their linear map, fused maps together."""
    groups: dict[str, list[LinearSite]] = defaultdict(list)
    for key in checkpoint.tensors:
        if key.endswith(f".{leaf}"):
            site = pool.by_key.get(key.removesuffix(f".{leaf}"))
            if isinstance(site, LinearSite) and site.key.endswith("_input") == on_input:
                groups[site.place.path].append(site)
    return groups


def _scale(config: LoRAConfig, site: LinearSite, rank: int) -> float:
    alpha = next(
        (value for name, value in config.alpha_pattern.items() if _fits(site, name)),
        config.alpha,
    )
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _fits(site: LinearSite, name: str) -> bool:
    return name in (site.place.role, site.place.path) or f".{site.place.path}".endswith(f".{name}")


def _columns(downs: list[Tensor]) -> list[slice]:
    cuts, start = [], 0
    for down in downs:
        cuts.append(slice(start, start + down.shape[0]))
        start += down.shape[0]
    return cuts


def _blocks(sites: list[LinearSite], ups: list[Tensor], down: Tensor) -> Tensor:
    """B of a fused map: the parts on their rows and columns, zero elsewhere."""
    total = _outputs(sites[0])
    up = ups[0].new_zeros(total, down.shape[0])
    start = 0
    for site, part in zip(sites, ups, strict=True):
        up[site.place.rows, start : start + part.shape[1]] = part
        start += part.shape[1]
    return up


def _outputs(site: LinearSite) -> int:
    from adapterhub.core.sites.linears import linear_sizes

    sizes = linear_sizes(site.linear)
    assert sizes is not None
    return sizes[1]


def _suffixes(paths: Iterable[str], prefix: str, pool: Pool) -> list[str]:
    """Short names where they pick exactly these maps, else full paths."""
    wanted = set(paths)
    modules = list(pool.own_modules())
    short = sorted({".".join(path.split(".")[-1:]) for path in wanted})
    reached = {name for name in modules if name.split(".")[-1] in short}
    return short if reached == wanted else sorted(f"{prefix}{path}" for path in wanted)
