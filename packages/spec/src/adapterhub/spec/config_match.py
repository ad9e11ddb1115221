"""Whether an index entry has the config that was asked for, decided on plain JSON: no pydantic is needed to resolve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from adapterhub.spec.canonical import canonical_json
from adapterhub.spec.index import IndexEntry

__all__ = ["ConfigFilter", "architecture_table", "config_filter", "expand", "preset_name"]

_HEX = frozenset("0123456789abcdef")
#: Keys of the 2020 hub's expanded configs that may be absent, with what absence means there.
_LEGACY_OPTIONAL: dict[str, Any] = {"inv_adapter": None, "inv_adapter_reduction_factor": None, "leave_out": []}
#: Its other keys: an expanded config without `method` has them all.
_LEGACY_REQUIRED = (
    "adapter_residual_before_ln",
    "ln_after",
    "ln_before",
    "mh_adapter",
    "non_linearity",
    "original_ln_after",
    "original_ln_before",
    "output_adapter",
    "reduction_factor",
    "residual_before_ln",
)


class ConfigFilter:
    """Keeps the entries with one config. `name` is set when the config was asked for by a bare name."""

    __slots__ = ("_architectures", "_canonical", "_id", "name")

    def __init__(
        self,
        *,
        name: str | None = None,
        config_id: str | None = None,
        canonical: str | None = None,
        architectures: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.name = name
        self._id = config_id
        self._canonical = canonical
        self._architectures = architectures

    def keeps(self, entry: IndexEntry) -> bool:
        """Whether the entry has the config asked for."""
        if self.name is not None:
            return entry.using == self.name
        if self._id is not None:
            return self._id in (entry.config_id, entry.legacy_config_id)
        return self._canonical is not None and self._canonical == _canonical(entry.config, self._architectures)

    def is_plain(self, entry: IndexEntry) -> bool:
        """Whether the entry's config is its architecture's own, without overrides."""
        own = _canonical({"using": entry.using}, self._architectures)
        return own is not None and own == _canonical(entry.config, self._architectures)


def config_filter(config: Any, architectures: Mapping[str, Mapping[str, Any]] | None = None) -> ConfigFilter | None:
    """A filter for `config`; None keeps everything.

    Args:
        config: None, an architecture or preset name, a config id, a preset string with brackets, a dict, or an object with
            an `expand()` method.
        architectures: configs by architecture name, besides those of the spec.

    Raises:
        InvalidConfigError: text with brackets or `|` that is no preset string.
    """
    if config is None:
        return None
    if isinstance(config, str):
        if config.startswith("sha256:") or (len(config) == 16 and _HEX.issuperset(config)):
            return ConfigFilter(config_id=config)
        if "[" not in config and "|" not in config:
            return ConfigFilter(name=config, architectures=architectures)
        from adapterhub.spec.presets import parse_preset

        config = parse_preset(config)
    if not isinstance(config, Mapping):
        config = config.expand()
    return ConfigFilter(canonical=_canonical(config, architectures), architectures=architectures)


def expand(
    config: Mapping[str, Any], architectures: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any] | None:
    """The config with every field of its method, or None if it is none: unknown keys, an unknown architecture or method,
    a key missing that nothing stands in for.

    Args:
        config: `{"using": name, …overrides}`; a config of ours with `method` (absent fields have their defaults); or an
            expanded config of the 2020 hub, without either.
        architectures: configs by architecture name, besides those of the spec.
    """
    fields = dict(config)
    if "using" in fields:
        name = fields.pop("using")
        own = (architectures or {}).get(name) if isinstance(name, str) else None
        if own is None:
            own = architecture_table().get(name) if isinstance(name, str) else None
        if own is None:
            return None
        own = _completed(dict(own)) or {}
        if own.get("method") == "bottleneck" and fields.get("bottleneck_size") is not None:
            fields.setdefault("reduction_factor", None)
        fields = {**own, **fields}
    elif "method" not in fields:
        for key in ("architecture", "dtype"):
            if fields.get(key, 0) is None:
                del fields[key]
        if any(key not in fields for key in _LEGACY_REQUIRED):
            return None
        fields = {**_LEGACY_OPTIONAL, **fields}
    return _completed(fields)


@cache
def architecture_table() -> dict[str, dict[str, Any]]:
    """Configs by name: the presets of the spec under all their names, and the architectures of the 2020 hub."""
    from importlib import resources

    data = resources.files("adapterhub.spec") / "data" / "legacy" / "architectures.json"
    table: dict[str, dict[str, Any]] = json.loads(data.read_text(encoding="utf-8"))
    for document in _presets():
        for name in (document["name"], *document.get("aliases", ())):
            table[name] = document["config"]
    return table


def preset_name(name: str) -> str | None:
    """The name of the preset that has `name` among its other names, or None."""
    return next((found["name"] for found in _presets() if name in found.get("aliases", ())), None)


@cache
def _presets() -> list[dict[str, Any]]:
    from importlib import resources

    folder = resources.files("adapterhub.spec") / "data" / "presets"
    return [json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir() if file.name.endswith(".json")]


@cache
def _method_defaults() -> dict[str, dict[str, Any]]:
    from importlib import resources

    data = resources.files("adapterhub.spec") / "data" / "defaults.json"
    found: dict[str, dict[str, Any]] = json.loads(data.read_text(encoding="utf-8"))
    return found


def _completed(fields: dict[str, Any]) -> dict[str, Any] | None:
    """All fields of the method in their one form (SPEC.md 9.2); None for an unknown method or key."""
    method = fields.setdefault("method", "bottleneck")
    if method == "union":
        members = fields.get("configs")
        if not isinstance(members, (list, tuple)) or set(fields) != {"method", "configs"}:
            return None
        expanded = [expand(member) for member in members if isinstance(member, Mapping)]
        return None if None in expanded or len(expanded) != len(members) else {"method": method, "configs": expanded}
    defaults = _method_defaults().get(method) if isinstance(method, str) else None
    if defaults is None or not defaults.keys() >= fields.keys():
        return None
    full = {**defaults, **fields}
    if method == "bottleneck":
        if full["bottleneck_size"] is not None and "reduction_factor" not in fields:
            full["reduction_factor"] = None
        if full["inv_adapter"] is not None and full["inv_adapter_reduction_factor"] is None:
            full["inv_adapter_reduction_factor"] = 2
    for key in ("leave_out", "layers"):
        if isinstance(full.get(key), (list, tuple)) and all(type(item) in (int, float) for item in full[key]):
            full[key] = sorted(set(full[key]))
    if isinstance(full.get("non_linearity"), str):
        full["non_linearity"] = full["non_linearity"].lower()
    return full


def _canonical(config: Mapping[str, Any], architectures: Mapping[str, Mapping[str, Any]] | None) -> str | None:
    """One text per meaning: 2 and 2.0 are one, true and 1 are two; None for what is no config."""
    expanded = expand(config, architectures)
    try:
        return None if expanded is None else canonical_json(expanded)
    except ValueError:
        return None
