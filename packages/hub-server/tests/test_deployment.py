"""The example configuration works: two hubs on the same stores behind a real nginx."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import httpx
import hub as hub_module
import pytest
import yaml
from adapter_folder import write_folder
from hub import digest_of, publish
from proxy import DEPLOY, free_port, nginx

from adapterhub.server.settings import Settings


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_publish_and_download_through_nginx_with_one_hub_down(settings: Settings, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        hub_module.serve(settings) as one,
        hub_module.serve(settings) as two,
        nginx(tmp_path, [one.url, two.url, nobody]) as url,
    ):
        token = one.token(one.organisation("demo"))
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as client:
            for version in range(4):
                folder = write_folder(tmp_path / str(version), seed=version)
                answer = publish(client, folder, version=str(version), name="mine")
                assert answer.status_code == 201, answer.text
                assert answer.json()["page"].startswith(url)
                found = client.get("/v1/resolve", params={"ref": "@demo/mine"}).json()
                assert found["version"] == str(version)
                weights = (folder / "adapter.safetensors").read_bytes()
                part = client.get(f"/v1/blobs/{digest_of(weights)}", headers={"Range": "bytes=10-"})
                assert (part.status_code, part.content) == (206, weights[10:])
            assert client.get("/metrics").status_code == 403


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_accepts_the_example_as_it_is(tmp_path: Path) -> None:
    names = {f"hub-{number}": "127.0.0.1" for number in range(1, 5)}
    text = (DEPLOY / "nginx.conf").read_text()
    for name, address in names.items():  # nginx looks names up even to check a file
        text = text.replace(name, address)
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\n{text}")
    line = ["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def test_the_compose_file_starts_what_the_nginx_configuration_names() -> None:
    services = compose()["services"]
    named = set(re.findall(r"server (hub-\d+):8080", (DEPLOY / "nginx.conf").read_text()))
    assert named == {name for name in services if name.startswith("hub-")}
    assert set(services["proxy"]["depends_on"]) == named
    assert services["proxy"]["ports"] == ["8080:80"]
    assert "listen 80;" in (DEPLOY / "nginx.conf").read_text()


def test_everything_the_compose_file_refers_to_exists() -> None:
    """What `docker compose config` and a first start would trip over, without an engine to start it with."""
    document = compose()
    services, volumes = document["services"], document["volumes"]
    assert set(document) - {"x-hub"} == {"name", "services", "volumes"}
    for name, service in services.items():
        assert set(service) <= {
            "build", "image", "restart", "stop_grace_period", "depends_on", "environment", "ports", "volumes", "command",
            "entrypoint", "healthcheck",
        }, name  # fmt: skip
        needed = service.get("depends_on", {})
        for other in needed:
            assert other in services, (name, other)
            if isinstance(needed, dict) and needed[other]["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in volumes or (DEPLOY / source).is_file(), (name, volume)
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()
    text = (DEPLOY / "compose.yaml").read_text()
    usage = text[: text.index("name:")]
    for wanted in re.findall(r"\$\{(\w+):\?\}", text):
        assert f"{wanted}=" in usage, f"{wanted} is needed, and the head of the file does not say so"
    for host in re.findall(r"@(\w+)/hub|http://(\w+):9000", text):
        assert next(filter(None, host)) in services


def test_the_settings_in_the_compose_file_are_settings() -> None:
    environment = compose()["services"]["hub-1"]["environment"]
    for name in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        environment = {key: value.replace(f"${{{name}:?}}", "x") for key, value in environment.items()}
    known = set(Settings().to_environment()) | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(environment) <= known
    expanded = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for name, value in environment.items()}
    read = Settings.read(expanded)
    assert read.trust_proxy and read.rate_per_minute == 3000
    assert read.database == "postgresql+psycopg://hub:x@database/hub" and read.blobs == "s3://adapterhub"


def test_the_image_is_built_from_what_there_is_and_runs_a_command_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    root = DEPLOY.parents[2]
    for source in re.findall(r"^COPY (\S+) ", text, re.M):
        assert (root / source).exists(), source
    [entry], [words] = re.findall(r"^ENTRYPOINT (.*)$", text, re.M), re.findall(r"^CMD (.*)$", text, re.M)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert json.loads(entry) == list(project["scripts"])
    assert "postgresql" in project["optional-dependencies"]
    from adapterhub.server.cli import app

    command = next(found for found in app.registered_commands if found.callback and found.callback.__name__ == "serve")
    assert json.loads(words)[0] == "serve" and command is not None
    for name in re.findall(r"ADAPTERHUB_SERVER_\w+", text):
        assert name in Settings().to_environment()
    health = json.loads(re.findall(r"CMD (\[\"python.*)$", text, re.M)[0])
    compile(health[2], "healthcheck", "exec")
