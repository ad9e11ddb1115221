"""A manifest: the immutable description of one published version of an adapter, named by the digest of its own text.

The digest is the SHA-256 of the manifest's RFC 8785 text with every member present, so the same manifest has the same
digest whoever writes it. Bytes are named by their digests too: a manifest says what is in a version completely.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from adapterhub.spec.canonical import canonical_json, digest_of
from adapterhub.spec.errors import InvalidManifestError
from adapterhub.spec.lazy_model import LazyModel
from adapterhub.spec.safetensors_header import DTYPE_BITS, MAX_NAME_LENGTH, MAX_RANK, MAX_TENSORS
from adapterhub.spec.validation.manifest_rules import inconsistencies
from adapterhub.spec.validation.path_names import MAX_PATH, PATH
from adapterhub.spec.validation.plain_text import JOINERS, hidden_character
from adapterhub.spec.validation.problem import Problem
from adapterhub.spec.validation.strict_json import JSONSyntaxError, line_of_pointers, pointer_of, read_json

if TYPE_CHECKING:
    from adapterhub.spec.index import IndexEntry
    from adapterhub.spec.packaging import build_manifest

__all__ = [
    "ADAPTER_TYPES",
    "MAX_MANIFEST_BYTES",
    "BaseModelInfo",
    "Dependency",
    "FileRecord",
    "Library",
    "Manifest",
    "Metric",
    "TensorRecord",
    "build_manifest",
    "index_entry",
    "manifest_problems",
    "problems_of",
]

MAX_MANIFEST_BYTES = 1024 * 1024
#: What an adapter is for; the first two are the paper's.
ADAPTER_TYPES = ("text_task", "text_lang", "image_task", "audio_task", "multimodal_task")

_NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9._+-]*[A-Za-z0-9+])?$"
_WINDOWS = re.compile(r"^(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?$", re.IGNORECASE)


def _visible(text: str) -> str:
    hidden = hidden_character(text)
    if hidden is not None:
        raise ValueError(f"holds the invisible character U+{ord(hidden):04X}")
    return text


def _name_of_person(text: str) -> str:
    hidden = hidden_character(text, allow=JOINERS)
    if hidden is not None:
        raise ValueError(f"holds the invisible character U+{ord(hidden):04X}")
    return text


def _prose(text: str) -> str:
    hidden = hidden_character(text, allow=f"\n\t{JOINERS}\u00ad")
    if hidden is not None:
        raise ValueError(f"holds the invisible character U+{ord(hidden):04X}")
    return text


def _not_reserved(text: str) -> str:
    if text.lower() == "sha256":
        raise ValueError("'sha256' is reserved for digests")
    return text


def _portable(path: str) -> str:
    for part in path.split("/"):
        if _WINDOWS.match(part):
            raise ValueError(f"{part!r} cannot be a file name on Windows")
    return path


def _known_dtype(text: str) -> str:
    if text not in DTYPE_BITS:
        raise ValueError(f"unknown dtype {text!r}")
    return text


def _instant(text: str) -> str:
    try:
        datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise ValueError("is no such date and time") from None
    return text


Name = Annotated[str, Field(pattern=_NAME, max_length=64)]
Namespace = Annotated[str, Field(pattern=_NAME, max_length=64), AfterValidator(_not_reserved)]
AdapterName = Annotated[str, Field(pattern=_NAME, max_length=128)]
ModelName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9][A-Za-z0-9._+-]*)?$", max_length=160)
]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Line = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_visible)]
Person = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_name_of_person)]
Prose = Annotated[str, Field(max_length=20_000), AfterValidator(_prose)]
FilePath = Annotated[
    str,
    Field(pattern=PATH, max_length=MAX_PATH),
    AfterValidator(_portable),
]
Count = Annotated[int, Field(ge=0, le=2**53)]
Instant = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"),
    AfterValidator(_instant),
]
Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*$", max_length=35)]
License = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*$", max_length=128)]
MediaType = Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9.+-]+$", max_length=128)]
DType = Annotated[str, Field(json_schema_extra={"enum": sorted(DTYPE_BITS)}), AfterValidator(_known_dtype)]


class _Record(LazyModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class BaseModelInfo(_Record):
    """The frozen model an adapter was trained for."""

    name: ModelName = Field(description="Model id, `name` or `owner/name`.")
    revision: Line | None = Field(None, description="Commit or tag of the model's weights.")
    family: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)] | None = Field(
        None, description="Model family: the `model_type` of transformers."
    )
    hidden_size: Annotated[int, Field(ge=1, le=2**24)] | None = Field(None, description="Width of the residual stream.")


class FileRecord(_Record):
    """One file of the version."""

    path: FilePath = Field(description="Relative path with `/`; portable names only.")
    size: Count = Field(description="Bytes.")
    digest: Digest = Field(description="SHA-256 of the bytes.")
    media_type: MediaType


class TensorRecord(_Record):
    """One tensor of one of the safetensors files."""

    file: FilePath
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(_visible)]
    dtype: DType
    shape: Annotated[tuple[Count, ...], Field(max_length=MAX_RANK)]


class Metric(_Record):
    """One measured figure."""

    name: Line = Field(description="For example `accuracy`, `f1`, `spearmanr`.")
    value: Annotated[float, Field(allow_inf_nan=False)]
    dataset: Line | None = None
    split: Line | None = None


class Dependency(_Record):
    """Another adapter this one was trained on top of, for example a language adapter below a task adapter."""

    reference: Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_visible)]
    digest: Digest | None = None
    description: Line | None = None


class Library(_Record):
    """The program that wrote the adapter."""

    name: Line
    version: Line


class Manifest(_Record):
    """One published version of an adapter. Immutable; equal content has the same `digest`."""

    spec_version: Literal["1.0"] = Field("1.0", description="Version of this specification.")
    namespace: Namespace = Field(description="Who publishes.")
    name: AdapterName = Field(description="The adapter's own name; unique in the namespace after folding.")
    version: Name = Field(description="Compared as it is written; never reused.")
    task: Name | None = Field(
        None, description="Task, or language code for language adapters; null where there is none."
    )
    subtask: Name | None = Field(None, description="Data set or domain; null exactly where there is no task.")
    type: Literal["text_task", "text_lang", "image_task", "audio_task", "multimodal_task"]
    base_model: BaseModelInfo
    method: Literal["bottleneck", "lora", "ia3", "prefix", "prompt", "reft", "union"]
    using: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_+-]*$", max_length=64)] | None = Field(
        None, description="The preset the config is made from; hyper-parameters may differ."
    )
    config: dict[str, Any] = Field(description="The expanded adapter config.")
    config_id: Digest = Field(description="SHA-256 of the canonical config.")
    head: dict[str, Any] | None = Field(None, description="The prediction head's config.")
    files: Annotated[tuple[FileRecord, ...], Field(min_length=1, max_length=256)]
    tensors: Annotated[tuple[TensorRecord, ...], Field(max_length=MAX_TENSORS)]
    license: License | None = Field(None, description="SPDX expression.")
    languages: Annotated[tuple[Language, ...], Field(max_length=256)] = Field((), description="BCP 47 tags.")
    datasets: Annotated[tuple[Line, ...], Field(max_length=64)] = ()
    metrics: Annotated[tuple[Metric, ...], Field(max_length=256)] = ()
    description: Prose = ""
    citation: Prose = ""
    authors: Annotated[tuple[Person, ...], Field(max_length=64)] = ()
    dependencies: Annotated[tuple[Dependency, ...], Field(max_length=64)] = ()
    library: Library | None = None
    created_at: Instant = Field(description="RFC 3339, UTC, whole seconds.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        members = {
            "task": self.task,
            "subtask": self.subtask,
            "method": self.method,
            "config": self.config,
            "config_id": self.config_id,
            "head": self.head,
            "files": [{"path": record.path} for record in self.files],
            "tensors": [{"file": record.file, "name": record.name} for record in self.tensors],
        }
        problem = next(inconsistencies(members), None)
        if problem is not None:
            raise PydanticCustomError("inconsistent", "{told}", {"told": str(problem)})
        return self

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The manifest written in `data`.

        Numbers are numbers: `2` and `2.0` are the same, as in every JSON reader that has but one kind.

        Raises:
            InvalidManifestError: not strict JSON, more than 1 MiB, or against the schema; `details["problems"]` has all.
        """
        try:
            value = read_json(data, max_bytes=MAX_MANIFEST_BYTES)
        except JSONSyntaxError as error:
            raise _refused([Problem(error.pointer, error.message, error.hint, line=error.line)]) from None
        return cls.from_json(value, text=data.decode())

    @classmethod
    def from_json(cls, value: Any, *, text: str | None = None) -> Self:
        """The manifest held by a parsed JSON value.

        Args:
            value: what a JSON reader made of a manifest.
            text: the text it was read from, to tell lines.

        Raises:
            InvalidManifestError: against the schema.
        """
        try:
            return cls.model_validate_json(canonical_json(value))
        except ValidationError as error:
            found = problems_of(error)
            found += [item for item in inconsistencies(value) if item not in found] if isinstance(value, dict) else []
            lines = line_of_pointers(text) if text is not None else {}
            raise _refused([_located(item, lines) for item in found]) from None
        except (ValueError, RecursionError) as error:
            raise _refused([Problem("", str(error))]) from None

    def to_json(self) -> dict[str, Any]:
        """Every member, as JSON types."""
        return self.model_dump(mode="json")

    def canonical_bytes(self) -> bytes:
        """The RFC 8785 text with every member present, as UTF-8: what is hashed, stored and sent."""
        return canonical_json(self.to_json()).encode()

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over `canonical_bytes()`."""
        return digest_of(self.canonical_bytes())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(record.size for record in self.files)

    @property
    def full_id(self) -> str:
        """`task/subtask@namespace`, or `@namespace/name` where there is no task."""
        return self.adapter if self.task is None else f"{self.task}/{self.subtask}@{self.namespace}"

    @property
    def adapter(self) -> str:
        """`@namespace/name`."""
        return f"@{self.namespace}/{self.name}"


def __getattr__(name: str) -> Any:
    if name == "build_manifest":
        from adapterhub.spec.packaging import build_manifest

        return build_manifest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def manifest_problems(data: bytes) -> list[Problem]:
    """Everything that is wrong with a manifest; empty when nothing is."""
    try:
        Manifest.from_bytes(data)
    except InvalidManifestError as error:
        return [Problem(**problem) for problem in error.details["problems"]]
    return []


def index_entry(
    manifest: Manifest,
    *,
    default_version: str | None = None,
    yanked: bool = False,
    yanked_reason: str | None = None,
    digest: str | None = None,
) -> IndexEntry:
    """The index line of a published version.

    Args:
        manifest: the version.
        default_version: the adapter's default version; None means the newest that is not yanked.
        yanked: whether the version is withdrawn from resolution.
        yanked_reason: why.
        digest: the manifest's digest, where it is known already.
    """
    from adapterhub.spec.config import parse_config
    from adapterhub.spec.index import IndexEntry

    return IndexEntry(
        namespace=manifest.namespace,
        name=manifest.name,
        version=manifest.version,
        digest=digest or manifest.digest,
        model_name=manifest.base_model.name,
        task=manifest.task or "",
        subtask=manifest.subtask or "",
        type=manifest.type,
        method=manifest.method,
        using=manifest.using,
        config=manifest.config,
        config_id=manifest.config_id,
        legacy_config_id=parse_config(manifest.config).legacy_config_id,
        default_version=default_version,
        hidden_size=manifest.base_model.hidden_size,
        license=manifest.license,
        language=manifest.languages[0] if manifest.languages else None,
        size=manifest.size,
        created_at=manifest.created_at,
        yanked=yanked,
        yanked_reason=yanked_reason,
        files=(),
        status="available",
    )


def problems_of(error: ValidationError, lines: Mapping[str, int] | None = None) -> list[Problem]:
    """pydantic's findings as problems, with the lines of their pointers where these are known."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        if item["type"] == "inconsistent":
            continue  # one of several: `inconsistencies` tells all of them
        pointer = pointer_of(tuple(item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        hint = "No such member; check the spelling." if item["type"] == "extra_forbidden" else ""
        found.append(_located(Problem(pointer, message, hint), lines or {}))
    return found


def _located(problem: Problem, lines: Mapping[str, int]) -> Problem:
    """The problem with the line of its pointer, or of the nearest place above."""
    pointer = problem.pointer
    while pointer and pointer not in lines:
        pointer = pointer.rpartition("/")[0]
    return replace(problem, line=lines.get(pointer))


def _refused(problems: Sequence[Problem]) -> InvalidManifestError:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidManifestError(
        f"The manifest is refused: {problems[0]}{more}", details={"problems": [item.to_json() for item in problems]}
    )
