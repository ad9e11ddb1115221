"""A submission from push to publication at the command line: listed, looked at, approved or refused; and reported later."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from packages.spec.tests.folders import write_folder

from demo.hub import Hub
from integration_tests.conftest import Cli


@pytest.fixture(scope="module")
def tokens(hub: Hub) -> dict[str, str]:
    """Tokens of an organisation that wants review: an author's and a reviewer's."""
    hub.administer("org", "create", "acme")
    admin = hub.administer("token", "create", "--org", "acme", "--scope", "admin")
    headers = {"Authorization": f"Bearer {admin}"}
    httpx.patch(f"{hub.endpoint}/v1/organisations/acme", json={"review": True}, headers=headers).raise_for_status()
    author = hub.administer("token", "create", "--org", "acme", "--scope", "read", "--scope", "publish")
    reviewer = hub.administer("token", "create", "--org", "acme", "--scope", "read", "--scope", "review")
    return {"author": author, "reviewer": reviewer}


def test_a_submission_is_looked_at_and_approved_or_refused(tokens: dict[str, str], cli: Cli, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    author, reviewer = ({"ADAPTERHUB_TOKEN": tokens[who]} for who in ("author", "reviewer"))
    for version in ("1", "2"):
        line = ("push", str(folder), "sentiment/sst-2@acme", "--version", version, "--name", "mine")
        assert "Waits for review" in cli(*line, **author).stderr
    assert cli("resolve", "@acme/mine:1").returncode == 3
    waiting = json.loads(cli("review", "ls", "acme", "--json", **reviewer).stdout)
    assert [item["reference"] for item in waiting] == ["@acme/mine:1", "@acme/mine:2"]
    assert cli("review", "ls", "acme", **author).returncode == 5
    look = tmp_path / "look"
    assert cli("review", "pull", "@acme/mine:1", "--to", str(look), **reviewer).stdout.strip() == str(look)
    for path in folder.iterdir():
        assert (look / path.name).read_bytes() == path.read_bytes()
    again = cli("review", "pull", "@acme/mine:1", "--to", str(look), **reviewer)
    assert again.returncode != 0 and "exists already" in again.stderr
    assert cli("review", "approve", "@acme/mine:1", **author).returncode == 5
    assert cli("review", "approve", "@acme/mine:1", **reviewer).returncode == 0
    assert cli("review", "refuse", "@acme/mine:2", **reviewer).returncode == 2  # a reason is owed
    assert cli("review", "refuse", "@acme/mine:2", "--reason", "No licence.", **reviewer).returncode == 0
    assert cli("review", "approve", "@acme/mine", **reviewer).returncode == 2
    assert "Nothing waits" in cli("review", "ls", "acme", **reviewer).stderr
    assert cli("resolve", "@acme/mine:1").returncode == 0
    assert cli("resolve", "@acme/mine:2").returncode == 3
    told = cli("report", "@acme/mine:1", "It answers noise.", "--kind", "broken")
    assert told.returncode == 0 and "number 1" in told.stderr
    assert cli("report", "@acme/mine:1", "x", "--kind", "nonsense").returncode != 0
