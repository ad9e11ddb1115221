"""Every sample in the README files and in docs/ runs: each page from top to bottom in an empty folder, against a hub of its own.

A page is a sequence of fenced blocks. `python` blocks of a page share one process's names; `bash` blocks run as written, with
`adapterhub-server serve` put into the background until the page ends. In the folder, `bert-base-uncased` and `roberta-base` are
tiny random models. A block that cannot run here stands under a comment, `<!-- not run: reason -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.hub import Hub, client_environment
from integration_tests.conftest import REPOSITORY
from integration_tests.tiny_model import texts

FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*$")
PORT = re.compile(r"\b8000\b")


@dataclass(frozen=True)
class Block:
    """One fenced block and where it stands."""

    language: str
    code: str
    line: int


def _pages() -> list[Path]:
    pages = [
        REPOSITORY / "README.md",
        *(REPOSITORY / "packages").glob("*/README.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
    return sorted(page for page in pages if page.is_file())


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are to run."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match[2] in ("python", "bash") and not NOT_RUN.search(text[: match.start()]):
            code = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
            found.append(Block(match[2], code, text.count("\n", 0, match.start()) + 2))
    return found


PAGES = [page for page in _pages() if blocks(page)]


def test_there_are_samples_to_run() -> None:
    assert REPOSITORY / "README.md" in PAGES
    assert len(PAGES) > 5


@pytest.fixture
def folder(tmp_path: Path, tiny_models: Path) -> Path:
    """An empty working folder with tiny models and a training table."""
    for model in tiny_models.iterdir():
        shutil.copytree(model, tmp_path / model.name)
    rows = [
        "text,label",
        *(f"{text},{('negative', 'positive')[label]}" for text, label in zip(*texts(64), strict=True)),
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Servers the page starts; stopped by their ids at the end."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.terminate()
    for process in started:
        process.wait(90)


def _python(sections: list[tuple[Block, Path]], folder: Path, environment: dict[str, str]) -> None:
    """Run python blocks one after the other in one process, each compiled under the name of its page and line."""
    program = "import sys\nnames = {'__name__': '__main__'}\n"
    for block, page in sections:
        padded = "\n" * (block.line - 1) + block.code
        program += f"exec(compile({padded!r}, {str(page)!r}, 'exec'), names)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def _bash(
    block: Block,
    page: Path,
    folder: Path,
    environment: dict[str, str],
    background: list[subprocess.Popen[bytes]],
    port: int,
) -> None:
    """Run one bash block; a line that serves goes to the background once it answers."""
    lines: list[str] = []

    def run() -> None:
        if lines:
            script = "set -euo pipefail\n" + "\n".join(lines) + "\nexport -p > .exports\n"
            done = subprocess.run(
                ["bash", "-c", "[ -f .exports ] && . ./.exports\n" + script],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page}:{block.line}\n{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            lines.clear()

    for line in PORT.sub(str(port), block.code).splitlines():
        if line.startswith("adapterhub-server serve"):
            run()
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line.split('#')[0].rstrip(' &')} --port {port}"], cwd=folder, env=environment
            )
            background.append(process)
            for _ in range(1200):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
                    break
                except OSError:
                    assert process.poll() is None, f"{page}:{block.line}: the server ended"
                    time.sleep(0.1)
        else:
            lines.append(line)
    run()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_samples_of_a_page_run(
    page: Path, folder: Path, tmp_path: Path, background: list[subprocess.Popen[bytes]]
) -> None:
    probe = Hub(tmp_path / "unused", tmp_path / "unused.log")  # only for a free port
    environment = client_environment(probe.endpoint, tmp_path / "home", ADAPTERHUB_CACHE=str(tmp_path / "cache"))
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    waiting: list[tuple[Block, Path]] = []
    done: list[tuple[Block, Path]] = []
    for block in blocks(page):
        if block.language == "python":
            waiting.append((block, page))
        else:
            if waiting:
                _python(waiting, folder, environment)
                done += waiting
                waiting = []
            _bash(block, page, folder, environment, background, probe.port)
            exports = folder / ".exports"
            if exports.is_file():
                for name, value in re.findall(r'^declare -x (\w+)="(.*)"$', exports.read_text(), re.MULTILINE):
                    environment[name] = value
    if waiting:
        _python(waiting, folder, environment)
