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
            "DiReftConfig",
            "DoRAConfig",
            "DoubleSeqBnConfig",
            "DoubleSeqBnInvConfig",
            "HoulsbyConfig",
            "HoulsbyInvConfig",
            "LoReftConfig",
            "MAMConfig",
            "NoReftConfig",
            "ParBnConfig",
            "ParallelConfig",
            "PfeifferConfig",
            "PfeifferInvConfig",
            "ScaledParallelConfig",
            "SeqBnConfig",
            "SeqBnInvConfig",
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
    **dict.fromkeys(("EntryIndex", "Resolution", "load_aliases", "resolve"), "resolution"),
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


if TYPE_CHECKING:  # the same names, for type checkers and editors
    from adapterhub.spec.canonical import (
        canonical_json as canonical_json,
        digest_of as digest_of,
    )
    from adapterhub.spec.composition import (
        Average as Average,
        BatchSplit as BatchSplit,
        Composition as Composition,
        Fuse as Fuse,
        Parallel as Parallel,
        Split as Split,
        Stack as Stack,
    )
    from adapterhub.spec.config import (
        AdapterConfig as AdapterConfig,
        BottleneckConfig as BottleneckConfig,
        IA3Config as IA3Config,
        LoRAConfig as LoRAConfig,
        PrefixTuningConfig as PrefixTuningConfig,
        PromptTuningConfig as PromptTuningConfig,
        ReftConfig as ReftConfig,
        UnionConfig as UnionConfig,
        parse_config as parse_config,
    )
    from adapterhub.spec.errors import (
        AdapterHubError as AdapterHubError,
        AdapterNotFoundError as AdapterNotFoundError,
        AmbiguousAdapterError as AmbiguousAdapterError,
        AuthenticationError as AuthenticationError,
        CheckpointError as CheckpointError,
        HubConnectionError as HubConnectionError,
        IntegrityError as IntegrityError,
        InvalidConfigError as InvalidConfigError,
        InvalidManifestError as InvalidManifestError,
        InvalidReferenceError as InvalidReferenceError,
        ModelMismatchError as ModelMismatchError,
        OfflineError as OfflineError,
        PolicyError as PolicyError,
        PublishError as PublishError,
        QuotaExceededError as QuotaExceededError,
        StorageError as StorageError,
        UnsupportedModelError as UnsupportedModelError,
        ValidationFailedError as ValidationFailedError,
        VersionExistsError as VersionExistsError,
        VersionNotFoundError as VersionNotFoundError,
    )
    from adapterhub.spec.family import (
        ModelFamily as ModelFamily,
        family_names as family_names,
        load_family as load_family,
    )
    from adapterhub.spec.fusion import (
        FusionConfig as FusionConfig,
    )
    from adapterhub.spec.heads import (
        HeadConfig as HeadConfig,
    )
    from adapterhub.spec.index import (
        IndexEntry as IndexEntry,
    )
    from adapterhub.spec.legacy import (
        read_legacy_catalogue as read_legacy_catalogue,
    )
    from adapterhub.spec.manifest import (
        Manifest as Manifest,
        build_manifest as build_manifest,
    )
    from adapterhub.spec.presets import (
        AdapterPlusConfig as AdapterPlusConfig,
        BapnaConfig as BapnaConfig,
        CompacterConfig as CompacterConfig,
        CompacterPlusPlusConfig as CompacterPlusPlusConfig,
        DiReftConfig as DiReftConfig,
        DoRAConfig as DoRAConfig,
        DoubleSeqBnConfig as DoubleSeqBnConfig,
        DoubleSeqBnInvConfig as DoubleSeqBnInvConfig,
        HoulsbyConfig as HoulsbyConfig,
        HoulsbyInvConfig as HoulsbyInvConfig,
        LoReftConfig as LoReftConfig,
        MAMConfig as MAMConfig,
        NoReftConfig as NoReftConfig,
        ParallelConfig as ParallelConfig,
        ParBnConfig as ParBnConfig,
        PfeifferConfig as PfeifferConfig,
        PfeifferInvConfig as PfeifferInvConfig,
        ScaledParallelConfig as ScaledParallelConfig,
        SeqBnConfig as SeqBnConfig,
        SeqBnInvConfig as SeqBnInvConfig,
        UniPELTConfig as UniPELTConfig,
        load_preset as load_preset,
        preset_names as preset_names,
    )
    from adapterhub.spec.reference import (
        AdapterReference as AdapterReference,
        fold as fold,
        format_reference as format_reference,
        parse_reference as parse_reference,
    )
    from adapterhub.spec.resolution import (
        Resolution as Resolution,
        resolve as resolve,
    )
    from adapterhub.spec.validate import (
        Problem as Problem,
        validate_path as validate_path,
    )
