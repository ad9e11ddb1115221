"""`adapterhub login --device` against a real hub: the command waits, somebody approves on the page, it is logged in."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.hub import Hub, command
from integration_tests.conftest import Cli


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub where programs need not wait between two questions."""
    folder = tmp_path_factory.mktemp("hub")
    hub = Hub(folder / "data", folder / "hub.log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERHUB_SERVER_DEVICE_POLL_SECONDS", "0.2")
        hub.start()
    try:
        yield hub
    finally:
        hub.stop()


@pytest.mark.parametrize("by", ["page", "administrator"])
def test_a_person_logs_a_terminal_in(hub: Hub, client: dict[str, str], cli: Cli, by: str) -> None:
    if by == "page":
        hub.administer("org", "create", "acme")
    own = hub.administer("token", "create", "--org", "acme", "--scope", "read", "--scope", "publish")
    line = [command("adapterhub"), "login", "--device"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=client) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        code = re.search(r"user_code=([A-Z]{4}-[A-Z]{4})", said)
        assert code, said
        if by == "page":
            page = httpx.get(f"{hub.endpoint}/device", params={"user_code": code[1]})
            assert "adapterhub on" in page.text
            form = {"user_code": code[1], "token": own, "answer": "approve"}
            assert httpx.post(f"{hub.endpoint}/device", data=form).status_code == 200
        else:
            hub.administer("token", "approve", code[1], "--org", "acme", "--scope", "read")
        rest = process.stderr.read()
        assert process.wait(60) == 0, rest
    assert "as acme" in rest
    kept = Path(client["ADAPTERHUB_HOME"]) / "tokens.json"
    assert own not in kept.read_text()
    about = json.loads(cli("whoami", "--json").stdout)
    assert about["organisation"] == "acme"
    assert about["scopes"] == (["read", "publish"] if by == "page" else ["read"])
    assert own not in hub.log.read_text() and "ahub_" not in hub.log.read_text()
