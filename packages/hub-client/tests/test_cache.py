"""The cache: nothing unverified, nothing half-written, whatever happens to the disk."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import Handler, LoopbackHub, Seen

from adapterhub.client import HubClient, IntegrityError, OfflineError, StorageError, cache as cache_module
from adapterhub.client.cache import Cache
from adapterhub.client.owners import unique_name
from adapterhub.client.staging import Staging
from adapterhub.client.verification import FileOf


def corrupt(path: Path, *, quietly: bool = False) -> None:
    """Flip one bit in the middle, keeping the size; `quietly` also puts the modification time back."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(before.st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def client(hub: LoopbackHub) -> Iterator[HubClient]:
    with HubClient(endpoint=hub.url) as made:
        yield made


@pytest.mark.parametrize("quietly", [False, True], ids=["plainly", "with the old time stamp"])
def test_a_change_of_the_same_size_is_found_and_healed(
    client: HubClient, hub: LoopbackHub, quietly: bool, tmp_path: Path
) -> None:
    folder = client.download("sst-2", model_name=MODEL)
    corrupt(folder / "adapter.safetensors", quietly=quietly)
    again = client.download("sst-2", model_name=MODEL)
    assert (again / "adapter.safetensors").read_bytes() == (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    corrupt(again / "adapter.safetensors", quietly=quietly)
    with pytest.raises(OfflineError):
        HubClient(endpoint=hub.url, offline=True).download("sst-2", model_name=MODEL)


@pytest.mark.parametrize("what", ["marker", "manifest", "manifest blob", "marker and every blob"])
def test_what_a_power_failure_leaves_as_zeros_is_made_again(client: HubClient, tmp_path: Path, what: str) -> None:
    """Names of markers and manifests may reach the disk before their bytes do; nobody takes the zeros for content."""
    folder = client.download("sst-2", model_name=MODEL)
    blobs = [path for path in (tmp_path / "cache" / "blobs").rglob("*") if path.is_file()]
    lost = {
        "marker": [folder.parent / ".complete"],
        "manifest": [folder.parent / ".manifest.json"],
        "manifest blob": [path for path in blobs if path.name == folder.parent.name],
        "marker and every blob": [folder.parent / ".complete", *blobs],
    }[what]
    assert lost
    for path in lost:
        size = path.stat().st_size
        path.chmod(0o644)
        path.write_bytes(bytes(size))
    again = client.download("sst-2", model_name=MODEL)
    published = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert {path.name: path.read_bytes() for path in again.iterdir()} == published
    list(client.cache.verify())  # a manifest is only looked at here
    again = client.download("sst-2", model_name=MODEL)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == published
    assert all(fine for _, fine in client.cache.verify())


@pytest.mark.parametrize(
    "damage", ["missing file", "no marker", "marker of nonsense", "extra version in marker", "truncated blob"]
)
def test_a_damaged_version_is_never_returned_and_is_healed(
    client: HubClient, hub: LoopbackHub, tmp_path: Path, damage: str
) -> None:
    folder = client.download("sst-2", model_name=MODEL)
    marker = folder.parent / ".complete"
    if damage == "missing file":
        (folder / "head.safetensors").unlink()
    elif damage == "no marker":
        marker.unlink()
    elif damage == "marker of nonsense":
        marker.write_text("{]")
    elif damage == "extra version in marker":
        forged = json.loads(marker.read_text())
        (folder / "README.md").chmod(0o644)
        (folder / "README.md").write_text("# forged")
        forged["files"] = [
            [path, 8, "sha256:" + __import__("hashlib").sha256(b"# forged").hexdigest(), noted]
            if path == "README.md"
            else [path, size, digest, noted]
            for path, size, digest, noted in forged["files"]
        ]
        marker.write_text(json.dumps(forged))
    else:
        (folder / "adapter.safetensors").chmod(0o644)
        os.truncate(folder / "adapter.safetensors", 100)
    again = client.download("sst-2", model_name=MODEL)
    published = tmp_path / "adapter"
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in published.iterdir()
    }


def test_verify_finds_what_rotted_and_removes_it(client: HubClient) -> None:
    folder = client.download("sst-2", model_name=MODEL)
    assert [fine for _, fine in client.cache.verify()] == [True]
    corrupt(folder / "head.safetensors", quietly=True)
    assert [fine for _, fine in client.cache.verify()] == [False]
    assert client.cache.snapshots() == []
    client.download("sst-2", model_name=MODEL)
    assert [fine for _, fine in client.cache.verify()] == [True]


def test_files_of_two_versions_are_stored_once_and_removed_when_the_last_goes(
    client: HubClient, sst2: Export, adapter: Callable[..., Path]
) -> None:
    folder = adapter("second", hidden=768, layers=4, seed=0)
    (folder / "README.md").write_text("# a better card\n")
    sst2.publish(folder, "sentiment/sst-2@ukp", version="2", created_at="2026-05-05T05:05:05Z")
    first = client.resolve("sst-2@ukp:1", model_name=MODEL)
    client.download(first)
    before = client.cache.size()
    client.download("sst-2@ukp:2", model_name=MODEL)
    assert client.cache.size() - before < 20_000
    freed = client.cache.remove(str(first.digest))
    assert freed < 20_000
    [left] = client.cache.snapshots()
    assert [fine for _, fine in client.cache.verify()] == [True]
    client.cache.remove(left.digest)
    assert not [path for path in (client.cache.root / "blobs").rglob("*") if path.is_file()]


def test_prune_removes_the_longest_unused_first(client: HubClient, sst2: Export, adapter: Callable[..., Path]) -> None:
    for number in range(2, 5):
        sst2.publish(adapter(f"v{number}", seed=number), "sentiment/sst-2@ukp", version=str(number))
    for number, age in ((1, 10), (2, 40), (3, 20), (4, 30)):
        folder = client.download(f"sst-2@ukp:{number}", model_name=MODEL)
        marker = folder.parent / ".complete"
        then = marker.stat().st_mtime - age * 86400
        os.utime(marker, (then, then))
    gone = client.cache.prune(older_than=35 * 86400, dry_run=True)
    assert [info.reference.rpartition(":")[2] for info in gone] == ["2"] and len(client.cache.snapshots()) == 4
    client.cache.prune(older_than=35 * 86400)
    big = next(info for info in client.cache.snapshots() if info.reference.endswith(":1"))
    gone = client.cache.prune(max_size=big.size)
    assert [info.reference.rpartition(":")[2] for info in gone] == ["4", "3"]
    assert [info.reference.rpartition(":")[2] for info in client.cache.snapshots()] == ["1"]


def test_a_read_only_layer_is_used_hashed_once_and_never_written(
    hub: LoopbackHub, sst2: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    HubClient(endpoint=hub.url, cache_dir=shared).download("sst-2", model_name=MODEL)
    before = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setenv("ADAPTERHUB_SHARED_CACHE", str(shared))
    hub.stop()
    with HubClient(endpoint=hub.url, offline=True) as client:
        folder = client.download("sst-2", model_name=MODEL)
        assert folder.is_relative_to(shared)
        hashed: list[Path] = []
        monkeypatch.setattr(cache_module, "verify_file", lambda path, file: hashed.append(path))
        assert client.download("sst-2", model_name=MODEL) == folder and hashed == []
        monkeypatch.undo()
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == before
    for path in before:
        path.chmod(0o755 if path.is_dir() else 0o644)
    corrupt(folder / "head.safetensors", quietly=True)
    monkeypatch.setenv("ADAPTERHUB_SHARED_CACHE", str(shared))
    with HubClient(endpoint=hub.url, offline=True) as client, pytest.raises((OfflineError, IntegrityError)):
        client.download("sst-2", model_name=MODEL)


def test_a_broken_shared_layer_is_replaced_by_an_own_copy(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    corrupt(HubClient(endpoint=hub.url, cache_dir=shared).download("sst-2", model_name=MODEL) / "adapter.safetensors")
    monkeypatch.setenv("ADAPTERHUB_SHARED_CACHE", str(shared))
    folder = HubClient(endpoint=hub.url).download("sst-2", model_name=MODEL)
    assert folder.is_relative_to(tmp_path / "cache")
    assert (folder / "adapter.safetensors").read_bytes() == (tmp_path / "adapter" / "adapter.safetensors").read_bytes()


@pytest.mark.parametrize("broken", [False, True])
def test_of_two_that_make_a_version_at_once_the_first_stays_unless_it_is_broken(
    client: HubClient, broken: bool
) -> None:
    """The first may be in use already: its folder must not vanish, not even for a moment."""
    folder = client.download("sst-2", model_name=MODEL)
    manifest = (folder.parent / ".manifest.json").read_bytes()
    digest = "sha256:" + folder.parent.name
    with Staging(client.cache, folder.name) as second:
        for record in json.loads(manifest)["files"]:
            assert second.take(FileOf(record["path"], record["size"], record["digest"]))
        if broken:
            (folder / "README.md").unlink()
        first = folder.stat().st_ino
        assert second.finish(digest, manifest, reference="x:1") == folder
    assert (folder.stat().st_ino == first) is not broken
    assert client.cache.find_snapshot(digest) == folder and (folder / "README.md").is_file()


# -- full and unwritable disks ----------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_downloading_breaks_nothing(
    client: HubClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every write after the first 300 kB fails as on a full disk."""
    real, written = os.write, 0

    def write(handle: int, data: bytes) -> int:
        nonlocal written
        if stat.S_ISREG(os.fstat(handle).st_mode) and len(data) > 0:
            written += len(data)
            if written > 300_000:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError, match="disk is full") as error:
        client.download("sst-2", model_name=MODEL)
    assert "prune" in error.value.hint and str(client.cache.root) in error.value.message
    monkeypatch.undo()
    assert not list((client.cache.root / "partial").iterdir()), "the space of a full disk is given back"
    assert client.cache.snapshots() == []
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(client.cache.root))
    folder = client.download("sst-2", model_name=MODEL)
    assert (folder / "adapter.safetensors").read_bytes() == (tmp_path / "adapter" / "adapter.safetensors").read_bytes()


def test_a_really_full_file_system(hub: LoopbackHub, tmp_path: Path) -> None:
    """A file system of 600 kB for an adapter of 1.2 MB: refused before the first byte, and while downloading where the
    free space cannot be asked for. The exit code is 1, the message one line with a hint."""
    small = tmp_path / "small"
    small.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", str(small).encode(), b"tmpfs", 0, b"size=600k") != 0:
        pytest.skip("mounting a small file system needs more rights")
    try:
        code = (
            "import shutil, sys; from adapterhub.client import HubClient, StorageError\n"
            "if sys.argv[2] == 'unknown': shutil.disk_usage = lambda path: (_ for _ in ()).throw(OSError())\n"
            "try: HubClient(endpoint=sys.argv[1]).download('sst-2', model_name='bert-base-uncased')\n"
            "except StorageError as error: print(error)"
        )
        for knowledge in ("known", "unknown"):
            done = subprocess.run(
                [sys.executable, "-c", code, hub.url, knowledge],
                env={**os.environ, "ADAPTERHUB_CACHE": str(small / "cache")},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout.startswith("The disk is full"), done.stdout + done.stderr
        assert not list((small / "cache" / "partial").glob("*"))
        assert Cache(small / "cache").snapshots() == []
    finally:
        libc.umount2(str(small).encode(), 2)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_says_so(client: HubClient) -> None:
    client.cache.root.mkdir(parents=True)
    client.cache.root.chmod(0o555)
    with pytest.raises(StorageError, match="cannot be written"):
        client.download("sst-2", model_name=MODEL)


def test_without_hard_links_files_are_copied(
    client: HubClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def link(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    folder = client.download("sst-2", model_name=MODEL)
    assert (folder / "adapter.safetensors").read_bytes() == (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    assert (folder / "adapter.safetensors").stat().st_nlink == 1


def test_the_cache_works_where_locks_do_not(client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert client.download("sst-2", model_name=MODEL).is_dir()


def test_what_processes_left_behind_is_swept_and_what_is_in_use_is_not(client: HubClient) -> None:
    client.download("sst-2", model_name=MODEL)
    root = client.cache.root
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = unique_name()
    theirs = mine.replace(str(os.getpid()), str(dead.pid), 1)
    elsewhere = "-".join([str(dead.pid), "0" * 8, "dd"])
    for name in (mine, theirs, elsewhere):
        (root / "partial" / f"{'0' * 64}.{name}.part").write_bytes(b"x")
        (root / "tmp" / name).mkdir(parents=True)
    client.cache.sweep()
    assert {path.name.split(".")[1] for path in (root / "partial").iterdir()} == {mine, elsewhere}
    assert {path.name for path in (root / "tmp").iterdir()} == {mine, elsewhere}
    for folder in ("partial", "tmp"):
        for path in (root / folder).iterdir():
            os.utime(path, (time.time() - 3600,) * 2)  # silent for an hour: another machine is not at work on it
    client.cache.sweep()
    assert [path.name for path in (root / "tmp").iterdir()] == [mine]


def test_what_another_machine_has_so_far_is_used_and_left_to_it(
    client: HubClient, hub: LoopbackHub, tmp_path: Path
) -> None:
    """Machines or containers that share a cache: process numbers of one mean nothing on the other."""
    weights = (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    name = f"{hashlib.sha256(weights).hexdigest()}.1-{'0' * 8}-aa.part"
    other = client.cache.root / "partial" / name
    other.parent.mkdir(parents=True)
    other.write_bytes(weights[:200_000])
    folder = client.download("sst-2", model_name=MODEL)
    assert (folder / "adapter.safetensors").read_bytes() == weights
    assert "bytes=200000-" in [seen.headers.get("range") for seen in hub.seen]
    assert other.read_bytes() == weights[:200_000]


def test_a_cache_that_is_removed_while_it_is_filled_is_filled_anew(
    client: HubClient, hub: LoopbackHub, tmp_path: Path
) -> None:
    """`rm -rf` of the whole cache between the first and the last byte of the weights."""
    digest = hashlib.sha256((tmp_path / "adapter" / "adapter.safetensors").read_bytes()).hexdigest()
    removed = []

    def remove(handler: Handler, seen: Seen) -> bool:
        if seen.path.endswith(digest) and not removed:
            removed.append(seen)
            shutil.rmtree(client.cache.root)
        return False

    hub.faults.append(remove)
    folder = client.download("sst-2", model_name=MODEL)
    assert removed and {path.name for path in folder.iterdir()} == {
        path.name for path in (tmp_path / "adapter").iterdir()
    }
    assert [fine for _, fine in client.cache.verify()] == [True]
    assert [fine for _, fine in client.cache.verify()] == [True]


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../x", "md5:" + "0" * 64, "sha256:" + "0" * 63, "sha256:" + "G" * 64, "", "sha256:" + "0" * 64 + "\n"],
)
def test_what_is_no_digest_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(IntegrityError):
        Cache(tmp_path).blob_path(digest)
