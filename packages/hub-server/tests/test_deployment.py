"""The example configuration works: two hubs on the same stores behind a real nginx."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import digest_of, publish

from adapterhub.server.settings import Settings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_publish_and_download_through_nginx_with_one_hub_down(settings: Settings, tmp_path: Path) -> None:
    with hub_module.serve(settings) as one, hub_module.serve(settings) as two:
        port = free_port()
        text = (DEPLOY / "nginx.conf").read_text()
        text = re.sub(r"server hub-1:8080", f"server {one.url[7:]}", text)
        text = re.sub(r"server hub-2:8080", f"server {two.url[7:]}", text)
        text = re.sub(r"server hub-3:8080", f"server 127.0.0.1:{free_port()}", text)  # nobody is there
        text = re.sub(r" *server hub-4:8080.*\n", "", text)
        text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
        text = f"daemon off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\n" + text.replace(
            "http {",
            f"http {{\naccess_log off;\nclient_body_temp_path {tmp_path}/body;\nproxy_temp_path {tmp_path}/proxy;",
            1,
        )
        (tmp_path / "nginx.conf").write_text(text)
        nginx = subprocess.Popen(
            ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")], stderr=subprocess.PIPE
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                assert nginx.poll() is None, nginx.stderr and nginx.stderr.read()
                try:
                    httpx.get(f"{url}/healthz").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            token = one.token(one.organisation("demo"))
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
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
        finally:
            nginx.terminate()
            nginx.wait(10)


def test_the_compose_file_starts_what_the_nginx_configuration_names() -> None:
    import yaml

    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    named = set(re.findall(r"server (hub-\d+):8080", (DEPLOY / "nginx.conf").read_text()))
    assert named == {name for name in services if name.startswith("hub-")}
    known = set(Settings().to_environment()) | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(services["hub-1"]["environment"]) <= known
