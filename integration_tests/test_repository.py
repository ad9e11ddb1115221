"""The frame of the repository: workflows, commands, change logs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDERS = {"spec": "spec", "core": "core", "client": "hub-client", "server": "hub-server"}


def _workflow(repository: Path, name: str) -> dict[str, Any]:
    document = yaml.safe_load((repository / ".github" / "workflows" / name).read_text())
    document["on"] = document.pop(True, document.get("on"))  # YAML 1.1 reads `on` as a boolean
    return dict(document)


def _workflows(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_is_released_by_its_own_tag(package: str, repository: Path) -> None:
    workflow = _workflow(repository, f"release-{package}.yml")
    assert workflow["on"] == {"push": {"tags": [f"{package}-v*"]}}
    folders = {s["working-directory"] for s in workflow["jobs"]["build"]["steps"] if "working-directory" in s}
    assert folders == {f"packages/{FOLDERS[package]}"}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_workflows_ask_for_no_more_than_they_need(repository: Path) -> None:
    for name in _workflows(repository):
        workflow = _workflow(repository, name)
        assert workflow["permissions"] == {"contents": "read"}, name
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 90
            for step in job["steps"]:
                assert "${{" not in step.get("run", ""), (
                    f"{name}: nothing is put into a script, only into its environment"
                )


def test_actions_of_others_are_pinned_to_a_commit(repository: Path) -> None:
    for name in _workflows(repository):
        for job in _workflow(repository, name)["jobs"].values():
            for step in job["steps"]:
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", "x@" + "0" * 40)), (name, step)


def test_tests_run_on_the_lowest_and_newest_versions(repository: Path) -> None:
    matrix = _workflow(repository, "test.yml")["jobs"]["test"]["strategy"]["matrix"]
    classifiers = (repository / "packages" / "core" / "pyproject.toml").read_text()
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", classifiers)
    (lowest,) = re.findall(r'"transformers>=([\d.]+),<6"', classifiers)
    assert {row["requirement"] for row in matrix["include"]} == {f"transformers=={lowest}", "transformers>=5,<6"}


def test_make_says_what_it_can_do(repository: Path) -> None:
    said = subprocess.run(["make", "-s"], cwd=repository, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "test-postgresql", "lint", "docs", "bench", "clean"):
        assert f"make {target}" in said


def test_continuous_integration_runs_the_test_command_of_the_readme(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text() and "make test" in (repository / "README.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_a_package_says_what_it_is_and_what_changed(folder: str, repository: Path) -> None:
    package = repository / "packages" / folder
    [about] = package.glob("src/adapterhub/*/__about__.py")
    version = re.search(r'__version__ = "([^"]+)"', about.read_text())
    assert version is not None
    assert version[1] in (package / "CHANGELOG.md").read_text()
    assert len((package / "README.md").read_text()) > 500
