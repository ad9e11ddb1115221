"""What an adapter, a reference, a manifest and an index entry are. Names are loaded on first use, so that asking for
`parse_reference` costs no pydantic."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from adapterhub.spec.__about__ import __version__

#: public name → module that defines it
_HOME: dict[str, str] = {
    **dict.fromkeys(
        (
            "AdapterConfig",
            "BottleneckConfig",
            "IA3Config",
            "LoRAConfig",
            "PrefixTuningConfig",
            "PromptTuningConfig",
            "ReftConfig",
            "UnionConfig",
            "parse_config",
        ),
        "config",
    ),
    **dict.fromkeys(
        (
            "AdapterPlusConfig",
            "BapnaConfig",
            "CompacterConfig",
            "CompacterPlusPlusConfig",
            "DoRAConfig",
            "HoulsbyConfig",
            "HoulsbyInvConfig",
            "LoReftConfig",
            "MAMConfig",
            "NoReftConfig",
            "DiReftConfig",
            "ParallelConfig",
            "PfeifferConfig",
            "PfeifferInvConfig",
            "ScaledParallelConfig",
            "UniPELTConfig",
            "load_preset",
            "preset_names",
        ),
        "presets",
    ),
    **dict.fromkeys(("Stack", "Fuse", "Split", "BatchSplit", "Parallel", "Average", "Composition"), "composition"),
    "FusionConfig": "fusion",
    **dict.fromkeys(("HeadConfig",), "heads"),
    **dict.fromkeys(("ModelFamily", "load_family", "family_names"), "family"),
    **dict.fromkeys(("AdapterReference", "parse_reference", "format_reference", "fold"), "reference"),
    **dict.fromkeys(("Resolution", "resolve"), "resolution"),
    **dict.fromkeys(("IndexEntry",), "index"),
    **dict.fromkeys(("Manifest", "build_manifest"), "manifest"),
    **dict.fromkeys(("Problem", "validate_path"), "validate"),
    **dict.fromkeys(("read_legacy_catalogue",), "legacy"),
    **dict.fromkeys(("canonical_json", "digest_of"), "canonical"),
    **dict.fromkeys(
        (
            "AdapterHubError",
            "AdapterNotFoundError",
            "AmbiguousAdapterError",
            "AuthenticationError",
            "CheckpointError",
            "HubConnectionError",
            "IntegrityError",
            "InvalidConfigError",
            "InvalidManifestError",
            "InvalidReferenceError",
            "ModelMismatchError",
            "OfflineError",
            "PolicyError",
            "PublishError",
            "QuotaExceededError",
            "StorageError",
            "UnsupportedModelError",
            "ValidationFailedError",
            "VersionExistsError",
            "VersionNotFoundError",
        ),
        "errors",
    ),
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - names of strings, computed


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


if TYPE_CHECKING:
    from adapterhub.spec.canonical import canonical_json, digest_of
    from adapterhub.spec.composition import Average, BatchSplit, Composition, Fuse, Parallel, Split, Stack
    from adapterhub.spec.config import AdapterConfig, BottleneckConfig, parse_config
    from adapterhub.spec.errors import AdapterHubError
