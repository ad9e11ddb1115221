"""Checkpoints of PEFT: LoRA (with DoRA, rank-stabilised scaling, rank and alpha patterns) and IA3, read and written.

Their keys are `base_model.model.<path of the linear map>.<leaf>`, the path beginning with the base model's prefix where the
model has a head. What was adapted is read off the keys, so every way they have of naming targets (suffixes, a regular
expression, `all-linear`, layer lists, exclusions) comes out right. A fused map (GPT-2's `c_attn`) is cut into q, k and v: A is
the same for each, B is cut. Written back, the parts are joined again, A one below the other and B block by block.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapterhub.core.formats.checkpoint import AdapterCheckpoint, BaseModel, HeadCheckpoint, shorten
from adapterhub.core.formats.files import read_json, read_tensors, write_json, write_tensors
from adapterhub.core.pool import Pool
from adapterhub.core.sites.linears import LinearSite
from adapterhub.spec.config import AdapterConfig, IA3Config, LoRAConfig, parse_config
from adapterhub.spec.errors import CheckpointError, InvalidConfigError

__all__ = ["ADAPTER_FILES", "read_adapter", "write_adapter"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_FRONT = "base_model.model."
_LORA = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude"}
_TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_2_SEQ_LM": "ForConditionalGeneration",
}
#: Fields that change what an adapter computes in ways there is nothing for here.
_UNSUPPORTED = (
    "use_qalora",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "use_bdlora",
    "arrow_config",
    "lora_bias",
)
#: Initialisations that also change the base weights: the file alone does not say what was trained.
_MUTATING = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


def read_adapter(folder: Path, pool: Pool, with_head: bool = True) -> AdapterCheckpoint:
    """The adapter in `folder`, with the neutral keys of this model.

    Raises:
        CheckpointError: malformed, or of a kind that cannot be had here; the message says which.
    """
    document = read_json(folder / "adapter_config.json")
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} has none of {', '.join(_WEIGHTS)}.")
    _check_supported(document, folder)
    state = read_tensors(weights)
    kind = str(document.get("peft_type"))
    found = _Maps(pool)
    by_path: dict[str, dict[str, Tensor]] = defaultdict(dict)
    rest: dict[str, Tensor] = {}
    for key, tensor in state.items():
        path, leaf = _split(key)
        if leaf is None:
            rest[path] = tensor
        else:
            by_path[path][leaf] = tensor
    unexpected = [path for path in by_path if found.absolute(path) is None]
    maps = {found.absolute(path): leaves for path, leaves in by_path.items()}
    known = {path: leaves for path, leaves in maps.items() if path is not None}
    if not known:
        raise CheckpointError(f"{weights} adapts no linear map of this model: {shorten(by_path or rest)}.")
    full = {inner: raw for raw in by_path if (inner := found.absolute(raw)) is not None}
    config, tensors = (_lora if kind == "LORA" else _ia3)(document, known, full, found)
    head, left = _head(rest, document, pool) if with_head else (None, [])
    if kind == "LORA" and document.get("bias") in ("all", "lora_only"):
        config, left = _with_biases(config, tensors, {key: rest[key] for key in left}, found, folder)
    return AdapterCheckpoint(
        name=folder.name,
        config=config,
        tensors=tensors,
        format="peft",
        base_model=BaseModel(
            name=document.get("base_model_name_or_path") or None, revision=document.get("revision") or None
        ),
        head=head,
        unexpected=[*unexpected, *left],
    )


def write_adapter(folder: Path, checkpoint: AdapterCheckpoint, pool: Pool) -> None:
    """Writes a LoRA or IA3 adapter, and its static head as `modules_to_save`, as PEFT does.

    Raises:
        InvalidConfigError: another method, or switches PEFT does not have.
    """
    config = checkpoint.config
    if isinstance(config, LoRAConfig):
        fields, tensors = _write_lora(config, checkpoint, pool)
    elif isinstance(config, IA3Config):
        fields, tensors = _write_ia3(config, checkpoint, pool)
    else:
        raise InvalidConfigError(
            f"PEFT has no method like {config.method!r}.", hint='Use format="native" or format="adapters".'
        )
    state = {f"{_FRONT}{key}": tensor for key, tensor in tensors.items()}
    modules: list[str] = []
    task = None
    if checkpoint.head is not None and checkpoint.head.config.head_type == "static":
        prefix = _prefix(pool)
        for key, tensor in checkpoint.head.tensors.items():
            state[_FRONT + re.sub(r"^base\.", prefix, key)] = tensor
        modules = list(dict.fromkeys(re.sub(r"^base\.", prefix, key).split(".")[0] for key in checkpoint.head.tensors))
        model_class = checkpoint.head.config.model_class or ""
        task = next((name for name, ending in _TASKS.items() if model_class.endswith(ending)), None)
    write_json(
        folder / "adapter_config.json",
        {
            "base_model_name_or_path": checkpoint.base_model.name,
            "revision": checkpoint.base_model.revision,
            "task_type": task,
            "inference_mode": True,
            "modules_to_save": modules or None,
            **fields,
        },
    )
    write_tensors(folder / "adapter_model.safetensors", state)


class _Maps:
    """The linear maps of a model by path, and the sites on each (several where the map is fused)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.paths = {name for name, _ in pool.base_model.named_modules()}

    def absolute(self, path: str) -> str | None:
        """The path from the bare transformer, prefixes of the model with a head taken off."""
        for _ in range(3):
            if path in self.paths:
                return path
            _, dot, path = path.partition(".")
            if not dot:
                return None
        return None

    def sites(self, path: str, on_input: bool = False) -> list[LinearSite]:
        """The sites at exactly this path."""
        try:
            found = self.pool.linear_sites([], [path], on_input=on_input)
        except InvalidConfigError as error:
            raise CheckpointError(f"{path} is no linear map of this model.") from error
        return [site for site in found if site.place.path == path]


def _check_supported(document: Mapping[str, Any], folder: Path) -> None:
    kind = document.get("peft_type")
    if kind not in ("LORA", "IA3"):
        raise CheckpointError(
            f"{folder} is a PEFT checkpoint of type {kind}, which is not supported.", hint="Supported: LORA, IA3."
        )
    asked = [name for name in _UNSUPPORTED if document.get(name)]
    if asked:
        raise CheckpointError(f"{folder} uses {', '.join(asked)} of PEFT, which is not supported.")
    start = str(document.get("init_lora_weights", "")).lower()
    if start.startswith(_MUTATING):
        raise CheckpointError(
            f"{folder} was initialised by {start!r}, which also changed the base model; the file alone is not enough.",
            hint="Convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )


def _split(key: str) -> tuple[str, str | None]:
    """(path of the map, leaf) of an adapter's tensor; (plain key, None) of any other."""
    key = key.removeprefix(_FRONT)
    for leaf in (*_LORA, "ia3_l"):
        if key.endswith(f".{leaf}"):
            return key.removesuffix(f".{leaf}"), leaf
    if "lora_embedding_" in key or ".lora_" in key:
        raise CheckpointError(f"{key!r} is a kind of LoRA tensor that is not supported (embeddings, convolutions).")
    return key.replace(".base_layer.", ".").replace(".modules_to_save.", "."), None


def _lora(
    document: Mapping[str, Any], maps: Mapping[str, Mapping[str, Tensor]], full: Mapping[str, str], found: _Maps
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    rank, alpha = int(document.get("r", 8)), document.get("lora_alpha", 8)
    patterns = document.get("alpha_pattern") or {}
    tensors: dict[str, Tensor] = {}
    sites: list[LinearSite] = []
    ranks: dict[str, int] = {}
    alphas: dict[str, Any] = {}
    for path, leaves in maps.items():
        if "lora_A.weight" not in leaves or "lora_B.weight" not in leaves:
            raise CheckpointError(f"{path} has only one of lora_A and lora_B.")
        here = leaves["lora_A.weight"].shape[0]
        if here != rank:
            ranks[path] = here
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", full[path]):
                if value != alpha:
                    alphas[path] = value
                break
        for site in found.sites(path):
            sites.append(site)
            rows = site.place.rows
            tensors[f"{site.key}.a"] = leaves["lora_A.weight"]
            tensors[f"{site.key}.b"] = leaves["lora_B.weight"][rows]
            if "lora_magnitude_vector" in leaves:
                tensors[f"{site.key}.magnitude"] = leaves["lora_magnitude_vector"].flatten()[rows]
    fields = {
        "method": "lora",
        "r": rank,
        "alpha": alpha,
        "dropout": document.get("lora_dropout") or 0,
        "use_dora": bool(document.get("use_dora")),
        "use_rslora": bool(document.get("use_rslora")),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }
    return parse_config({**fields, **_lora_places(sites, found.pool)}), tensors


def _with_biases(
    config: AdapterConfig, tensors: dict[str, Tensor], biases: Mapping[str, Tensor], found: _Maps, folder: Path
) -> tuple[AdapterConfig, list[str]]:
    """The config with `bias`, the differences to the model's own biases among `tensors`, and the keys that are left.

    Raises:
        CheckpointError: a bias was trained where nothing is adapted.
    """
    left, astray = [], []
    changed: dict[str, Tensor] = {}
    for key, tensor in biases.items():
        path = found.absolute(key.removesuffix(".bias")) if key.endswith(".bias") else None
        own = None if path is None else found.pool.base_model.get_submodule(path)._parameters.get("bias")
        if path is None or own is None:
            left.append(key)
            continue
        difference = tensor - own.detach().to(tensor)
        if any(site.place.path == path for site in _adapted(tensors, found.pool)):
            changed[path] = difference
        elif bool(difference.any()):
            astray.append(key)
    if astray:
        raise CheckpointError(
            f"{folder} also changes biases of modules it does not adapt ({shorten(astray)}), which no adapter here can carry.",
            hint="Train with bias='lora_only' or 'none'.",
        )
    for site in _adapted(tensors, found.pool):
        whole = changed.get(site.place.path)
        reference = tensors[f"{site.key}.b"]
        rows = site.place.rows
        tensors[f"{site.key}.bias"] = reference.new_zeros(reference.shape[0]) if whole is None else whole[rows]
    return config.replace(bias=True), left


def _adapted(tensors: Mapping[str, Tensor], pool: Pool) -> list[LinearSite]:
    sites = [pool.by_key.get(key.removesuffix(".a")) for key in tensors if key.endswith(".a")]
    return [site for site in sites if isinstance(site, LinearSite)]


def _ia3(
    document: Mapping[str, Any], maps: Mapping[str, Mapping[str, Tensor]], full: Mapping[str, str], found: _Maps
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    forward = document.get("feedforward_modules") or []
    tensors: dict[str, Tensor] = {}
    outputs: list[LinearSite] = []
    inputs: list[LinearSite] = []
    for path, leaves in maps.items():
        vector = leaves["ia3_l"]
        on_input = _named(full[path], forward)
        for site in found.sites(path, on_input):
            part = vector.flatten() if on_input else vector.flatten()[site.place.rows]
            tensors[f"{site.key}.scale"] = part
            (inputs if on_input else outputs).append(site)
    roles, sources = _uniform(outputs, found.pool), _uniform(inputs, found.pool)
    places: dict[str, Any] = {
        "targets": _targets(outputs, found.pool),
        "input_targets": _targets(inputs, found.pool),
    }
    usual = roles is not None and set(roles) <= {"q", "k", "v", "o"} and (sources == ("down",) or not inputs)
    if usual and roles is not None:
        ffn = "down_input" if inputs else None
        places = {"attn_matrices": [role for role in ("q", "k", "v", "o") if role in roles], "ffn": ffn}
    return parse_config({"method": "ia3", **places}), tensors


def _named(path: str, names: Any) -> bool:
    """Whether PEFT's list of suffixes, or regular expression, names this module."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _lora_places(sites: list[LinearSite], pool: Pool) -> dict[str, Any]:
    """The placement fields of a LoRA config that pick exactly these sites: switches where they can say it, else paths."""
    layers = {site.layer for site in sites}
    all_layers = {layer.index for layer in pool.layout.layers}
    roles = {site.place.role for site in sites}
    out = sorted(index for index in all_layers - layers if index is not None)
    even = None not in layers and len(sites) == len(roles) * len(layers)
    if even and roles <= {"q", "k", "v", "o", "up", "down"} and "cross_attention" not in _kinds(pool):
        return {
            "selfattn_lora": bool(roles & {"q", "k", "v", "o"}),
            "attn_matrices": [role for role in ("q", "k", "v", "o") if role in roles] or ["q", "v"],
            "intermediate_lora": "up" in roles,
            "output_lora": "down" in roles,
            "leave_out": out,
        }
    return {"targets": _targets(sites, pool)}


def _targets(sites: Iterable[LinearSite], pool: Pool) -> list[str]:
    """Roles where every layer has them, else full paths."""
    sites = list(sites)
    roles = _uniform(sites, pool)
    return list(roles) if roles is not None else list(dict.fromkeys(site.place.path for site in sites))


def _uniform(sites: Iterable[LinearSite], pool: Pool) -> tuple[str, ...] | None:
    """The roles of the sites, if every place of each of these roles is among them; else None."""
    sites = list(sites)
    roles = tuple(dict.fromkeys(site.place.role for site in sites))
    if not sites or any(site.layer is None for site in sites):
        return None
    there = sum(role in layer_roles for layer_roles in _roles(pool) for role in roles)
    return roles if there == len(sites) else None


def _roles(pool: Pool) -> list[set[str]]:
    from adapterhub.core.sites.linears import linear_places

    by_layer: dict[int | None, set[str]] = defaultdict(set)
    for place in linear_places(pool):
        by_layer[place.layer].add(place.role)
    return list(by_layer.values())


def _kinds(pool: Pool) -> set[str]:
    return {place.kind for place in pool.layout.sublayers}


def _head(
    rest: Mapping[str, Tensor], document: Mapping[str, Any], pool: Pool
) -> tuple[HeadCheckpoint | None, list[str]]:
    """What `modules_to_save` kept outside of the transformer as a static head, and the keys that are left."""
    from adapterhub.core.heads.attached import heads_of
    from adapterhub.spec.heads import HeadConfig

    inside = set(dict(pool.base_model.named_parameters()))
    prefix = _prefix(pool)

    def within(key: str) -> bool:
        return any(key.split(".", cut)[-1] in inside for cut in range(3) if key.count(".") >= cut)

    outside = {key: tensor for key, tensor in rest.items() if not within(key)}
    left = [key for key in rest if key not in outside]
    saved = document.get("modules_to_save") or []
    if not outside:
        return None, left
    if not any(key.split(".")[0] in saved or key.removeprefix(prefix).split(".")[0] in saved for key in outside):
        return None, [*left, *outside]
    heads = heads_of(pool.model)
    ending = _TASKS.get(str(document.get("task_type")), "ForSequenceClassification")
    model_class = heads.model_class if not heads.flexible else f"{pool.base_model.__class__.__name__[:-5]}{ending}"
    rows = next((tensor.shape[0] for key, tensor in outside.items() if key.endswith("bias")), None)
    config = HeadConfig(head_type="static", model_class=model_class, num_labels=rows)
    return HeadCheckpoint(config, outside), left


def _prefix(pool: Pool) -> str:
    """What stands before paths of the bare transformer in the model: `bert.`, or nothing."""
    name = next((name for name, module in pool.model.named_modules() if module is pool.base_model), "")
    return f"{name}." if name else ""


def _write_lora(
    config: LoRAConfig, checkpoint: AdapterCheckpoint, pool: Pool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if config.use_gating:
        raise InvalidConfigError("PEFT has no gated LoRA.", hint='Use format="native" or format="adapters".')
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    prefix = _prefix(pool)
    groups = _by_map(checkpoint, pool, "a")
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
            bias = getattr(linear, "bias", None)
            if not isinstance(bias, Tensor):
                raise InvalidConfigError(f"{path} has no bias, so PEFT cannot train one there.")
            changed = bias.detach().clone()
            for site in sites:
                changed[site.place.rows] += checkpoint.tensors[f"{site.key}.bias"].to(changed)
            tensors[f"{name}.base_layer.bias"] = changed
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
        "bias": "lora_only" if config.bias else "none",
        "fan_in_fan_out": conv,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "init_lora_weights": True,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }
    return fields, tensors


def _write_ia3(
    config: IA3Config, checkpoint: AdapterCheckpoint, pool: Pool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if config.use_gating:
        raise InvalidConfigError("PEFT has no gated IA3.", hint='Use format="native" or format="adapters".')
    prefix = _prefix(pool)
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
    modules = [name for name, _ in pool.base_model.named_modules()]
    short = sorted({".".join(path.split(".")[-1:]) for path in wanted})
    reached = {name for name in modules if name.split(".")[-1] in short}
    return short if reached == wanted else sorted(f"{prefix}{path}" for path in wanted)
