"""Where numbers of adapters 1.3 come from a defect of that release: what loading such a checkpoint says and does.

| models, methods | there | here |
|---|---|---|
| DoRA | the norm lacks alpha / r, the bias is rescaled too | as published; `compat="adapters-1.3"` as there |
| ALBERT, bottleneck after attention | h and r are exchanged | not exchanged, and said; `compat="adapters-1.3"` as there |
| Gemma 2 and 3, bottleneck | every layer runs the norm of the last one | each layer its own, and said |
| DeBERTa (v1), ModernBERT | attaching adds a random bias that no checkpoint holds | refused: what it was trained with is lost |
| X-MOD | attaching removes the model's own language modules | refused: it was trained on another model |
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from adapterhub.core.sites import SublayerSite
from adapterhub.spec.config import AdapterConfig, BottleneckConfig, UnionConfig
from adapterhub.spec.errors import CheckpointError, InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.formats.checkpoint import AdapterCheckpoint
    from adapterhub.core.pool import Adapter, Pool

__all__ = ["COMPAT", "check_compat", "check_reproducible", "follow"]

#: What `load_adapter(compat=…)` takes.
COMPAT = "adapters-1.3"

_LOST = frozenset({"deberta", "modernbert"})
_LAST_NORM = frozenset({"gemma2", "gemma3_text"})


def check_compat(compat: str | None) -> None:
    """That `compat` is known.

    Raises:
        InvalidConfigError: it is not.
    """
    if compat not in (None, COMPAT):
        raise InvalidConfigError(f"There is no compat={compat!r}.", hint=f"Known: {COMPAT}.")


def check_reproducible(checkpoint: AdapterCheckpoint, pool: Pool, strict: bool) -> None:
    """That what the checkpoint was trained with is all in it.

    Raises:
        CheckpointError: an adapter of a model to which adapters 1.3 adds a random bias (unless not `strict`).
    """
    model_type = _model_type(pool)
    if checkpoint.format == "adapters" and model_type == "xmod" and strict:
        raise CheckpointError(
            f"{checkpoint.name!r} cannot be reproduced: adapters 1.x removes the language modules of X-MOD models, so that the "
            "adapter was trained on another model than this.",
            hint="Train it anew, or pass strict=False to load it beside them.",
        )
    if checkpoint.format == "adapters" and model_type in _LOST and strict:
        raise CheckpointError(
            f"{checkpoint.name!r} cannot be reproduced: adapters 1.x adds a random bias to the attention of {model_type} "
            "models, the adapter was trained with it, and it is not in the checkpoint.",
            hint="Train it anew, or pass strict=False to load it without that bias.",
        )


def follow(checkpoint: AdapterCheckpoint, adapter: Adapter, pool: Pool, compat: str | None) -> list[str]:
    """Set what `compat` asks for, and say (as a warning, and in the load report) where numbers differ from the peer's."""
    if checkpoint.format != "adapters":
        return []
    notes = [*_dora(adapter, compat), *_bottleneck(checkpoint.config, adapter, pool, compat)]
    for note in notes:
        warnings.warn(f"{adapter.name!r}: {note}", stacklevel=4)
    return notes


def _dora(adapter: Adapter, compat: str | None) -> list[str]:
    modules = [module for module in adapter.modules.values() if getattr(module, "magnitude", None) is not None]
    if compat == COMPAT:
        for module in modules:
            module.unscaled_norm = True  # type: ignore[assignment]
        return []
    if not modules:
        return []
    return [f"adapters 1.3 computes DoRA in another way than it was published; compat={COMPAT!r} gives its numbers"]


def _bottleneck(config: AdapterConfig, adapter: Adapter, pool: Pool, compat: str | None) -> list[str]:
    members = config.configs if isinstance(config, UnionConfig) else (config,)
    model_type, notes = _model_type(pool), []
    for member in members:
        if not isinstance(member, BottleneckConfig):
            continue
        if model_type == "albert" and member.mh_adapter:
            if compat == COMPAT:
                _exchange(adapter, pool)
                continue
            notes.append(
                "adapters 1.3 exchanges the sublayer's output and the residual after ALBERT's attention; "
                f"compat={COMPAT!r} gives its numbers"
            )
        if model_type in _LAST_NORM:
            notes.append(
                f"adapters 1.3 runs the last layer's norm in every layer of {model_type} models; not done here"
            )
    return notes


def _exchange(adapter: Adapter, pool: Pool) -> None:
    """Let the bottlenecks after attention run with h and r exchanged (`operations.Exchanged`)."""
    for key, module in adapter.modules.items():
        site = pool.by_key[key]
        if isinstance(site, SublayerSite) and site.place.kind == "attention":
            module.__dict__["exchanged"] = True


def _model_type(pool: Pool) -> str:
    return str(getattr(pool.base_model.config, "model_type", ""))
