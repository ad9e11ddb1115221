"""Where things are, for the tests of the packages together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of shared test data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ADAPTERHUB_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "DATA.md").is_file():
        pytest.skip(f"no test data at {folder}: set ADAPTERHUB_TEST_DATA")
    return folder
