"""Fusion configs: how attention over adapters is computed (Pfeiffer et al., 2021, AdapterFusion, arXiv:2005.00247)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, StrictBool, ValidationError

from adapterhub.spec.canonical import canonical_json, digest_of
from adapterhub.spec.config import SPEC_VERSION, Probability
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.lazy_model import LazyModel

__all__ = ["FusionConfig", "parse_fusion"]


class FusionConfig(LazyModel):
    """Which projections the attention has and how it is regularised; the defaults are the `dynamic` preset.

    For query x [B, T, H] and the outputs U [B, T, N, H] of N adapters:
    scores = (Wq x + bq) · (Wk U + bk), p = softmax over N of scores / temperature, output = Σ p · (Wv U).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: StrictBool = True
    query: StrictBool = True
    value: StrictBool = True
    query_before_ln: StrictBool = False
    regularization: StrictBool = True
    residual_before: StrictBool = False
    temperature: StrictBool = False
    value_before_softmax: StrictBool = True
    value_initialized: StrictBool = True
    dropout_prob: Probability | None = None

    def expand(self) -> dict[str, Any]:
        """Every field with its value, in JSON types."""
        return self.model_dump(mode="json")

    def canonical_json(self) -> str:
        """RFC 8785 text of the expanded config with the version of the spec beside it."""
        return canonical_json({"spec_version": SPEC_VERSION, **self.expand()})

    @property
    def config_id(self) -> str:
        """`sha256:` and 64 hex digits: the identity of this config."""
        return digest_of({"spec_version": SPEC_VERSION, **self.expand()})


#: The two configs of the peers: `static` only weighs the adapters, `dynamic` also transforms their values.
PRESETS: dict[str, dict[str, Any]] = {
    "static": {"value": False, "regularization": False, "value_initialized": False},
    "dynamic": {},
}


def parse_fusion(config: Any = None, **overrides: Any) -> FusionConfig:
    """A fusion config from `None` (dynamic), a preset name, a dict or a config.

    Raises:
        InvalidConfigError: an unknown preset, field or value.
    """
    if isinstance(config, FusionConfig):
        fields = config.expand()
    elif config is None or isinstance(config, str):
        if config is not None and config not in PRESETS:
            raise InvalidConfigError(f"There is no fusion preset {config!r}.", hint=f"Presets: {', '.join(PRESETS)}.")
        fields = PRESETS[config or "dynamic"]
    elif isinstance(config, Mapping):
        fields = {key: value for key, value in config.items() if key != "spec_version"}
    else:
        raise InvalidConfigError(f"A fusion config cannot be made from {type(config).__name__}.")
    try:
        return FusionConfig.model_validate({**fields, **overrides})
    except ValidationError as error:
        problems = [{"pointer": "/" + "/".join(map(str, p["loc"])), "message": p["msg"]} for p in error.errors()]
        told = "; ".join(f"{problem['pointer']}: {problem['message']}" for problem in problems)
        raise InvalidConfigError(f"The fusion config is not valid: {told}.", details={"problems": problems}) from None
