"""Which model an adapter is for: what checkpoints say about it, and whether one fits the model at hand."""

from __future__ import annotations

from pathlib import Path

from adapterhub.core.formats.adapters_v1_places import LegacyPlaces
from adapterhub.core.formats.checkpoint import AdapterCheckpoint, BaseModel
from adapterhub.core.heads.attached import heads_of
from adapterhub.core.layout import legacy_hosts
from adapterhub.core.pool import Pool
from adapterhub.spec.errors import ModelMismatchError
from adapterhub.spec.family import families_of

__all__ = ["base_model_of", "check_base_model", "check_layers", "hub_name_of", "legacy_places"]


def base_model_of(pool: Pool) -> BaseModel:
    """What is written about the base model."""
    config = pool.base_model.config
    return BaseModel(
        name=hub_name_of(pool),
        revision=getattr(config, "_commit_hash", None),
        family=pool.layout.family,
        model_type=str(getattr(config, "model_type", "")) or None,
        hidden_size=_width(pool),
    )


def hub_name_of(pool: Pool) -> str | None:
    """The base model's id: what `init(model_name=…)` was told, else the model's own name, of a local folder its last part."""
    told = getattr(pool, "model_name", None)
    if told:
        return str(told)
    own = str(getattr(pool.model.config, "name_or_path", "") or "")
    if not own:
        return None
    local = Path(own).is_absolute() or own.startswith(".") or own.count("/") > 1 or "\\" in own or Path(own).is_dir()
    return Path(own).resolve().name if local else own


def legacy_places(pool: Pool) -> LegacyPlaces:
    """The model's places in the layout of adapters 1.x."""
    embedding = pool.layout.embedding
    towers = {layer.tower for layer in pool.layout.layers}
    has_head = pool.base_model is not pool.model
    prefix = str(getattr(pool.model, "base_model_prefix", "")) if has_head else ""
    return LegacyPlaces(
        hosts=legacy_hosts(pool.layout),
        embedding=embedding.key if embedding is not None else "",
        embedding_host="encoder" if {"encoder", "decoder"} <= towers else "",
        prefix=prefix,
        model_class=heads_of(pool.model).model_class,
        model_name=hub_name_of(pool),
        model_type=str(getattr(pool.base_model.config, "model_type", "")),
        hidden_size=_width(pool) or 0,
        towers=tuple(dict.fromkeys(layer.tower for layer in pool.layout.layers)),
    )


def check_base_model(made_for: BaseModel, pool: Pool, folder: Path, strict: bool = True) -> None:
    """That the checkpoint was made for this kind of model.

    Raises:
        ModelMismatchError: another width, or another family.
    """
    width = _width(pool)
    who = f" ({made_for.name})" if made_for.name else ""
    if made_for.hidden_size is not None and width is not None and made_for.hidden_size != width:
        raise ModelMismatchError(
            f"The adapter in {folder} was made for a model{who} of hidden size {made_for.hidden_size}; this one has {width}.",
            hint="Load it on the model it was made for.",
            details={"adapter_model": made_for.name},
        )
    here = pool.layout.family
    there = made_for.family
    fits = there is None or there == here
    if there is None and made_for.model_type is not None:
        known = [family.family for family in families_of(made_for.model_type)]
        there, fits = made_for.model_type, not known or here in known
    if strict and not fits:
        raise ModelMismatchError(
            f"The adapter in {folder} was made for a {there} model{who}; this one is of the family {here}.",
            hint="Load it on the model it was made for, or pass strict=False to try all the same.",
            details={"adapter_model": made_for.name},
        )


def check_layers(checkpoint: AdapterCheckpoint, pool: Pool, folder: Path) -> None:
    """That the checkpoint has no layers this model lacks.

    Raises:
        ModelMismatchError: it has.
    """
    here = {layer.key for layer in pool.layout.layers}
    there = {
        ".".join(key.split(".")[:2])
        for key in checkpoint.tensors
        if key.split(".")[1:2] and key.split(".")[1].isdigit()
    }
    beyond = sorted(there - here, key=lambda key: (key.split(".")[0], int(key.split(".")[1])))
    if beyond:
        raise ModelMismatchError(
            f"The adapter in {folder} has weights for layer {beyond[0]}, which this model of {len(here)} layers lacks.",
            hint="Load it on the model it was made for.",
            details={"adapter_model": checkpoint.base_model.name},
        )


def _width(pool: Pool) -> int | None:
    return pool.layout.layers[0].width if pool.layout.layers else None
