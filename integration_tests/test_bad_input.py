"""Bad input, end to end through the commands: a clear error that says what to do, and nothing half-done left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import adapterhub.core as ah
from adapterhub.spec.errors import InvalidConfigError
from demo.hub import Hub, command
from integration_tests.conftest import Cli

MODEL = "bert-base-uncased"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """A saved, untrained adapter."""
    target = tmp_path_factory.mktemp("saved") / "snippets"
    model = _stock(tiny_models)
    ah.init(model, model_name=MODEL)
    model.add_adapter("snippets", config="pfeiffer[reduction_factor=2]")
    model.save_adapter(target, "snippets")
    return target


@pytest.fixture(scope="module")
def token(hub: Hub) -> str:
    """A token of the organisation `acme`."""
    hub.administer("org", "create", "acme")
    return hub.administer("token", "create", "--org", "acme")


@pytest.fixture(scope="module")
def published(hub: Hub, token: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference that is on the hub."""
    home = tmp_path_factory.mktemp("publisher")
    environment = {**os.environ, "ADAPTERHUB_HOME": str(home), "ADAPTERHUB_CACHE": str(home / "cache")}
    environment |= {"ADAPTERHUB_ENDPOINT": hub.endpoint, "ADAPTERHUB_TOKEN": token}
    line = [command("adapterhub"), "push", str(folder), "sentiment/snippets@acme", "--version", "1.0"]
    subprocess.run(line, env=environment, check=True, capture_output=True)
    return "sentiment/snippets@acme"


def _stock(models: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(models / MODEL, num_labels=2)


def _refused(done: subprocess.CompletedProcess[str], status: int, *says: str) -> None:
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == "", "data goes to stdout, errors to stderr"
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr, (text, done.stderr)


def _everything_in(cache: Path) -> list[str]:
    """Files of the cache that could be taken for an adapter's: weights, or files of a snapshot."""
    return [str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and p.suffix == ".safetensors"]


def _published(hub: Hub) -> int:
    with urllib.request.urlopen(f"{hub.endpoint}/v1/adapters") as response:
        return int(json.load(response)["total"])


def test_an_unknown_preset_names_the_known_ones(tiny_models: Path) -> None:
    model = _stock(tiny_models)
    ah.init(model, model_name=MODEL)
    with pytest.raises(InvalidConfigError) as caught:
        model.add_adapter("x", config="pfeifer")
    assert "pfeiffer" in str(caught.value) + " ".join(caught.value.suggestions)
    assert "x" not in str(model.active_adapters)


def test_an_unknown_preset_on_the_command_line_writes_nothing(tiny_models: Path, tmp_path: Path, cli: Cli) -> None:
    data, output = tmp_path / "reviews.csv", tmp_path / "out"
    data.write_text("text,label\na warm film,good\na dull film,bad\n")
    model = str(tiny_models / MODEL)
    _refused(cli("train", model, str(data), "--output", str(output), "--config", "pfeifer"), 2, "pfeifer", "pfeiffer")
    assert not output.exists() or not list(output.iterdir())


def test_an_unknown_name_is_not_found_and_suggests(published: str, cli: Cli) -> None:
    _refused(cli("pull", "sentiment/snipets", "--model", MODEL), 3, "sentiment/snipets", published)


def test_another_model_is_refused(published: str, cli: Cli, tmp_path: Path) -> None:
    found = cli("resolve", published, "--model", MODEL, "--json")
    answer = json.loads(found.stdout)
    direct = f"@{answer['namespace']}/{answer['name']}"
    _refused(cli("pull", direct, "--model", "roberta-base"), 8, MODEL, "roberta-base")
    assert not _everything_in(tmp_path / "cache")


def test_a_wrong_token_publishes_nothing(hub: Hub, token: str, folder: Path, cli: Cli) -> None:
    before = _published(hub)
    wrong = cli("push", str(folder), "sentiment/other@acme", "--version", "1.0", ADAPTERHUB_TOKEN="ahub_" + "0" * 40)
    _refused(wrong, 5, "token")
    _refused(cli("push", str(folder), "sentiment/other@acme", "--version", "1.0"), 5, "token")
    assert _published(hub) == before


def test_a_token_of_another_organisation_is_refused(hub: Hub, token: str, folder: Path, cli: Cli) -> None:
    before = _published(hub)
    hub.administer("org", "create", "rival")
    _refused(
        cli("push", str(folder), "sentiment/other@rival", "--version", "1.0", ADAPTERHUB_TOKEN=token), 5, "organisation"
    )
    assert _published(hub) == before


def _ask(
    hub: Hub, method: str, path: str, token: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(hub.endpoint + path, data=body or None, method=method)
    request.add_header("Authorization", f"Bearer {token}")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_a_truncated_upload_is_discarded(hub: Hub, token: str) -> None:
    whole = os.urandom(50_000)
    digest = f"sha256:{sha256(whole).hexdigest()}"
    status, headers, _ = _ask(hub, "POST", "/v1/uploads", token)
    assert status == 201
    place = "/v1/uploads/" + headers["Location" if "Location" in headers else "location"].rsplit("/", 1)[-1]
    # the connection dies in the middle: fewer bytes come than were announced
    with socket.create_connection(("127.0.0.1", hub.port)) as line:
        head = f"PATCH {place} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nUpload-Offset: 0\r\n"
        head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(whole)}\r\n\r\n"
        line.sendall(head.encode() + whole[:20_000])
    status, _, body = _ask(hub, "PUT", f"{place}?digest={digest}", token)
    assert status in (404, 409, 422), body
    assert json.loads(body)["code"]
    assert _ask(hub, "HEAD", f"/v1/blobs/{digest}", token)[0] == 404


def test_an_altered_blob_is_never_kept(hub: Hub, published: str, folder: Path, cli: Cli, tmp_path: Path) -> None:
    digest = sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    [blob] = [p for p in (hub.data / "blobs").rglob("*") if p.is_file() and digest in str(p).replace("/", "")]
    original = blob.read_bytes()
    mode = blob.stat().st_mode
    blob.chmod(0o644)
    try:
        blob.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        _refused(cli("pull", published, "--model", MODEL), 6, "sha256")
        assert not _everything_in(tmp_path / "cache")
    finally:
        blob.write_bytes(original)
        blob.chmod(mode)
    assert cli("pull", published, "--model", MODEL).returncode == 0


def test_a_port_in_use_is_said_so(hub: Hub, tmp_path: Path) -> None:
    line = [command("adapterhub-server"), "serve", "--data", str(tmp_path / "other"), "--port", str(hub.port)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode not in (0, -9, -15)
    assert str(hub.port) in done.stderr and "--port" in done.stderr
    assert "Traceback" not in done.stderr


def _pull(published: str, client: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    line = [command("adapterhub"), "pull", published, "--model", MODEL]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**client, **environment})


def test_a_file_size_limit_while_downloading_leaves_nothing(
    published: str, folder: Path, client: dict[str, str], tmp_path: Path
) -> None:
    size = (folder / "adapter.safetensors").stat().st_size
    line = [command("adapterhub"), "pull", published, "--model", MODEL]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    done = subprocess.run(line, capture_output=True, text=True, check=False, env=client, preexec_fn=limit)
    _refused(done, 1, str(tmp_path / "cache"))
    assert not _everything_in(tmp_path / "cache")
    assert _pull(published, client).returncode == 0, "and it works once there is room"


def test_a_full_disk_while_downloading_leaves_nothing(published: str, client: dict[str, str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("this user may not mount a small tmpfs")
    try:
        done = _pull(published, client, ADAPTERHUB_CACHE=str(disk / "cache"))
        _refused(done, 1, "disk" if "disk" in done.stderr else "space")
        assert not _everything_in(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
