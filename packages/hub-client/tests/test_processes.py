"""Many processes on one cache, and processes that are killed in the middle of everything."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import Handler, LoopbackHub, Seen

from adapterhub.client import HubClient
from adapterhub.client.lockfile import Lockfile

PULL = (
    "import sys; from adapterhub.client import download\n"
    "print(download('sentiment/sst-2@ukp', model_name='bert-base-uncased'))"
)
PROCESSES = int(os.environ.get("ADAPTERHUB_TEST_PROCESSES") or 10)
KILLS = int(os.environ.get("ADAPTERHUB_TEST_KILLS") or 8)


def pull(hub: LoopbackHub, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ADAPTERHUB_ENDPOINT": hub.url, **more}
    return subprocess.Popen(
        [sys.executable, "-c", PULL], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def sound(cache: Path) -> bool:
    blobs = [path for path in (cache / "blobs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_many_processes_pulling_one_adapter_at_once_all_get_it(
    hub: LoopbackHub, tmp_path: Path, locks: str, sst2: Export
) -> None:
    cache = tmp_path / "cache"
    count = PROCESSES if locks == "with locks" else PROCESSES // 2
    if locks == "without locks":
        cache.mkdir()
        (cache / "locks").write_text("not a folder: every lock fails")
    running = [pull(hub) for _ in range(count)]
    results = [(process, *process.communicate(timeout=120)) for process in running]
    assert [process.returncode for process, _, _ in results] == [0] * count, results[0][2]
    assert len({out for _, out, _ in results}) == 1
    folder = Path(results[0][1].strip())
    published = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == published
    assert sound(cache) and not list((cache / "partial").iterdir()) and not list((cache / "tmp").iterdir())
    if locks == "with locks":
        assert len(hub.requests("/v1/blobs/")) == len(published), "each file was downloaded once"


def test_a_process_killed_again_and_again_goes_on_where_it_was(
    export: Export, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """Kill -9 at random moments of a download of 19 MB that takes about two seconds."""
    folder = adapter(hidden=1024, layers=36)
    manifest = export.publish(folder, "sentiment/sst-2@ukp", version="1")
    served = 0

    def slowly(handler: Handler, seen: Seen) -> bool:
        nonlocal served
        body = handler.body_of(seen)
        if body is None or len(body) < 1_000_000 or not seen.path.startswith("/v1/blobs/"):
            return False
        start = handler.start_of(seen, len(body)) or 0
        headers = {"Content-Length": str(len(body) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.begin(206 if start else 200, headers)
        for at in range(start, len(body), 1 << 17):
            piece = body[at : at + (1 << 17)]
            handler.wfile.write(piece)
            served += len(piece)
            time.sleep(0.012)
        return True

    hub = LoopbackHub(export.folder, faults=[slowly])
    cache = tmp_path / "cache"
    dice, kills = random.Random(7), 0
    try:
        while kills < KILLS:
            process = pull(hub)
            time.sleep(dice.uniform(0.2, 0.9))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            assert sound(cache)
        last = pull(hub)
        out, err = last.communicate(timeout=120)
    finally:
        hub.close()
    assert last.returncode == 0, err
    got = {path.name: path.read_bytes() for path in Path(out.strip()).iterdir()}
    assert got == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kills >= 3
    twice = served - manifest.size
    assert twice <= kills * 8_000_000, f"{twice:,} bytes fetched twice in {kills} kills"
    assert not list((cache / "partial").iterdir())
    print(f"{kills} kills, {twice / max(kills, 1) / 1e6:.2f} MB fetched twice each")


STEPS = (
    "before commit",
    "after fsync",
    "after blob rename",
    "in snapshot",
    "before marker",
    "before snapshot rename",
    "after snapshot rename",
)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step_nothing_stays_broken(hub: LoopbackHub, tmp_path: Path, step: str) -> None:
    patches = {
        "before commit": "partials.Partial.commit = lambda self: os.kill(os.getpid(), 9)",
        "after fsync": "partials.replace = lambda *a: os.kill(os.getpid(), 9)",
        "after blob rename": "old = partials.replace\npartials.replace = lambda *a: (old(*a), os.kill(os.getpid(), 9))",
        "in snapshot": "old = staging.link_or_copy; n = []\n"
        "def link(a, b, **k):\n  n.append(1); old(a, b, **k); len(n) == 3 and os.kill(os.getpid(), 9)\nstaging.link_or_copy = link",
        "before marker": "old = staging.write_atomically\n"
        "staging.write_atomically = lambda p, *a, **k: os.kill(os.getpid(), 9) if p.name == '.complete' else old(p, *a, **k)",
        "before snapshot rename": "cache.Cache.install = lambda *a: os.kill(os.getpid(), 9)",
        "after snapshot rename": "old = cache.Cache.install\ncache.Cache.install = lambda *a: (old(*a), os.kill(os.getpid(), 9))",
    }
    code = f"import os; from adapterhub.client import cache, partials, staging\n{patches[step]}\n{PULL}"
    environment = {**os.environ, "ADAPTERHUB_ENDPOINT": hub.url}
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
        assert killed.returncode in (-9, 0) if step == "after snapshot rename" else killed.returncode == -9
        assert sound(tmp_path / "cache")
    with HubClient(endpoint=hub.url) as client:
        folder = client.download("sst-2", model_name=MODEL)
        published = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == published
        client.cache.sweep()
        assert [fine for _, fine in client.cache.verify()] == [True]
    assert not list((tmp_path / "cache" / "partial").iterdir()) and not list((tmp_path / "cache" / "tmp").iterdir())


def test_downloading_while_others_remove_and_prune(hub: LoopbackHub, tmp_path: Path) -> None:
    """What is returned was whole when it was returned; nothing ends in anything but the folder."""
    import threading

    stop = threading.Event()
    done = [0, 0]
    failures: list[BaseException] = []

    def remover() -> None:
        cache = HubClient(endpoint=hub.url).cache
        while not stop.is_set():
            for info in cache.snapshots():
                cache.remove(info.digest)
            cache.sweep(grace=3600)
            done[0] += 1
            time.sleep(0.005)

    def downloader() -> None:
        with HubClient(endpoint=hub.url) as client:
            while not stop.is_set():
                try:
                    client.download("sst-2", model_name=MODEL)
                    done[1] += 1
                except BaseException as error:  # noqa: BLE001 - collected and shown below
                    failures.append(error)
                    return

    threads = [threading.Thread(target=work) for work in (remover, downloader, downloader, downloader)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 120
    while min(done) <= 20 and not failures and time.monotonic() < give_up:
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert done[0] > 5 and done[1] > 5
    assert sound(tmp_path / "cache")
    with HubClient(endpoint=hub.url) as client:
        folder = client.download("sst-2", model_name=MODEL)
        assert [fine for _, fine in client.cache.verify()] == [True] and (folder / "adapter.safetensors").is_file()


CHANGE = """
import sys
from pathlib import Path
from adapterhub.client import HubClient
from adapterhub.client.cli import main
what, number = sys.argv[1:]
if what == "hubs":
    sys.exit(main(["hubs", "add", f"hub{number}", f"https://hub{number}.example"]))
elif what == "login":
    sys.exit(main(["login", "--endpoint", f"https://hub{number}.example", "--token", "ahub_secret123", "--no-check"]))
else:
    spellings = ["sentiment/sst-2@ukp", "sentiment/sst-2@UKP", "sst-2@ukp", "sentiment/sst-2", "sst-2", "sst"]
    with HubClient() as client:
        client.lock([spellings[int(number)]], model_name="bert-base-uncased", path=Path("adapterhub.lock"))
"""


@pytest.mark.parametrize("what", ["hubs", "login", "lock"])
def test_of_changes_made_at_the_same_time_none_is_lost(
    sst2: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "ADAPTERHUB_ENDPOINT": str(sst2.folder), "ADAPTERHUB_HOME": str(tmp_path / "home")}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGE, what, str(number)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number in range(6)
    ]
    results = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, code in results] == [0] * 6, results
    if what == "hubs":
        assert len(json.loads((tmp_path / "home" / "config.json").read_text())["hubs"]) == 6
    elif what == "login":
        assert len(json.loads((tmp_path / "home" / "tokens.json").read_text())) == 6
    else:
        assert len(Lockfile(tmp_path / "adapterhub.lock")) == 6
