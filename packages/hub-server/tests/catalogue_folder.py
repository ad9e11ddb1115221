"""Where the real catalogue of 2020 is, for tests that use it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def test_data(name: str) -> Path:
    """A folder or file of the test data; the test is skipped where it is absent."""
    path = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or _DEFAULT) / name
    if not path.exists():
        pytest.skip(f"{name} is not at {path.parent}; set ADAPTERHUB_TEST_DATA")
    return path


test_data.__test__ = False  # type: ignore[attr-defined]
