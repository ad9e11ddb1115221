"""Where numbers of adapters 1.3 come from a defect of that release: what loading and writing its checkpoints says and does.

| models, methods | there | here |
|---|---|---|
| DoRA | the norm lacks alpha / r, the bias is rescaled too | as published; `compat="adapters-1.3"` as there |
| ALBERT, bottleneck after attention | h and r are exchanged | not exchanged, and said; `compat="adapters-1.3"` as there |
| IA3 with alpha on some of q, k, v of one map | the others are multiplied by alpha too | they are not, and said |
| Gemma 2 and 3, bottleneck | before the sublayer's norm, the last layer's norm inside | after the sublayer's norm, and said; `compat="adapters-1.3"` as there |
| DeBERTa (v1), ModernBERT | attaching adds a random bias that no checkpoint holds | refused: what it was trained with is lost |
| X-MOD | attaching removes the model's own language modules | refused: it was trained on another model |
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapterhub.core.sites import SublayerSite
from adapterhub.core.sites.linears import LinearSite
from adapterhub.spec.config import AdapterConfig, IA3Config, UnionConfig
from adapterhub.spec.errors import CheckpointError, InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.formats.checkpoint import AdapterCheckpoint
    from adapterhub.core.pool import Adapter, Pool

__all__ = ["COMPAT", "check_compat", "check_reproducible", "follow", "tell_writing"]

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
    if compat == COMPAT:
        _as_there(adapter, pool)
    notes = [
        f"{fact}; compat={COMPAT!r} gives its numbers" if mended else f"{fact}; not done here"
        for fact, mended in (*_dora(adapter), *_differences(checkpoint.config, adapter, pool))
    ]
    for note in notes:
        warnings.warn(f"{adapter.name!r}: {note}", stacklevel=4)
    return notes


def tell_writing(adapter: Adapter, pool: Pool) -> None:
    """Warn where adapters 1.3 will not give the numbers of this adapter, which is about to be written for it. DoRA that it
    computes otherwise is not written at all."""
    for fact, _ in _differences(adapter.config, adapter, pool):
        warnings.warn(f"{adapter.name!r} will give other numbers there: {fact}.", stacklevel=4)


def _as_there(adapter: Adapter, pool: Pool) -> None:
    for module in adapter.modules.values():
        if getattr(module, "magnitude", None) is not None:
            module.unscaled_norm = True  # type: ignore[assignment]
    model_type = _model_type(pool)
    for key, module in adapter.modules.items():
        if model_type == "albert" and _after_attention(pool, key):
            module.__dict__["as_there"] = "exchanged"
        if model_type in _LAST_NORM and isinstance(pool.by_key[key], SublayerSite):
            module.__dict__["as_there"] = "before norm"


def _dora(adapter: Adapter) -> Iterator[tuple[str, bool]]:
    modules = [module for module in adapter.modules.values() if getattr(module, "magnitude", None) is not None]
    if not all(getattr(module, "unscaled_norm", False) for module in modules):
        yield "adapters 1.3 computes DoRA in another way than it was published", True


def _differences(config: AdapterConfig, adapter: Adapter, pool: Pool) -> Iterator[tuple[str, bool]]:
    """What adapters 1.3 computes otherwise than this adapter does, and whether `compat` would follow it."""
    model_type, modules = _model_type(pool), adapter.modules
    members = config.configs if isinstance(config, UnionConfig) else (config,)
    if model_type == "albert" and any(
        _after_attention(pool, key) and not module.__dict__.get("as_there") for key, module in modules.items()
    ):
        yield "adapters 1.3 exchanges the sublayer's output and the residual after ALBERT's attention", True
    if model_type in _LAST_NORM and any(
        isinstance(pool.by_key[key], SublayerSite) and not module.__dict__.get("as_there")
        for key, module in modules.items()
    ):
        yield (
            f"adapters 1.3 runs bottlenecks of {model_type} models before the sublayer's norm, and in every layer the last "
            "layer's norm inside them",
            True,
        )
    fused = any(isinstance(site := pool.by_key[key], LinearSite) and site.place.part is not None for key in modules)
    if fused and any(_scales_others(member) for member in members):
        yield "adapters 1.3 multiplies also those of q, k and v by alpha that have no vector", False


def _scales_others(config: AdapterConfig) -> bool:
    """Whether this is IA3 with an alpha on some of the queries, keys and values."""
    return (
        isinstance(config, IA3Config)
        and config.alpha != 1
        and not config.use_gating
        and not {"q", "k", "v"} <= set(config.attn_matrices)
    )


def _after_attention(pool: Pool, key: str) -> bool:
    site = pool.by_key[key]
    return isinstance(site, SublayerSite) and site.place.kind == "attention"


def _model_type(pool: Pool) -> str:
    return str(getattr(pool.base_model.config, "model_type", ""))
