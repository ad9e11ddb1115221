"""The four packages share one namespace and only point down to spec."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_no_package_owns_the_namespace(repository: Path) -> None:
    assert not [str(p) for p in (repository / "packages").glob("*/src/adapterhub/__init__.py")]


def test_every_package_is_typed(repository: Path) -> None:
    for package in ("spec", "core", "client", "server"):
        assert list((repository / "packages").glob(f"*/src/adapterhub/{package}/py.typed")), package


def test_the_import_contracts_hold(repository: Path) -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [4-9] kept, 0 broken", done.stdout), done.stdout
