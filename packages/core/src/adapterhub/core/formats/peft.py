"""Checkpoints of PEFT: LoRA (with DoRA, rank-stabilised scaling, rank and alpha patterns) and IA3, read and written; prompts and
prefixes are in `peft_prompts`.

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

from torch import Tensor

from adapterhub.core.formats.checkpoint import AdapterCheckpoint, BaseModel, HeadCheckpoint, shorten
from adapterhub.core.formats.files import read_json, read_tensors, write_json, write_tensors
from adapterhub.core.formats.peft_prompts import KINDS, TENSOR, read_prompt, write_prefix, write_prompt
from adapterhub.core.formats.peft_writing import prefix_of, write_ia3, write_lora
from adapterhub.core.packed import only_unpacked
from adapterhub.core.pool import Pool
from adapterhub.core.sites.linears import LinearSite
from adapterhub.spec.config import (
    AdapterConfig,
    IA3Config,
    LoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    parse_config,
)
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
    if kind in KINDS:
        return _read_prompt(folder, document, state, pool, with_head)
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
    return _checkpoint(folder, document, config, tensors, head, [*unexpected, *left])


def _read_prompt(
    folder: Path, document: Mapping[str, Any], state: Mapping[str, Tensor], pool: Pool, with_head: bool
) -> AdapterCheckpoint:
    if TENSOR not in state:
        raise CheckpointError(
            f"{folder} has no {TENSOR!r}, which is all there is of a {document['peft_type']} adapter."
        )
    config, tensors = read_prompt(document, state[TENSOR], pool)
    rest = {key.removeprefix("base_model."): tensor for key, tensor in state.items() if key != TENSOR}
    named = {**document, "modules_to_save": document.get("modules_to_save") or [*{key.split(".")[0] for key in rest}]}
    head, left = _head(rest, named, pool) if with_head else (None, [])
    return _checkpoint(folder, document, config, tensors, head, left)


def _checkpoint(
    folder: Path,
    document: Mapping[str, Any],
    config: AdapterConfig,
    tensors: dict[str, Tensor],
    head: HeadCheckpoint | None,
    unexpected: list[str],
) -> AdapterCheckpoint:
    return AdapterCheckpoint(
        name=folder.name,
        config=config,
        tensors=tensors,
        format="peft",
        base_model=BaseModel(
            name=document.get("base_model_name_or_path") or None, revision=document.get("revision") or None
        ),
        head=head,
        unexpected=unexpected,
    )


def write_adapter(folder: Path, checkpoint: AdapterCheckpoint, pool: Pool) -> None:
    """Writes a LoRA, IA3, prompt or prefix adapter, and its static head as `modules_to_save`, as PEFT does.

    Raises:
        InvalidConfigError: another method, or switches PEFT does not have.
    """
    config = checkpoint.config
    if isinstance(config, LoRAConfig):
        fields, tensors = write_lora(config, checkpoint, pool)
    elif isinstance(config, IA3Config):
        fields, tensors = write_ia3(config, checkpoint, pool)
    elif isinstance(config, PromptTuningConfig):
        fields, tensors = write_prompt(config, checkpoint, pool)
    elif isinstance(config, PrefixTuningConfig):
        fields, tensors = write_prefix(config, checkpoint, pool)
    else:
        raise InvalidConfigError(
            f"PEFT has no method like {config.method!r}.", hint='Use format="native" or format="adapters".'
        )
    front = "base_model." if TENSOR in tensors else _FRONT
    state = {key if key == TENSOR else f"{front}{key}": tensor for key, tensor in tensors.items()}
    modules: list[str] = []
    task = None
    if checkpoint.head is not None and checkpoint.head.config.head_type == "static":
        prefix = prefix_of(pool)
        for key, tensor in checkpoint.head.tensors.items():
            state[front + re.sub(r"^base\.", prefix, key)] = tensor
        modules = list(dict.fromkeys(re.sub(r"^base\.", prefix, key).split(".")[0] for key in checkpoint.head.tensors))
        task = _task(checkpoint.head.config.model_class or "")
    elif TENSOR in tensors:  # without a task PEFT has no way to run a prompt
        task = _task(type(pool.model).__name__) or "FEATURE_EXTRACTION"
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


def _task(model_class: str) -> str | None:
    return next((name for name, ending in _TASKS.items() if model_class.endswith(ending)), None)


class _Maps:
    """The linear maps of a model by path, and the sites on each (several where the map is fused)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.paths = set(pool.own_modules())
        self.renamed = {
            f"{layer.legacy_path}.{old}": f"{layer.path}.{layer.linears[role]}"
            for layer in pool.layout.layers
            for role, old in layer.legacy_linears.items()
            if role in layer.linears
        }

    def absolute(self, path: str) -> str | None:
        """The path from the bare transformer, prefixes of the model with a head taken off; also of what transformers 4
        called otherwise."""
        for _ in range(3):
            if path in self.paths:
                return path
            if self.renamed.get(path) in self.paths:
                return self.renamed[path]
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
    known = ("LORA", "IA3", *KINDS)
    if kind not in known:
        raise CheckpointError(
            f"{folder} is a PEFT checkpoint of type {kind}, which is not supported.",
            hint=f"Supported: {', '.join(known)}.",
        )
    asked = [name for name in _UNSUPPORTED if document.get(name)]
    if asked:
        raise CheckpointError(f"{folder} uses {', '.join(asked)} of PEFT, which is not supported.")
    if document.get("lora_bias") and (document.get("use_dora") or document.get("bias") not in (None, "none")):
        raise CheckpointError(
            f"{folder} uses lora_bias of PEFT together with DoRA or other biases, which is not supported."
        )
    start = str(document.get("init_lora_weights", "")).lower()
    if start.startswith(_MUTATING):
        raise CheckpointError(
            f"{folder} was initialised by {start!r}, which also changed the base model; the file alone is not enough.",
            hint="Convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )


def _split(key: str) -> tuple[str, str | None]:
    """(path of the map, leaf) of an adapter's tensor; (plain key, None) of any other."""
    key = key.removeprefix(_FRONT)
    for leaf in (*_LORA, "lora_B.bias", "ia3_l"):
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
            if "lora_B.bias" in leaves:
                scale = float(alphas.get(path, alpha)) / (math.sqrt(here) if document.get("use_rslora") else here)
                tensors[f"{site.key}.bias"] = leaves["lora_B.bias"][rows] * scale
    fields = {
        "method": "lora",
        "r": rank,
        "alpha": alpha,
        "dropout": document.get("lora_dropout") or 0,
        "use_dora": bool(document.get("use_dora")),
        "use_rslora": bool(document.get("use_rslora")),
        "bias": bool(document.get("lora_bias")),
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

    with only_unpacked():
        inside = set(dict(pool.base_model.named_parameters()))
    prefix = prefix_of(pool)

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
