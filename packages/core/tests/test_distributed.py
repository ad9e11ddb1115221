"""Two processes train like one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packages.core.tests.distributed_training import losses, model_to_train


def test_two_processes_give_the_losses_of_one() -> None:
    expected = losses(model_to_train(), slice(0, 4))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "packages.core.tests.distributed_training", "ddp", "fsdp"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,  # against hanging, not for speed
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOSSES ")]
    assert lines, done.stderr[-3000:]
    found = json.loads(lines[0].removeprefix("LOSSES "))
    assert set(found) == {"ddp", "fsdp"}
    for kind in found:
        assert found[kind] == pytest.approx(expected, rel=1e-4), kind
    assert expected[-1] < expected[0]
