"""Well-formed and hostile files get the right verdict, within bounded memory, and nothing in them ever runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapterhub.spec import validate_path

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
HOSTILE = DATA / "hostile"
CASES: list[dict[str, Any]] = (
    json.loads((HOSTILE / "manifest.json").read_text()) if (HOSTILE / "manifest.json").is_file() else []
)

pytestmark = pytest.mark.skipif(not CASES, reason="the hostile files are not at hand (ADAPTERHUB_TEST_DATA)")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_every_file_gets_its_verdict(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    monkeypatch.setenv("PICKLE_MARKER", str(marker))
    problems = validate_path(HOSTILE / case["file"])
    assert bool(problems) == (case["verdict"] == "reject"), (case["why"], [str(problem) for problem in problems])
    assert all(problem.message and problem.severity == "error" for problem in problems)
    assert not marker.exists()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.get("value") and case["verdict"] == "accept"], ids=lambda case: case["file"]
)
def test_text_is_kept_as_it_was_written(case: dict[str, Any]) -> None:
    from adapterhub.spec.validation.strict_json import read_json
    from adapterhub.spec.validation.strict_yaml import read_yaml

    data = (HOSTILE / case["file"]).read_bytes()
    value = read_json(data, max_bytes=10**6) if case["kind"] == "json" else read_yaml(data, max_bytes=10**6)[0]
    assert {key: value[key] for key in case["value"]} == case["value"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
def test_all_files_together_stay_within_a_hundred_megabytes() -> None:
    program = """
import json, re, sys
from pathlib import Path
from adapterhub.spec import validate_path
folder = Path(sys.argv[1])
for case in json.loads((folder / "manifest.json").read_text()):
    validate_path(folder / case["file"])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(HOSTILE)], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(done.stdout) < 100


def test_the_real_catalogue_has_exactly_the_two_records_that_need_repair() -> None:
    files = [path for path in (DATA / "hub-catalogue").glob("*/**/*.y*ml") if path.is_file()]
    wrong = {path.name: [problem.pointer for problem in validate_path(path)] for path in files}
    assert len(files) > 600
    assert {name: pointers for name, pointers in wrong.items() if pointers} == {
        "text-classification.yml": ["/task"],  # a stray quote behind the id
        "qa_boolq.yaml": ["/url"],  # a blank before the address
    }
    assert {problem.file for problem in validate_path(DATA / "hub-catalogue")} == {
        "tasks/text_task/text-classification.yml",
        "subtasks/text_task/qa_boolq.yaml",
    }
