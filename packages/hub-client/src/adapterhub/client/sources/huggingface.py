"""Adapters on the Hugging Face hub, through the optional package `huggingface_hub`, its cache included.

A repository is asked for by name and `source="hf"`, and only then: no reference of ours is ever looked up there. Its own
library does the transfer and keeps its own cache and token; what it hands over is hashed against the names it keeps the
bytes under (sha256 of large files, git blob ids of small ones) before it is returned.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapterhub.client.info import AdapterInfo
from adapterhub.client.settings import HUGGING_FACE, Settings
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AuthenticationError,
    HubConnectionError,
    IntegrityError,
    InvalidReferenceError,
    OfflineError,
    VersionNotFoundError,
)
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.resolution import Resolution

__all__ = ["HuggingFaceSource"]

#: what an adapter repository is made of; nothing else is fetched
_FILES = ("*.safetensors", "*.json", "*.md", "*.txt")
#: weights of adapters made before safetensors; core reads them without executing anything
_LEGACY = ("pytorch_adapter.bin", "pytorch_model_head.bin", "pytorch_model_adapter_fusion.bin", "adapter_model.bin")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}\Z", re.ASCII)
#: seconds in which the hub has to answer before it is asked for a list
_PATIENCE = 10.0
_TAGS = ("adapter-transformers", "adapters")


class HuggingFaceSource:
    """Reads from the Hugging Face hub."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        try:
            import huggingface_hub
        except ImportError:
            raise AdapterHubError(
                "Reading from the Hugging Face hub needs the package huggingface_hub.",
                hint="Run: pip install 'adapterhub-client[hf]'",
            ) from None
        self._library = huggingface_hub
        self._endpoint = os.environ.get("HF_ENDPOINT") or None

    def adapters(self, filters: Mapping[str, Any]) -> Iterator[AdapterInfo]:
        """Repositories tagged as adapters that pass the filters they can be filtered by.

        Raises:
            OfflineError, HubConnectionError: lists are not cached.
        """
        if self.settings.offline:
            raise OfflineError(
                "Offline mode is on; lists of adapters are not cached.", hint="Unset ADAPTERHUB_OFFLINE."
            )
        api = self._library.HfApi(endpoint=self._endpoint)
        seen: set[str] = set()
        with _translated("the list of adapters"):
            self._require_answer()
            for tag in _TAGS:
                found = api.list_models(
                    filter=tag, author=filters.get("namespace"), search=filters.get("q"), full=True, fetch_config=True
                )
                for model in found:
                    info = _info_of(model)
                    if info.adapter_id not in seen and _passes(info, filters):
                        seen.add(info.adapter_id)
                        yield info

    def info(self, repository: str, *, revision: str | None = None) -> AdapterInfo:
        """What the hub, or offline the cache, knows about a repository."""
        _check(repository)
        if self.settings.offline:
            return self._info_from_folder(self.download(repository, revision=revision), repository)
        api = self._library.HfApi(endpoint=self._endpoint)
        with _translated(repository):
            return _info_of(api.model_info(repository, revision=revision))

    def resolve(self, repository: str, *, revision: str | None = None) -> Resolution:
        """The commit a repository stands at, in the form of a resolution; there is no manifest, so no digest."""
        info = self.info(repository, revision=revision)
        entry = IndexEntry(
            namespace=info.namespace or "",
            name=info.name or "",
            version=info.version or "main",
            model_name=info.model_name or "",
            task=info.task or "",
            subtask=info.subtask or "",
            license=info.license,
            created_at=info.created_at,
        )
        return Resolution(entry, tier="exact", decided_by="unique", hub=HUGGING_FACE)

    def download(self, repository: str, *, revision: str | None = None) -> Path:
        """The folder of a repository's adapter files in the Hugging Face cache, hashed.

        Args:
            revision: branch, tag or commit.

        Raises:
            AdapterNotFoundError, VersionNotFoundError, AuthenticationError, OfflineError, HubConnectionError,
            IntegrityError.
        """
        _check(repository)
        for attempt in range(2):
            folder = self._snapshot(repository, revision, force=attempt > 0)
            broken = _broken_files(folder)
            if not broken:
                return folder
            if self.settings.offline:
                break
        raise IntegrityError(
            f"{repository}: {', '.join(broken)} in the Hugging Face cache ({folder}) is not what was published.",
            hint="Delete that folder and download again.",
        )

    def _require_answer(self) -> None:
        """Ask once whether the hub is there: for a list, the library would go on asking for half a minute."""
        from huggingface_hub import constants

        self._library.get_session().head(self._endpoint or constants.ENDPOINT, timeout=_PATIENCE)

    def _snapshot(self, repository: str, revision: str | None, *, force: bool) -> Path:
        from huggingface_hub.utils import disable_progress_bars

        if not self.settings.progress:
            disable_progress_bars()
        with _translated(repository):
            folder = Path(
                self._library.snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=[*_FILES, *_LEGACY],
                    local_files_only=self.settings.offline,
                    force_download=force,
                    endpoint=self._endpoint,
                    library_name="adapterhub-client",
                )
            )
        if not any(folder.glob("*.safetensors")) and not any((folder / name).exists() for name in _LEGACY):
            raise AdapterNotFoundError(
                f"{repository} holds no adapter weights.", hint="It may be a model, or keep its adapters elsewhere."
            )
        return folder

    def _info_from_folder(self, folder: Path, repository: str) -> AdapterInfo:
        try:
            config = json.loads((folder / "adapter_config.json").read_bytes())
        except (OSError, ValueError):
            config = {}
        owner, _, name = repository.partition("/")
        return AdapterInfo(
            source="hf",
            adapter_id=repository,
            model_name=_text(config.get("model_name") or config.get("base_model_name_or_path")),
            username=owner,
            namespace=owner,
            name=name,
            version=folder.name,
            adapter_config=config.get("config") if isinstance(config.get("config"), dict) else None,
        )


def _check(repository: str) -> None:
    if not _REPOSITORY.match(repository) or ".." in repository or "--" in repository:
        raise InvalidReferenceError(
            f"{repository[:120]!r} is no repository of the Hugging Face hub.", hint="It looks like owner/repository."
        )


def _info_of(model: Any) -> AdapterInfo:
    owner, _, name = str(model.id).partition("/")
    config = model.config if isinstance(getattr(model, "config", None), dict) else {}
    section = config.get("adapter_transformers") or config.get("adapters") or config.get("peft") or {}
    section = section if isinstance(section, dict) else {}
    task, _, subtask = str(section.get("task_name") or "").partition("/")
    card = getattr(model, "card_data", None)
    license_name = getattr(card, "license", None)
    created = getattr(model, "created_at", None)
    return AdapterInfo(
        source="hf",
        adapter_id=str(model.id),
        model_name=_text(section.get("model_name") or section.get("base_model_name_or_path")),
        task=task or None,
        subtask=subtask or None,
        username=_text(getattr(model, "author", None)) or owner,
        sha1_checksum=_text(getattr(model, "sha", None)),
        namespace=owner,
        name=name,
        version=_text(getattr(model, "sha", None)),
        license=_text(license_name),
        downloads=getattr(model, "downloads", None),
        created_at=created.isoformat() if created is not None else None,
    )


def _passes(info: AdapterInfo, filters: Mapping[str, Any]) -> bool:
    wanted = {"model": info.model_name, "task": info.task, "subtask": info.subtask, "license": info.license}
    return all(filters.get(key) is None or filters[key] == value for key, value in wanted.items())


def _broken_files(folder: Path) -> list[str]:
    """Files whose bytes are not those their name in the cache stands for. A file the cache keeps under its plain name
    (no links on this system) is compared with the tree listing beside it."""
    listed = _tree_listing(folder)
    broken = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        expected = Path(os.path.realpath(path)).name
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", expected):
            expected = listed.get(name, "")
        if not expected or _digest(path, expected) != expected:
            broken.append(name)
    return broken


def _digest(path: Path, like: str) -> str:
    try:
        with path.open("rb") as stream:
            if len(like) == 64:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            size = os.fstat(stream.fileno()).st_size
            found = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)  # the id git gives a file
            while piece := stream.read(1 << 20):
                found.update(piece)
            return found.hexdigest()
    except OSError:
        return ""


def _tree_listing(folder: Path) -> dict[str, str]:
    """path → sha256 or git blob id, out of the tree listing the library keeps beside its snapshots."""
    try:
        listing = json.loads((folder.parent.parent / "trees" / f"{folder.name}.json").read_bytes())
    except (OSError, ValueError):
        return {}
    files = listing.get("files", listing) if isinstance(listing, dict) else listing
    rows = files.items() if isinstance(files, dict) else ((row.get("path"), row) for row in files)
    found = {}
    for path, row in rows:
        if isinstance(row, dict) and isinstance(path, str):
            mark = row.get("lfs_sha256") or row.get("blob_id")
            if isinstance(mark, str):
                found[path] = mark
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Errors of `huggingface_hub` as ours."""
    from huggingface_hub import errors

    try:
        yield
    except AdapterHubError:
        raise
    except errors.GatedRepoError as error:
        raise AuthenticationError(
            f"{what} on the Hugging Face hub is gated.", hint="Ask for access on its page, then: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise AdapterNotFoundError(
            f"{what} does not exist on the Hugging Face hub, or is private.",
            hint="Check the spelling; for a private one: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise VersionNotFoundError(f"{what} has no such revision.", hint="Give a branch, a tag or a commit.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if _unreachable(error):
            raise HubConnectionError(
                "The Hugging Face hub does not answer, and it is not in its cache.", hint="Try again later."
            ) from error
        raise OfflineError(
            f"Offline mode is on, and {what} is not in the Hugging Face cache.", hint="Download it once while online."
        ) from error
    except errors.HFValidationError as error:
        raise InvalidReferenceError(f"{what!r} is no repository: {error}.") from error
    except errors.HfHubHTTPError as error:
        raise HubConnectionError(f"The Hugging Face hub refused {what}: {str(error).splitlines()[0]}.") from error
    except OSError as error:
        raise HubConnectionError(
            f"The Hugging Face hub cannot be reached: {error}.", hint="Try again later."
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "httpx2", "httpcore2", "requests"):
            raise HubConnectionError(
                f"The Hugging Face hub cannot be reached: {error}.", hint="Try again later."
            ) from error
        raise


def _unreachable(error: BaseException) -> bool:
    return "offline" not in str(error).lower() and error.__cause__ is not None
