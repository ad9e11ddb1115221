"""The zip archives of the 2020 hub: checked byte by byte, unpacked flat into a folder, converted by another program.

The rules are those of `adapterhub.spec` for uploaded archives, with one exception that conversion needs: weights pickled by
old libraries may be in them under the names those libraries used. They are never read here. The converter is a process
of its own, without network and with limits, and only its result, which the hub checks like any upload, is kept.
"""

from __future__ import annotations

import os
import resource
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from adapterhub.spec.errors import IntegrityError, ValidationFailedError
from adapterhub.spec.validate import validate_path

__all__ = ["CONVERTER_SECONDS", "convert", "unpack"]

#: names under which old libraries pickled weights
PICKLED = frozenset(["pytorch_adapter.bin", "pytorch_model_head.bin", "pytorch_adapter_embeddings.bin"])
_SAFE_SUFFIXES = frozenset([".json", ".safetensors", ".md", ".txt"])
MAX_UNPACKED = 4 * 1024**3
CONVERTER_SECONDS = 600
_CONVERTER_FILE_BYTES = 4 * 1024**3


def unpack(archive: Path, target: Path) -> list[str]:
    """Unpack `archive` into the empty folder `target`, without its folders; returns the file names.

    Raises:
        ValidationFailedError: the archive breaks a rule; `problems` lists them.
        IntegrityError: an entry's bytes do not have its checksum or size.
    """
    problems = [
        problem for problem in validate_path(archive) if problem.severity == "error" and not _is_pickle(problem.file)
    ]
    if problems:
        raise ValidationFailedError(f"The archive is refused: {problems[0]}", problems=problems)
    names: list[str] = []
    total = 0
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            if entry.is_dir():
                continue
            name = PurePosixPath(entry.filename).name
            if name in names:
                raise ValidationFailedError(f"The archive is refused: two entries are named {name}.")
            if name not in PICKLED and PurePosixPath(name).suffix not in _SAFE_SUFFIXES:
                raise ValidationFailedError(f"The archive is refused: {name} is of no known kind.")
            total += entry.file_size
            if total > MAX_UNPACKED:
                raise ValidationFailedError(f"The archive is refused: it holds more than {MAX_UNPACKED:,} bytes.")
            names.append(name)
            _copy(opened, entry, target / name)
    return names


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name or "").name in PICKLED


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    left = entry.file_size
    try:
        with opened.open(entry) as source, path.open("xb") as file:
            while piece := source.read(1 << 20):
                left -= len(piece)
                if left < 0:
                    raise IntegrityError(f"{entry.filename} unpacks to more than the archive says.")
                file.write(piece)
    except zipfile.BadZipFile as error:
        raise IntegrityError(f"{entry.filename} in the archive is broken: {error}.") from None


def convert(command: Sequence[str], source: Path, target: Path, model: str | None) -> None:
    """Run `command SOURCE TARGET [--model MODEL]`, which writes a native adapter folder.

    Raises:
        ValidationFailedError: the converter is missing, failed, or took too long; the message ends with what it said.
    """
    full = [*command, str(source), str(target), *(["--model", model] if model else [])]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key in ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "SYSTEMROOT", "TMPDIR")
    }
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "ADAPTERHUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            full, cwd=target.parent, env=environment, capture_output=True, text=True, timeout=CONVERTER_SECONDS, check=False,
            stdin=subprocess.DEVNULL, preexec_fn=_limits,
        )  # fmt: skip
    except FileNotFoundError:
        raise ValidationFailedError(f"The converter {command[0]!r} is not there.") from None
    except subprocess.TimeoutExpired:
        raise ValidationFailedError(f"The converter took more than {CONVERTER_SECONDS} seconds.") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise ValidationFailedError(f"The converter failed: {' '.join(said[-2:])[:500] or f'status {done.returncode}'}")
    if not (target / "adapter_config.json").is_file():
        raise ValidationFailedError("The converter wrote no adapter.")


def _limits() -> None:
    """In the converter's process: bounded files and processor time, no core dumps."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_CONVERTER_FILE_BYTES, _CONVERTER_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CONVERTER_SECONDS, CONVERTER_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
