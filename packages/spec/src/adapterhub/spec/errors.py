"""Every error AdapterHub raises on purpose, in one hierarchy.

    AdapterHubError
    ├── InvalidReferenceError      (ValueError)       the text is no reference
    ├── InvalidConfigError         (ValueError)       an adapter, fusion, head or composition config that makes no sense
    ├── InvalidManifestError       (ValueError)       a manifest or index line that breaks the schema
    ├── ValidationFailedError      (ValueError)       a folder or file with problems; `.problems` lists all of them
    ├── AdapterNotFoundError       (LookupError)      nothing of that name, or nothing visible
    ├── VersionNotFoundError       (LookupError)      the adapter exists, that version does not
    ├── AmbiguousAdapterError      (LookupError)      several adapters fit; `.candidates` lists them
    ├── ModelMismatchError         (ValueError)       the adapter was made for another base model
    ├── UnsupportedModelError      (ValueError)       no family file fits this transformer
    ├── CheckpointError            (ValueError)       weights that do not fit the adapter they claim to be
    ├── IntegrityError             (OSError)          bytes that do not hash to their digest
    ├── OfflineError               (ConnectionError)  the network is needed and switched off
    ├── HubConnectionError         (ConnectionError)  the hub did not answer, or answered with a failure
    ├── AuthenticationError        (PermissionError)  no token, a wrong one, or one without the right scope
    ├── PublishError               (RuntimeError)     the hub refused a publish
    │   └── VersionExistsError                        names are never reused
    ├── QuotaExceededError         (RuntimeError)     a limit of the hub; the message names it
    ├── StorageError               (OSError)          a full or unwritable disk
    └── PolicyError                (RuntimeError)     yanked, quarantined, pinned elsewhere

Each error carries a stable `code` (also the `code` of the hub's problem+json answers), a `hint` (what to do next),
`candidates` and `suggestions`. The exit codes of the command line are in `EXIT_CODES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

__all__ = [
    "EXIT_CODES",
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
    "error_from_problem",
    "exit_code",
]


class AdapterHubError(Exception):
    """Base of all. `str(error)` is the message with the hint behind it; `error.message` is the message alone.

    Args:
        message: what is wrong, and where.
        hint: what to do next; a sentence, or empty.
        candidates: what would have fitted: `{"id": "task/subtask@ns", "adapter": "@ns/name"}`, or versions.
        suggestions: close names, for typing errors.
        details: anything else worth keeping, JSON types only; also sent in the hub's answers.
    """

    code: ClassVar[str] = "Error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        candidates: Iterable[Any] = (),
        suggestions: Iterable[str] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.candidates = list(candidates)
        self.suggestions = list(suggestions)
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)

    def to_problem(self) -> dict[str, Any]:
        """The error as the members of an RFC 9457 problem document."""
        return {
            "type": f"urn:adapterhub:problem:{self.code}",
            "title": _title(self.code),
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "hint": self.hint,
            "candidates": self.candidates,
            "suggestions": self.suggestions,
            **self.details,
        }


class InvalidReferenceError(AdapterHubError, ValueError):
    """The text does not match the reference grammar as a whole."""

    code = "InvalidReference"
    status = 400


class InvalidConfigError(AdapterHubError, ValueError):
    """A config, composition or preset string that is unknown or makes no sense."""

    code = "InvalidConfig"
    status = 422


class InvalidManifestError(AdapterHubError, ValueError):
    """A manifest or an index line that does not follow its schema."""

    code = "InvalidManifest"
    status = 422


class ValidationFailedError(AdapterHubError, ValueError):
    """A folder or file with problems. `problems` holds every one, in the order found."""

    code = "ValidationFailed"
    status = 422

    def __init__(self, message: str, *, problems: Iterable[Any] = (), **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.problems = list(problems)


class AdapterNotFoundError(AdapterHubError, LookupError):
    """Nothing of that name for that model. `models` lists models that do have it."""

    code = "NotFound"
    status = 404

    @property
    def models(self) -> list[str]:
        """Other base models for which the same reference finds something; also in `details`."""
        return list(self.details.get("models") or ())


class VersionNotFoundError(AdapterHubError, LookupError):
    """The adapter exists but not in that version; `candidates` lists the versions there are."""

    code = "VersionNotFound"
    status = 404


class AmbiguousAdapterError(AdapterHubError, LookupError):
    """More than one adapter fits; `candidates` lists every one as a full reference to copy."""

    code = "Ambiguous"
    status = 409


class ModelMismatchError(AdapterHubError, ValueError):
    """The adapter addressed was made for another base model, `adapter_model`."""

    code = "ModelMismatch"
    status = 409

    @property
    def adapter_model(self) -> str | None:
        """The base model the adapter was made for; also in `details`."""
        return self.details.get("adapter_model")


class UnsupportedModelError(AdapterHubError, ValueError):
    """The adaptable places of this transformer are unknown, or failed the identity check."""

    code = "UnsupportedModel"
    status = 422


class CheckpointError(AdapterHubError, ValueError):
    """Weights that are missing, left over, or of the wrong shape for the adapter they claim to be."""

    code = "Checkpoint"
    status = 422


class IntegrityError(AdapterHubError, OSError):
    """Bytes that do not have the digest or size they were announced with."""

    code = "Integrity"
    status = 422


class OfflineError(AdapterHubError, ConnectionError):
    """Offline mode is on and what was asked for is not in the cache."""

    code = "Offline"
    status = 503


class HubConnectionError(AdapterHubError, ConnectionError):
    """The hub could not be reached, or failed while answering."""

    code = "HubConnection"
    status = 502


class AuthenticationError(AdapterHubError, PermissionError):
    """No token, an unknown or expired one, or one that lacks the scope asked for."""

    code = "Authentication"
    status = 401


class PublishError(AdapterHubError, RuntimeError):
    """The hub refused to publish."""

    code = "Publish"
    status = 409


class VersionExistsError(PublishError):
    """This name and version were published before with other content; names are never reused."""

    code = "VersionExists"


class QuotaExceededError(AdapterHubError, RuntimeError):
    """A size, count or rate limit of the hub was reached; the message names the limit."""

    code = "QuotaExceeded"
    status = 429


class StorageError(AdapterHubError, OSError):
    """A disk that is full or cannot be written; nothing half-written was left behind."""

    code = "Storage"
    status = 507


class PolicyError(AdapterHubError, RuntimeError):
    """Refused on purpose: yanked, quarantined, or a namespace pinned to another hub."""

    code = "Policy"
    status = 403


#: Exit codes of the command line, most specific class first.
EXIT_CODES: tuple[tuple[type[AdapterHubError], int], ...] = (
    (InvalidReferenceError, 2),
    (InvalidConfigError, 2),
    (AdapterNotFoundError, 3),
    (VersionNotFoundError, 3),
    (AmbiguousAdapterError, 4),
    (AuthenticationError, 5),
    (IntegrityError, 6),
    (OfflineError, 7),
    (HubConnectionError, 7),
    (ModelMismatchError, 8),
    (PolicyError, 8),
    (PublishError, 8),
    (QuotaExceededError, 8),
    (ValidationFailedError, 2),
    (AdapterHubError, 1),
)


def exit_code(error: AdapterHubError) -> int:
    """The exit code of the command line for `error`."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def error_from_problem(problem: Mapping[str, Any]) -> AdapterHubError:
    """The error a hub's problem document stands for; an unknown `code` gives `HubConnectionError`.

    Args:
        problem: a parsed RFC 9457 document, as `AdapterHubError.to_problem` writes it.
    """
    kind = _by_code().get(str(problem.get("code")), HubConnectionError)
    known = {"type", "title", "status", "detail", "code", "hint", "candidates", "suggestions", "problems"}
    error = kind(
        str(problem.get("detail") or problem.get("title") or "The hub reported a failure."),
        hint=str(problem.get("hint") or ""),
        candidates=_list_in(problem, "candidates"),
        suggestions=[word for word in _list_in(problem, "suggestions") if isinstance(word, str)],
        details={key: value for key, value in problem.items() if key not in known},
    )
    if isinstance(error, ValidationFailedError):
        error.problems = _list_in(problem, "problems")
    return error


def _list_in(problem: Mapping[str, Any], name: str) -> list[Any]:
    found = problem.get(name)
    return found if isinstance(found, list) else []


def _by_code() -> dict[str, type[AdapterHubError]]:
    found: dict[str, type[AdapterHubError]] = {}
    waiting: list[type[AdapterHubError]] = [AdapterHubError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting.extend(kind.__subclasses__())
    return found


def _title(code: str) -> str:
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in code).strip()
    return words[:1].upper() + words[1:]


def _rebuild(kind: type[AdapterHubError], message: str, state: dict[str, Any]) -> AdapterHubError:
    error = kind(message)
    error.__dict__.update(state)
    return error
