"""`POST /v1/validate`: the validator of the spec, run over what is sent, in a folder that is deleted afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from adapterhub.server.settings import Settings
from adapterhub.spec.errors import QuotaExceededError, ValidationFailedError
from adapterhub.spec.validation.path_names import name_problem
from adapterhub.spec.validation.problem import Problem

__all__ = ["AT_ONCE", "one_of_few", "validate_parts"]

#: validations one process does at a time: each holds its files on the disk
AT_ONCE = 16
_MAX_FILES = 300
#: seconds in which the files have to be here
_PATIENCE = 600.0


@contextlib.contextmanager
def one_of_few(places: threading.Semaphore) -> Iterator[None]:
    """Take one of the places, for as long as the block lasts.

    Raises:
        QuotaExceededError: none is free (status 429).
    """
    if not places.acquire(blocking=False):
        error = QuotaExceededError(
            "The hub is validating as much as it can just now.",
            hint="Try again in a moment, or validate on your own machine: adapterhub validate FOLDER",
        )
        error.headers = {"Retry-After": "2"}  # type: ignore[attr-defined]
        raise error
    try:
        yield
    finally:
        places.release()


async def validate_parts(request: Request, settings: Settings) -> list[dict[str, Any]]:
    """The problems of the uploaded files; empty when there are none.

    Raises:
        ValidationFailedError: the body is no multipart form with files.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise ValidationFailedError(
            "Send the files as multipart/form-data.", hint="One part per file, its filename the path."
        )
    with tempfile.TemporaryDirectory(prefix="adapterhub-validate-") as place:
        root = Path(place)
        problems: list[Problem] = []
        placed: list[Path] = []
        try:
            async with asyncio.timeout(_PATIENCE), request.form(max_files=_MAX_FILES, max_fields=20) as form:
                parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
                for part in parts:
                    problem, path = await run_in_threadpool(_place, root, part)
                    problems += [problem] if problem else []
                    placed += [path] if path else []
        except MultiPartException as error:
            raise ValidationFailedError(f"The form cannot be read: {error.message}.") from error
        except TimeoutError:
            raise HTTPException(408, f"The files took longer than {_PATIENCE:.0f} seconds.") from None
        except ClientDisconnect:
            raise QuotaExceededError("The upload was broken off.") from None
        if not parts:
            raise ValidationFailedError(
                "There are no files in the form.", hint="One part per file, its filename the path."
            )
        if placed:
            target = placed[0] if len(parts) == 1 and placed[0].parent == root else _common_folder(root)
            problems += await run_in_threadpool(_validate, target)
        return [problem.to_json() for problem in problems]


def _common_folder(root: Path) -> Path:
    """The folder all files are in: browsers send `folder/file`."""
    inside = list(root.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else root


def _validate(target: Path) -> list[Problem]:
    from adapterhub.spec.validate import validate_path

    return list(validate_path(target))


def _place(root: Path, part: UploadFile) -> tuple[Problem | None, Path | None]:
    """Write one part below `root`, unless its name would leave it."""
    name = part.filename or ""
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    steps = name.split("/")
    if not name or len(name) > 1024 or len(steps) > 8:
        return Problem("", f"{shown!r} is no name for a file", file=shown), None
    for step in steps:
        wrong = name_problem(step)
        if wrong:
            return Problem("", f"the name {wrong}", file=shown), None
    path = root.joinpath(*steps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while piece := part.file.read(1024 * 1024):
                file.write(piece)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return Problem("", "two files have the same path", file=shown), None
    return None, path
