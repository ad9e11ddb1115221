"""Zip archives: what ordinary programs write is accepted, what could be read in two ways or hurt is refused."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from adapterhub.spec import validate_path
from adapterhub.spec.validation.path_names import name_problem

WEIGHTS = (
    struct.pack("<Q", 64)
    + json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(64)
    + bytes(8)
)


def archive(fill: Callable[[zipfile.ZipFile], None] | None = None, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("adapter_config.json", b'{"config": {"reduction_factor": 16}}' * 1)
        file.writestr("adapter.safetensors", WEIGHTS)
        if fill is not None:
            fill(file)
        file.comment = comment
    return buffer.getvalue()


def problems(data: bytes, tmp_path: Path) -> list[str]:
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    return [str(problem) for problem in validate_path(path)]


def test_archives_in_the_zip64_format_are_accepted_where_both_ends_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)  # sizes and offsets above it are written in 64 bits
    data = archive()
    assert b"PK\x06\x06" in data and b"PK\x06\x07" in data
    assert problems(data, tmp_path) == []
    at = data.index(b"PK\x06\x06")
    for position in (4, 16, 20, 24, 32, 40, 48):  # size, disks, counts, length and start of the directory
        wrong = bytearray(data)
        wrong[at + position] ^= 1
        assert problems(bytes(wrong), tmp_path)
    for position in (4, 8, 16):
        wrong = bytearray(data)
        wrong[data.index(b"PK\x06\x07") + position] ^= 1
        assert problems(bytes(wrong), tmp_path)


def test_ordinary_archives_are_accepted(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):  # a stream that cannot seek: sizes come behind the data
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("adapter.safetensors", WEIGHTS)
        file.writestr("README.md", "# card\n")

    def wide(file: zipfile.ZipFile) -> None:
        with file.open("big.txt", "w", force_zip64=True) as entry:
            entry.write(b"text")

    for data in (archive(), archive(comment=b"made by hand"), archive(wide), bytes(pipe.data)):
        assert problems(data, tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", b"\x80\x05K\x01.", "UTF-8"),
        ("weights.safetensors", b"\x80\x02}q\x00.", "0 bytes|header|bytes"),
        ("pytorch_adapter.bin", b"x", "Pickled"),
        ("inner.txt", b"PK\x03\x04", "archive"),
        ("inner.json", b"\x1f\x8b\x08", "archive"),
        ("adapter_config.JSON", b"{}", "not accepted"),
        ("a.json", b'{"a":1,"a":1}', "twice"),
        ("zeros.txt", bytes(3 * 1024 * 1024), "100:1"),
        ("zeros.safetensors", bytes(3 * 1024 * 1024), "100:1"),
        ("a/../b.txt", b"", "parent"),
        ("a//b.txt", b"", "empty"),
        ("con.txt", b"", "device"),
        ("a .txt ", b"", "blank"),
        ("tail.txt.", b"", "blank or dot"),
        ("a:b.txt", b"", "Windows|drive"),
        ("x\u202etxt.md", b"", "invisible"),
        ("ADAPTER.safetensors", WEIGHTS, "also that of"),
        ("adapter.safetensors/x.txt", b"", "file and a directory"),
    ],
)
def test_entries_that_hurt_are_refused(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    import re

    found = problems(archive(lambda file: file.writestr(name, content)), tmp_path)
    assert found and re.search(told, " ".join(found)), found


def test_a_directory_entry_holds_nothing_however_it_is_packed(tmp_path: Path) -> None:
    data = archive(lambda file: file.writestr("notes/", b""))
    at = data.rindex(b"notes/") - 46  # its entry in the central directory
    assert data[at + 10 : at + 12] == b"\x08\x00" and data[at + 20 : at + 24] != bytes(4)  # deflated, to two bytes
    assert problems(data, tmp_path) == []
    assert problems(archive(lambda file: file.writestr("notes/", b"x")), tmp_path)


def test_a_bomb_hidden_behind_a_small_announced_size_is_not_inflated(tmp_path: Path) -> None:
    data = bytearray(archive(lambda file: file.writestr("z.txt", bytes(900_000))))
    for at in [i for i in range(len(data) - 4) if data[i : i + 4] == struct.pack("<L", 900_000)]:
        data[at : at + 4] = struct.pack("<L", 10)
    assert "11 bytes, 10 were announced" in problems(bytes(data), tmp_path)[0]


GOOD = archive(lambda file: file.writestr("README.md", "# a card\n" * 20))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_whatever_is_accepted_means_the_same_to_another_reader(position: int, change: int) -> None:
    """Any single changed byte is noticed, or changes nothing that `zipfile` sees in names and contents."""
    data = bytearray(GOOD)
    data[position] ^= change
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        if problems(bytes(data), Path(folder)):
            return
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as file, zipfile.ZipFile(io.BytesIO(GOOD)) as good:
        assert file.namelist() == good.namelist()
        assert [file.read(name) for name in file.namelist()] == [good.read(name) for name in good.namelist()]


@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
@settings(deadline=None)
def test_cut_and_spliced_archives_never_crash_the_reader(noise: bytes, start: int, stop: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        for data in (GOOD[:start], GOOD[:start] + noise + GOOD[stop:], noise + GOOD, GOOD + noise):
            found = problems(data, Path(folder))
            assert found or data == GOOD


@given(st.text(max_size=40))
def test_names_are_judged_without_crashing(name: str) -> None:
    assert name_problem(name) is None or name_problem(name)


@pytest.mark.parametrize(
    "name", ["NUL", "com1.txt", "COM\u00b9", "lpt0.md", "AUX .txt", "a<b", 'a"b', "a ", "a.", "..", ".", "", "é" * 128]
)
def test_names_that_do_not_travel_are_refused(name: str) -> None:
    assert name_problem(name)


@pytest.mark.parametrize("name", ["console.txt", "comma.md", "nullable", "Übersicht.md", "a..b", "é" * 127, "com10"])
def test_names_that_only_look_odd_are_fine(name: str) -> None:
    assert name_problem(name) is None
