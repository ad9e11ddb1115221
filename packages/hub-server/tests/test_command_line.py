"""The command `adapterhub-server` as an operator meets it: real processes, one clear line for every failure."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from adapter_folder import write_folder
from conftest import Stores
from hub import digest_of, publish

from adapterhub.server.settings import Settings

COMMAND = [sys.executable, "-m", "adapterhub.server.cli"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("ADAPTERHUB_")}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env={**env, **environment}, timeout=180)


@pytest.fixture
def stored(stores: Stores, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that puts a hub on the stores of this run."""
    with stores.passing():
        yield {f"ADAPTERHUB_SERVER_{name.upper()}": value for name, value in stores.make(tmp_path).items()}


@contextmanager
def served(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    line = [*COMMAND, "serve", "--port", "0", *words]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    lines: list[str] = []
    try:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (lines and "http://" in lines[0]):
            ready, _, _ = select.select([process.stderr], [], [], 1)
            if ready:
                lines.append(process.stderr.readline())
        url = re.search(r"http://\S+", lines[0])
        assert url, lines
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, url[0]
    finally:
        process.terminate()
        process.wait(120)


def test_from_an_empty_folder_to_a_published_adapter_while_the_hub_runs(stored: dict[str, str], tmp_path: Path) -> None:
    data = str(tmp_path / "hub")
    with served("--data", data, **stored) as (process, url):
        assert run("org", "create", "demo", "--data", data, **stored).returncode == 0
        made = run("token", "create", "--org", "demo", "--data", data, **stored)
        assert re.fullmatch(r"ahub_[0-9A-Za-z]{40}\n", made.stdout)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {made.stdout.strip()}"}) as client:
            answer = publish(client, write_folder(tmp_path / "a"))
            assert answer.status_code == 201
            assert client.get(answer.json()["page"]).status_code == 200
        assert json.loads(run("org", "list", "--json", "--data", data, **stored).stdout)[0]["adapters"] == 1
        listed = json.loads(run("token", "list", "--json", "--data", data, **stored).stdout)
        assert run("token", "revoke", str(listed[0]["id"]), "--data", data, **stored).returncode == 0
        assert (
            httpx.get(f"{url}/v1/whoami", headers={"Authorization": f"Bearer {made.stdout.strip()}"}).status_code == 401
        )
        assert run("backup", str(tmp_path / "backup"), "--data", data, **stored).returncode == 0
    assert process.returncode == 0
    assert run("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "again")).returncode == 0
    assert run("verify", "--data", str(tmp_path / "again")).returncode == 0
    [blob, *_] = (tmp_path / "again" / "blobs" / "blobs" / "sha256").glob("*/*")
    blob.write_bytes(b"damaged")
    damaged = run("verify", "--data", str(tmp_path / "again"))
    assert damaged.returncode == 6
    assert blob.name in damaged.stdout


def test_what_cannot_work_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    data = str(tmp_path / "hub")
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        failures = {
            "Cannot listen": run("serve", "--data", data, "--port", port),
            "cannot be used": run("serve", "--data", str(tmp_path / "file" / "x")),
            "neither": run("org", "list", "--data", data, "--database-url", "oracle://x"),
            "no organisation": run("token", "create", "--org", "nobody", "--data", data),
            "no name": run("org", "create", "a/b", "--data", data),
            "no duration": run("token", "create", "--hub", "--expires", "soon", "--data", data),
            "is not int": run("org", "list", "--data", data, ADAPTERHUB_SERVER_MAX_FILE_BYTES="many"),
            "is none of": run("serve", "--data", data, "--log-level", "loud"),
            "no address": run("serve", "--data", data, ADAPTERHUB_SERVER_UPSTREAM="hub.example"),
        }
    for text, process in failures.items():
        assert process.returncode not in (0, None), text
        assert process.stdout == ""
        assert "Traceback" not in process.stderr, process.stderr
        lines = process.stderr.strip().splitlines()
        assert len(lines) == 1, process.stderr
        assert text in lines[0] or text == "neither"


def test_a_stop_signal_lets_an_upload_finish_and_nothing_secret_is_logged(
    stored: dict[str, str], tmp_path: Path
) -> None:
    data = str(tmp_path / "hub")
    run("org", "create", "demo", "--data", data, **stored)
    token = run("token", "create", "--org", "demo", "--data", data, **stored).stdout.strip()
    body = os.urandom(2_000_000)
    line = [*COMMAND, "serve", "--port", "0", "--data", data]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, **stored})
    assert process.stderr is not None
    url = re.search(r"http://\S+", process.stderr.readline())
    assert url
    httpx.get(f"{url[0]}/healthz").raise_for_status()
    answers: list[httpx.Response] = []

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]
            if at == 1_000_000:
                process.send_signal(signal.SIGTERM)
            time.sleep(0.05)

    def send() -> None:
        headers = {"Authorization": f"Bearer {token}", "X-Api-Key": token}
        params = {"digest": digest_of(body), "note": token}
        answers.append(
            httpx.post(f"{url[0]}/v1/uploads", params=params, content=slowly(), headers=headers, timeout=180)
        )

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(180)
    log = process.communicate(timeout=180)[1]
    assert answers[0].status_code == 201
    assert process.returncode == 0
    assert token[5:] not in log
    assert '"status": 201' in log


def test_a_stop_signal_ends_a_hub_that_is_still_starting_even_where_exceptions_are_swallowed(tmp_path: Path) -> None:
    code = """
import signal, sys
from pathlib import Path
from adapterhub.server import serving
from adapterhub.server.settings import Settings

class Swallowing:
    def __del__(self):  # swallows exceptions, as Python's compiler does
        signal.raise_signal(signal.SIGTERM)

def open_storage(settings):
    Swallowing()
    print("went on")
    raise OSError

serving.open_storage = open_storage
serving.run(Settings(data=Path(sys.argv[1])), host="127.0.0.1", port=0)
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_two_workers_share_everything(stored: dict[str, str], tmp_path: Path) -> None:
    data = str(tmp_path / "hub")
    run("org", "create", "demo", "--data", data, **stored)
    token = run("token", "create", "--org", "demo", "--data", data, **stored).stdout.strip()
    with (
        served("--data", data, "--workers", "2", **stored) as (_, url),
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        client.headers["Authorization"] = f"Bearer {token}"
        for version in range(5):
            folder = write_folder(tmp_path / str(version), seed=version)
            assert publish(client, folder, version=str(version), name="a").status_code == 201
            for _ in range(4):
                found = httpx.get(f"{url}/v1/resolve", params={"ref": "@demo/a"}).json()
                assert found["version"] == str(version)
        time.sleep(0.2)
        metrics = client.get("/metrics").text
        assert 'adapterhub_publishes_total{result="created"} 5.0' in metrics


def test_every_setting_comes_from_the_environment_too_and_a_slip_of_the_pen_is_told(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("ADAPTERHUB_")}
    settings = {"DATA": str(tmp_path / "hub"), "HOST": "127.0.0.1", "PORT": "0", "WORKERS": "1", "RATE_LIMIT": "5"}
    env |= {f"ADAPTERHUB_SERVER_{name}": value for name, value in settings.items()}
    process = subprocess.Popen([*COMMAND, "serve"], stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    try:
        first, second = process.stderr.readline(), process.stderr.readline()
        assert "ADAPTERHUB_SERVER_RATE_LIMIT is no setting" in first
        assert re.search(r"http://127\.0\.0\.1:\d+ ", second) and ":8080" not in second
    finally:
        process.terminate()
        process.communicate(timeout=120)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_PER_MINUTE", "-1"),
        ("MAX_FILE_BYTES", "0"),
        ("DELETE_HOURS", "nan"),
        ("UPLOAD_HOURS", "inf"),
        ("TRUST_PROXY", "maybe"),
        ("LOG_FORMAT", "xml"),
        ("PUBLIC_URL", "//hub.example"),
        ("UPSTREAM", "https://[x"),
        ("SMTP_URL", "http://user:password@mail.example"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        Settings.read({f"ADAPTERHUB_SERVER_{name}": value})
    assert "password" not in str(caught.value)
