"""Checks of a submission against the bytes it names: the client's own validator, run over what the hub really has."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from adapterhub.server.storage.blobs import BlobStore
from adapterhub.spec.canonical import canonical_json
from adapterhub.spec.manifest import FileRecord, Manifest
from adapterhub.spec.safetensors_header import MAX_HEADER_BYTES, read_header
from adapterhub.spec.validation.adapter_folder import (
    ALLOWED_SUFFIXES,
    HEAD_CONFIG_FILE,
    folder_problems,
    head_problems as read_head,
    read_record,
)
from adapterhub.spec.validation.problem import Problem, has_errors

__all__ = ["content_problems", "file_problems", "readme_of"]

_MAX_TEXT = 1024 * 1024
_FEW_FILES = 8
#: the layout holds texts and headers only, so memory will do, if there is a file system in it and they are few
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None


def file_problems(files: Iterable[FileRecord]) -> list[Problem]:
    """Files of kinds the hub does not keep."""
    return [
        Problem(
            f"/files/{number}/path",
            f"{record.path}: files of this kind are not kept",
            f"Allowed: {', '.join(ALLOWED_SUFFIXES)}.",
        )
        for number, record in enumerate(files)
        if PurePosixPath(record.path).suffix not in ALLOWED_SUFFIXES
    ]


def content_problems(blobs: BlobStore, manifest: Manifest) -> list[Problem]:
    """What is wrong with the files of a manifest, and between them and the manifest. All blobs must be there.

    The folder is laid out as it will reach a user, with the weights as holes behind their true headers: every rule of
    the folder validator holds for it, and at most a header is read of any file however large.
    """
    texts = sum(record.size for record in manifest.files if not record.path.endswith(".safetensors"))
    small = len(manifest.files) <= _FEW_FILES and texts <= 8 * _MAX_TEXT
    with tempfile.TemporaryDirectory(prefix="adapterhub-check-", dir=_MEMORY if small else None) as place:
        folder = Path(place)
        for record in manifest.files:
            _lay_out(blobs, record, folder)
        problems = folder_problems(folder)
        if not has_errors(problems):
            problems += _differences(folder, manifest)
    return [problem for problem in problems if problem.severity == "error"]


def readme_of(blobs: BlobStore, manifest: Manifest) -> str:
    """The adapter's card: its README.md, or nothing."""
    for record in manifest.files:
        if record.path.lower() == "readme.md" and record.size <= _MAX_TEXT:
            return blobs.read(record.digest).decode("utf-8", "replace")
    return ""


def _lay_out(blobs: BlobStore, record: FileRecord, folder: Path) -> None:
    path = folder / record.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        if not record.path.endswith(".safetensors"):
            if record.size:
                file.write(blobs.read(record.digest, 0, min(record.size, 2 * _MAX_TEXT)))
        elif record.size:
            start = blobs.read(record.digest, 0, min(8, record.size))
            length = int.from_bytes(start, "little")
            if len(start) == 8 and length <= min(MAX_HEADER_BYTES, record.size - 8):
                start = blobs.read(record.digest, 0, 8 + length)
            file.write(start)
        file.truncate(record.size)


def _differences(folder: Path, manifest: Manifest) -> list[Problem]:
    problems: list[Problem] = []
    record = read_record(folder)
    if canonical_json(record.config) != canonical_json(manifest.config):
        problems.append(Problem("/config", "is not the config in adapter_config.json"))
    if record.type != manifest.type:
        problems.append(Problem("/type", f"is {manifest.type}, adapter_config.json says {record.type}"))
    listed = {(tensor.file, tensor.name): (tensor.dtype, tuple(tensor.shape)) for tensor in manifest.tensors}
    found = {
        (file.path, tensor.name): (tensor.dtype, tuple(tensor.shape))
        for file in manifest.files
        if file.path.endswith(".safetensors")
        for tensor in read_header(folder / file.path).tensors
    }
    if listed != found:
        odd = sorted({key for key in {*listed, *found} if listed.get(key) != found.get(key)})[0]
        problems.append(
            Problem(
                "/tensors",
                f"differs from the headers of the files, for example at {odd[1]} in {odd[0]}",
                "Build the manifest anew.",
            )
        )
    head_path = folder / HEAD_CONFIG_FILE
    head = None
    if head_path.is_file():
        _, parsed = read_head(head_path.read_bytes())
        head = parsed.expand() if parsed is not None else None
    if canonical_json(head) != canonical_json(manifest.head):
        problems.append(Problem("/head", f"is not the head in {HEAD_CONFIG_FILE}"))
    return problems
