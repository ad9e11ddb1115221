"""A second implementation, in JavaScript and without Python, passes every conformance vector."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "conformance_js"
SPEC = Path(__file__).parents[1] / "spec"


@pytest.fixture(scope="module")
def program() -> Path:
    """The program with its dependencies installed beside a copy, which later runs use again."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed: the second implementation is not run")
    major = int(
        subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0]
    )
    if major < 20:
        pytest.skip(f"Node.js {major} is too old: the second implementation needs 20")
    key = hashlib.sha256((PROGRAM / "package.json").read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"adapterhub-conformance-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(PROGRAM / "package.json", folder / "package.json")
    if not (folder / "node_modules" / "ajv-formats" / "package.json").is_file():
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if installed.returncode != 0:
            pytest.skip(f"the package registry is out of reach: {installed.stderr.strip()[-200:]}")
    for file in PROGRAM.glob("*.mjs"):
        shutil.copyfile(file, folder / file.name)
    return folder


def test_the_second_implementation_passes_every_vector(program: Path) -> None:
    command = ["node", "run.mjs", "--json", "--spec", str(SPEC)]
    finished = subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=120)
    report: dict[str, Any] = json.loads(finished.stdout)
    failed = {name: group["failed"] for name, group in report["groups"].items() if group["failed"]}
    assert failed == {} and finished.returncode == 0, failed
    passed = {name: group["passed"] for name, group in report["groups"].items()}
    for name in (
        "canonical JSON",
        "config ids",
        "references",
        "resolution",
        "index lines",
        "schema preset",
        "numerics bottleneck",
    ):
        assert passed[name] >= 10, passed


def test_a_wrong_vector_makes_it_fail(program: Path, tmp_path: Path) -> None:
    """The program can fail: it is given vectors with one wrong expectation of each kind."""
    spec = tmp_path / "spec"
    shutil.copytree(SPEC, spec)
    for path, old, new in [
        ("conformance/references/references.json", '"key": "sst-2"', '"key": "sst_2"'),
        ("conformance/resolution/cases.json", '"decided_by": "default"', '"decided_by": "unique"'),
        ("conformance/canonical/canonical.json", '"canonical": "3.5"', '"canonical": "3.50"'),
        ("conformance/numerics/bottleneck.json", '"original_ln_after": true', '"original_ln_after": false'),
    ]:
        text = (spec / path).read_text()
        assert old in text
        (spec / path).write_text(text.replace(old, new))
    finished = subprocess.run(
        ["node", "run.mjs", "--json", "--spec", str(spec)], cwd=program, capture_output=True, text=True, timeout=120
    )
    failed = {name for name, group in json.loads(finished.stdout)["groups"].items() if group["failed"]}
    assert finished.returncode == 1
    assert {"folded keys", "resolution", "canonical JSON", "numerics bottleneck"} <= failed
