"""Rules for the zip archives of the 2020 hub: every byte accounted for, every name harmless, every entry a known kind.

An archive passes only if all readers must see the same entries in it: one end record at the very end, a central directory
that lists exactly the local entries, which lie one after the other from the first byte on, and headers that agree. Entries
are inflated as a stream under a budget to check sizes and checksums; nothing is written anywhere. (APPNOTE.TXT 6.3.10;
the limits follow what package indexes enforce.)
"""

from __future__ import annotations

import io
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from adapterhub.spec.safetensors_header import MAX_HEADER_BYTES, SafetensorsError, check_stream
from adapterhub.spec.validation.path_names import name_problem
from adapterhub.spec.validation.problem import Problem
from adapterhub.spec.validation.strict_json import JSONSyntaxError, read_json

__all__ = ["zip_problems"]

MAX_ENTRIES = 1_000
MAX_COMMENT = 4_096
MAX_RATIO = 100
RATIO_FROM = 1024 * 1024
MAX_TOTAL = 4 * 1024**3
MAX_NAME_BYTES = 1_024
MAX_DOCUMENT = 1024 * 1024
ALLOWED_SUFFIXES = (".safetensors", ".json", ".md", ".txt")
ALLOWED_NAMES = ("LICENSE", "NOTICE", "README")

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_CHUNK = 256 * 1024
_ALLOWED_FLAGS = 0x0002 | 0x0004 | 0x0008 | 0x0800
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class ZipError(ValueError):
    """A rule an archive breaks. `entry` is the name of the entry, `""` for the archive."""

    def __init__(self, message: str, entry: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.entry = entry
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the central directory."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    time: tuple[int, int]
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int
    zip64: bool

    @property
    def is_directory(self) -> bool:
        return self.name.endswith("/")


def zip_problems(path: Path) -> list[Problem]:
    """Everything that is wrong with the zip archive at `path`; empty when nothing is.

    A broken structure ends the check at once, since nothing behind it can be trusted; problems of entries are all listed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            entries, directory_start = _read_directory(file, size)
            problems = list(_name_problems(entries))
            if not problems:
                ends = _check_layout(file, entries, directory_start)
                _check_ratio(entries, size)
                for entry in entries:
                    problems += _content_problems(file, entry, ends[entry.offset])
        except ZipError as error:
            return [Problem("", error.message, error.hint, file=error.entry)]
        except (struct.error, zlib.error, EOFError) as error:
            return [Problem("", f"the archive is damaged: {error}")]
    return problems


# --- the directory ---------------------------------------------------------------------------------------------------


def _read_directory(file: BinaryIO, size: int) -> tuple[list[Entry], int]:
    if size < _END.size:
        raise ZipError("the file is too short for a zip archive")
    tail_size = min(size, _END.size + 65_535)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
    if at < 0:
        raise ZipError("there is no end record; this is no zip archive or its end is cut off")
    end_offset = size - tail_size + at
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
    if end_offset + _END.size + comment != size:
        raise ZipError("the end record is not at the end of the file, or its comment has another length")
    if comment > MAX_COMMENT or b"PK" in tail[at + _END.size :]:
        raise ZipError(f"the comment is longer than {MAX_COMMENT:,} bytes or holds a zip record")
    if disk or first_disk or here != count:
        raise ZipError("the archive claims to span several disks")
    directory_end = end_offset
    wide = _wide_end(file, end_offset)
    if wide is not None:
        directory_end, *known = wide
        for told, value, none in zip((count, length, start), known, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True):
            if told not in (value, none):
                raise ZipError("the two end records disagree")
        count, length, start = known
    if start + length != directory_end:
        raise ZipError("the central directory does not end where the end record begins")
    if count > MAX_ENTRIES:
        raise ZipError(f"{count:,} entries, more than the {MAX_ENTRIES:,} allowed")
    if count == 0:
        raise ZipError("the archive is empty")
    file.seek(start)
    directory = file.read(length)
    entries: list[Entry] = []
    position = 0
    while position < len(directory):
        if len(entries) == count:
            raise ZipError(f"the directory holds more entries than the {count:,} the end record tells")
        entry, position = _central(directory, position)
        entries.append(entry)
    if len(entries) != count:
        raise ZipError(f"the end record tells {count:,} entries, the directory has {len(entries):,}")
    return entries, start


def _wide_end(file: BinaryIO, end_offset: int) -> tuple[int, int, int, int] | None:
    """(offset, entries, length and start of the directory) of the zip64 end record, if there is one before the end record."""
    if end_offset < _LOCATOR.size:
        return None
    file.seek(end_offset - _LOCATOR.size)
    signature, disk, offset, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    if disk or disks != 1 or offset + _END64.size + _LOCATOR.size != end_offset:
        raise ZipError("the zip64 end record is not where it must be")
    file.seek(offset)
    signature, size, _, _, disk, first_disk, here, count, length, start = _END64.unpack(file.read(_END64.size))
    if signature != b"PK\x06\x06" or size != _END64.size - 12 or disk or first_disk or here != count:
        raise ZipError("the zip64 end record is damaged")
    return offset, count, length, start


def _central(directory: bytes, at: int) -> tuple[Entry, int]:
    if len(directory) - at < _CENTRAL.size:
        raise ZipError("the central directory is cut off")
    fields = _CENTRAL.unpack_from(directory, at)
    (signature, _, _, needed, reserved, flags, method, time, date, crc, packed, size) = fields[:12]
    name_length, extra_length, comment_length, disk, _internal, attributes, offset = fields[12:]
    if signature != b"PK\x01\x02":
        raise ZipError("the central directory is damaged")
    end = at + _CENTRAL.size + name_length + extra_length + comment_length
    if end > len(directory):
        raise ZipError("the central directory is cut off")
    raw = directory[at + _CENTRAL.size : at + _CENTRAL.size + name_length]
    extra = directory[at + _CENTRAL.size + name_length :][:extra_length]
    name = _decode(raw, flags)
    if disk:
        raise ZipError("the entry is said to be on another disk", name)
    _check_version(name, needed, reserved)
    _check_method(name, flags, method)
    zip64 = _extra_fields(extra, name)
    if zip64 is not None:
        packed, size, offset = _wide(zip64, name, size, packed, offset)
    elif 0xFFFFFFFF in (packed, size, offset):
        raise ZipError("sizes of 0xFFFFFFFF without a zip64 field", name)
    entry = Entry(raw, name, flags, method, (time, date), crc, packed, size, attributes, offset, zip64 is not None)
    return entry, end


def _wide(field: bytes, name: str, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset with the zip64 field's values in place of 0xFFFFFFFF."""
    values = [int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) - len(field) % 8, 8)]
    wanted = [value == 0xFFFFFFFF for value in (size, packed, offset)]
    if len(values) != sum(wanted):
        raise ZipError("the zip64 field does not fit the header", name)
    size, packed, offset = (
        values.pop(0) if wide else value for wide, value in zip(wanted, (size, packed, offset), strict=True)
    )
    return packed, size, offset


def _decode(raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & 0x0800 else "ascii")
    except UnicodeDecodeError:
        told = "is not UTF-8 although it is marked so" if flags & 0x0800 else "is not ASCII and not marked as UTF-8"
        raise ZipError(f"the name {raw[:60]!r} {told}") from None


def _check_method(name: str, flags: int, method: int) -> None:
    if flags & 0x2041:
        raise ZipError("the entry is encrypted", name)
    if flags & ~_ALLOWED_FLAGS:
        raise ZipError(f"the entry has unknown flags (0x{flags:04x})", name)
    if method not in (0, 8):
        raise ZipError(f"compression method {method}; only stored and deflated are accepted", name)


def _check_version(name: str, needed: int, reserved: int) -> None:
    if needed > 45 or reserved:
        raise ZipError(f"the entry needs version {needed / 10} of the format; up to 4.5 is accepted", name)


def _extra_fields(extra: bytes, name: str) -> bytes | None:
    """The zip64 field among the extra fields, if there is one."""
    found, position = None, 0
    while position < len(extra):
        if len(extra) - position < 4:
            raise ZipError("the extra field is damaged", name)
        kind, length = struct.unpack_from("<HH", extra, position)
        value = extra[position + 4 : position + 4 + length]
        if len(value) != length:
            raise ZipError("the extra field is damaged", name)
        if kind in (0x7075, 0x9901, 0x0017):
            raise ZipError(f"extra field 0x{kind:04x} (another name, or encryption) is not accepted", name)
        if kind == 0x0001:
            if found is not None:
                raise ZipError("two zip64 fields", name)
            found = value
        position += 4 + length
    return found


# --- names and kinds -------------------------------------------------------------------------------------------------


def _name_problems(entries: list[Entry]) -> Iterator[Problem]:
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for entry in entries:
        shown = entry.name[:200]
        wrong = _path_problem(entry)
        if wrong:
            yield Problem("", f"the entry name {shown!a} {wrong}", file=ascii(shown)[1:-1])
            continue
        kind = stat.S_IFMT(entry.attributes >> 16)
        if kind not in (0, stat.S_IFDIR if entry.is_directory else stat.S_IFREG):
            yield Problem("", "the entry is a link, a device or not the kind its name says", file=shown)
        if (entry.attributes >> 16) & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
            yield Problem("", "the entry has a set-user-id, set-group-id or sticky bit", file=shown)
        if bool(entry.attributes & 0x10) != entry.is_directory and (entry.attributes & 0x10):
            yield Problem("", "the entry is marked as a directory but named as a file", file=shown)
        if entry.is_directory and entry.size:
            yield Problem("", "a directory entry with content", file=shown)
        key = _key(entry.name)
        other = files.get(key) or directories.get(key)
        if other is not None:
            yield Problem("", f"the name is also that of {other!r}", file=shown)
        (directories if entry.is_directory else files).setdefault(key, shown)
        if not entry.is_directory:
            yield from _kind_problems(entry)
    above = {key[:at] for key in (*files, *directories) for at in range(len(key)) if key[at] == "/"}
    for key in above & set(files):
        yield Problem("", "is a file and a directory", file=files[key])


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.rstrip("/")).casefold()


def _path_problem(entry: Entry) -> str | None:
    name = entry.name
    if len(entry.raw_name) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES:,} bytes"
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "is absolute or has a drive"
    parts = (name[:-1] if entry.is_directory else name).split("/")
    if len(parts) > 10:
        return "has more than 10 components"
    for part in parts:
        if part == "..":
            return "has a parent component"
        wrong = name_problem(part)
        if wrong:
            return wrong
    return None


def _kind_problems(entry: Entry) -> Iterator[Problem]:
    path = PurePosixPath(entry.name)
    if path.suffix not in ALLOWED_SUFFIXES and path.name not in ALLOWED_NAMES:
        hint = f"Allowed: {', '.join(ALLOWED_SUFFIXES)}."
        if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"):
            hint = "Pickled weights are never accepted: convert them to safetensors."
        yield Problem(
            "", f"entries of this kind ({path.suffix or 'no suffix'}) are not accepted", hint, file=entry.name
        )


# --- layout and content ----------------------------------------------------------------------------------------------


def _check_layout(file: BinaryIO, entries: list[Entry], directory_start: int) -> dict[int, tuple[int, int]]:
    """For each entry's offset where its data begins and ends. Entries must tile the file up to the directory."""
    spans: dict[int, tuple[int, int]] = {}
    reached = 0
    for entry in sorted(entries, key=lambda item: item.offset):
        if entry.offset != reached:
            told = "overlaps another entry" if entry.offset < reached else "has unused bytes before it"
            raise ZipError(f"the entry {told}", entry.name)
        data = _check_local(file, entry, directory_start)
        reached = data + entry.packed
        if reached > directory_start:
            raise ZipError("the entry's data reach into the central directory", entry.name)
        spans[entry.offset] = (data, reached)
        if entry.flags & 0x0008:
            reached += _descriptor(file, entry, reached)
    if reached != directory_start:
        raise ZipError("there are bytes before the central directory that belong to no entry")
    return spans


def _check_local(file: BinaryIO, entry: Entry, limit: int) -> int:
    file.seek(entry.offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04" or entry.offset + _LOCAL.size > limit:
        raise ZipError("there is no local header where the directory says", entry.name)
    _, needed, reserved, flags, method, time, date, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    _check_version(entry.name, needed, reserved)
    raw, extra = file.read(name_length), file.read(extra_length)
    if len(raw) != name_length or len(extra) != extra_length:
        raise ZipError("the local header is cut off", entry.name)
    zip64 = _extra_fields(extra, entry.name)
    if zip64 is not None and 0xFFFFFFFF in (packed, size):
        packed, size, _ = _wide(zip64, entry.name, size, packed, 0)
    if raw != entry.raw_name:
        raise ZipError(f"the local header names it {raw[:60]!r}", entry.name)
    if (flags, method, (time, date)) != (entry.flags, entry.method, entry.time):
        raise ZipError("local and central header differ in flags, method or time", entry.name)
    later = bool(flags & 0x0008)  # sizes and checksum may follow the data
    told, known = (crc, packed, size), (entry.crc, entry.packed, entry.size)
    if told != known and not (later and told == (0, 0, 0)):
        raise ZipError("local and central header differ in checksum or size", entry.name)
    return entry.offset + _LOCAL.size + name_length + extra_length


def _descriptor(file: BinaryIO, entry: Entry, at: int) -> int:
    file.seek(at)
    data = file.read(24)
    for width in ("L", "Q"):
        body = struct.pack(f"<L2{width}", entry.crc, entry.packed, entry.size) if entry.size < 2**32 else b"?"
        for start in (b"PK\x07\x08", b""):
            if data.startswith(start + body):
                return len(start + body)
    raise ZipError("the data descriptor does not agree with the directory", entry.name)


def _check_ratio(entries: list[Entry], file_size: int) -> None:
    for entry in entries:
        if entry.size > RATIO_FROM and entry.size > MAX_RATIO * max(1, entry.packed):
            raise ZipError(
                f"{entry.size:,} bytes packed into {entry.packed:,}: more than {MAX_RATIO}:1", entry.name, "A zip bomb?"
            )
        if entry.method == 0 and entry.size != entry.packed:
            raise ZipError("a stored entry with two sizes", entry.name)
    total = sum(entry.size for entry in entries)
    if total > MAX_TOTAL or (total > 4 * RATIO_FROM and total > MAX_RATIO * file_size):
        raise ZipError(f"the entries expand to {total:,} bytes, too many for an archive of {file_size:,}")


def _content_problems(file: BinaryIO, entry: Entry, span: tuple[int, int]) -> Iterator[Problem]:
    path = PurePosixPath(entry.name)
    keep = 8 + MAX_HEADER_BYTES if path.suffix == ".safetensors" else MAX_DOCUMENT
    if path.suffix != ".safetensors" and entry.size > MAX_DOCUMENT:
        yield Problem("", f"{entry.size:,} bytes are more than the {MAX_DOCUMENT:,} allowed", file=entry.name)
        return
    kept = bytearray()
    crc = count = 0
    for chunk in _inflate(file, entry, span):
        count += len(chunk)
        crc = zlib.crc32(chunk, crc)
        if len(kept) < keep:
            kept += chunk[: keep - len(kept)]
    if count != entry.size:
        yield Problem("", f"expands to {count:,} bytes, {entry.size:,} were announced", file=entry.name)
        return
    if crc != entry.crc:
        yield Problem("", "the checksum is wrong", "The archive is damaged; download it again.", file=entry.name)
        return
    if not entry.is_directory:
        yield from (problem.within(entry.name) for problem in _document_problems(path, bytes(kept), entry.size))


def _document_problems(path: PurePosixPath, data: bytes, size: int) -> Iterator[Problem]:
    archive = next((kind for magic, kind in _ARCHIVES.items() if data.startswith(magic)), None)
    if archive or data[257:262] == b"ustar":
        yield Problem("", f"an archive ({archive or 'tar'}) inside the archive")
    elif path.suffix == ".safetensors":
        try:
            check_stream(io.BytesIO(data), size)
        except SafetensorsError as error:
            yield Problem(error.pointer, error.message, error.hint)
    elif path.suffix == ".json":
        try:
            read_json(data, max_bytes=MAX_DOCUMENT)
        except JSONSyntaxError as error:
            yield Problem(error.pointer, error.message, error.hint, line=error.line)
    else:
        from adapterhub.spec.validation.text import text_problems

        yield from text_problems(data)


def _inflate(file: BinaryIO, entry: Entry, span: tuple[int, int]) -> Iterator[bytes]:
    """The entry's content in pieces; at most one byte more than announced."""
    file.seek(span[0])
    left = span[1] - span[0]
    if entry.method == 0:
        while left:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise ZipError("the data are cut off", entry.name)
            left -= len(chunk)
            yield chunk
        return
    inflater = zlib.decompressobj(-15)
    budget = entry.size + 1
    pending = b""
    while budget and not inflater.eof:
        if not pending:
            pending = file.read(min(_CHUNK, left))
            left -= len(pending)
            if not pending:
                raise ZipError("the compressed data are cut off", entry.name)
        chunk = inflater.decompress(pending, min(_CHUNK, budget))
        pending = inflater.unconsumed_tail
        budget -= len(chunk)
        yield chunk
    if not inflater.eof and budget:
        raise ZipError("the compressed data do not end", entry.name)
    if inflater.eof and (left or inflater.unused_data or pending):
        raise ZipError("there are bytes behind the compressed data", entry.name)
