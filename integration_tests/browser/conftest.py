"""A hub with something on it, a real Chromium, and the accessibility checker axe."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER_TESTS = REPOSITORY / "packages" / "hub-server" / "tests"
#: Pinned, so that a run tomorrow checks the same rules.
AXE = "axe-core@4.10.3"

CARD = """---
license: mit
---
# Movie snippets

Polarity of **short reviews**. <script>window.attacked = 1</script> [x](javascript:window.attacked=1) <img src=x onerror="window.attacked=1">

| split | rows |
|---|---|
| train | 9,473 |

```python
model.load_adapter("sentiment/movie-snippets@demo")
```
"""


def _module(name: str) -> ModuleType:
    """A helper module of the server's own tests."""
    if str(SERVER_TESTS) not in sys.path:
        sys.path.insert(0, str(SERVER_TESTS))
    spec = importlib.util.spec_from_file_location(name, SERVER_TESTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if not getattr(module, "__loaded__", False):
        spec.loader.exec_module(module)
        module.__loaded__ = True  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="session")
def filled_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A hub with published adapters (one version yanked) and, where the test data are at hand, the catalogue of 2020."""
    pytest.importorskip("adapterhub.server")
    from adapterhub.server.catalogue.importing import import_catalogue
    from adapterhub.server.settings import Settings

    hub, folders = _module("hub"), _module("adapter_folder")
    place = tmp_path_factory.mktemp("browser")
    with hub.serve(Settings(data=place / "hub", log_level="warning")) as running:
        client = running.member("demo", scopes=("read", "publish", "yank"))
        more: dict[str, Any] = {
            "license": "MIT",
            "languages": ["en"],
            "description": "Polarity of short reviews.",
            "citation": "@misc{demo,\n  title={Movie snippets}\n}",
            "metrics": [{"name": "accuracy", "value": 0.83, "dataset": "movie snippets", "split": "test"}],
        }
        first = folders.write_folder(place / "one", readme=CARD)
        for version in ("1.0", "1.1"):
            answer = hub.publish(client, first, "sentiment/movie-snippets@demo", version, **more)
            assert answer.status_code == 201, answer.text
        running.adapter = "/" + answer.json()["page"].split("/", 3)[3]
        yank = client.post(f"/v1/adapters{running.adapter}/versions/1.0/yank", json={"reason": "leaked split"})
        assert yank.status_code == 200, yank.text
        second = folders.write_folder(place / "two", preset="houlsby", seed=1)
        assert hub.publish(client, second, "nli/multinli@demo", "1.0").status_code == 201
        language = folders.write_folder(place / "three", type="text_lang", seed=2)
        assert hub.publish(client, language, "sw/wiki@demo", "1.0").status_code == 201
        data = Path(os.environ.get("ADAPTERHUB_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "hub-catalogue"
        if data.is_dir():
            import_catalogue(running.storage, data)
        yield running


@pytest.fixture(scope="session")
def start_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts Chromium: `start_browser(width=…, dark=…, scripts=…)` gives a Selenium driver; all are closed at the end."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    running: list[Any] = []

    def start(*, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--window-size={width},{height}",
            f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        ):  # fmt: skip
            options.add_argument(flag)
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
        running.append(driver)
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700},
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return driver

    yield start
    for driver in running:
        driver.quit()


@pytest.fixture(scope="session")
def desktop(start_browser: Callable[..., Any]) -> Any:
    """A browser of a desktop's size, light."""
    return start_browser()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from the package registry."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, to fetch axe-core")
    place = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        [npm, "pack", "--silent", "--json", AXE], cwd=place, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot fetch {AXE}: {done.stderr.strip()[:200]}")
    archive = place / json.loads(done.stdout)[0]["filename"]
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return io.TextIOWrapper(member, "utf-8").read()
