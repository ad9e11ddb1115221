"""One thing that is wrong with a file, where it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

__all__ = ["Problem", "has_errors"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of the validator.

    Attributes:
        pointer: RFC 6901 JSON pointer into the document, `""` for the file as a whole.
        message: what is wrong.
        hint: what to do about it, or `""`.
        severity: `error` refuses the file; `warning` does not.
        file: path of the file within what was validated, `""` for the thing itself.
        line: line of the text the pointer points at, counted from 1, where known.
    """

    pointer: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"
    file: str = ""
    line: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The problem as the JSON object of schema `problem`; what is unknown is left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "") or key == "pointer"}

    def within(self, file: str) -> Problem:
        """The same problem, seen from a folder or archive in which it is in `file`."""
        return replace(self, file=f"{file}/{self.file}" if self.file else file)

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part not in ("", None))
        where = " ".join(part for part in (place, self.pointer) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} {self.hint}".strip()


def has_errors(problems: Iterable[Problem]) -> bool:
    """Whether any of `problems` refuses the file."""
    return any(problem.severity == "error" for problem in problems)
