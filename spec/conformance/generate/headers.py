"""Vectors of safetensors headers (SPEC.md 8.3 and 16): whole files in base64, with what they hold or why they are refused.

Files and verdicts are written by hand from the format's rules; the reader under test is not asked.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write


def file(header: Any, data: int | bytes = 0, *, length: int | None = None) -> bytes:
    """A file: header as JSON value or as raw bytes, then so many zero bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    body = bytes(data) if isinstance(data, int) else data
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(begin: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def raw(entry: str) -> bytes:
    return ('{"a":{' + entry + "}}").encode()


TWO = {"a": tensor(0, 16), "b": tensor(16, 24)}

VALID = [
    ("two tensors", file(TWO, 24)),
    ("no tensors", file({})),
    ("padded with blanks to a multiple of eight", file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  ', 4)),
    ("not aligned", file({"a": tensor(0, 3, [3], "U8"), "b": tensor(3, 7)}, 7)),
    ("metadata", file({"__metadata__": {"format": "pt", "note": '{"json": "as text"}'}, **TWO}, 24)),
    ("header order is not offset order", file({"b": tensor(16, 24), "a": tensor(0, 16)}, 24)),
    ("a scalar", file({"a": tensor(0, 4, [])}, 4)),
    ("a tensor without elements", file({"a": tensor(0, 0, [0, 5])})),
    ("tensors without elements between others", file({"a": tensor(0, 16), "z": tensor(16, 16, [0]), "b": tensor(16, 24)}, 24)),
    ("names in many scripts", file({"größe.Ü": tensor(0, 4), "\U0001f600": tensor(4, 8)}, 8)),
    ("names as escapes", file(b'{"\\u00e9":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)),
    ("every dtype of eight bits and more", file(
        {
            name: {"dtype": name, "shape": [1], "data_offsets": [at, at + size]}
            for at, size, name in zip(
                [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40],
                [1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8],
                ["BOOL", "U8", "I8", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64"],
                strict=True,
            )
        },
        48,
    )),
    ("dtypes of less than eight bits", file({"a": tensor(0, 1, [2], "F4"), "b": tensor(1, 4, [4], "F6_E2M3")}, 4)),
]  # fmt: skip

INVALID = [
    ("an empty file", b""),
    ("a file cut in the length", b"\x10\x00\x00"),
    ("a length beyond the file", file(TWO, 24, length=10_000)),
    ("a length of 2^63", file(TWO, 24, length=2**63)),
    ("a length that leaves a byte out", file(TWO, 24, length=len(json.dumps(TWO, separators=(",", ":"))) - 1)),
    ("a zip archive", b"PK\x03\x04" + bytes(60)),
    ("a pickle", b"\x80\x02}q\x00." + bytes(20)),
    ("a header that is a list", file([], 0)),
    ("blanks before the header", file(b'  {"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)),
    ("a line end behind the header", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}\n', 1)),
    ("zero bytes behind the header", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}\x00', 1)),
    ("a byte order mark", file(b'\xef\xbb\xbf{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)),
    ("not UTF-8", file(b'{"\xe9":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)),
    ("a lone surrogate", file(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)),
    ("a name twice", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)),
    ("a name twice, once escaped", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}', 1)),
    ("a member twice", file(raw('"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]'), 1)),
    ("a member too many", file(raw('"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1'), 1)),
    ("no dtype", file(raw('"shape":[1],"data_offsets":[0,1]'), 1)),
    ("no shape", file(raw('"dtype":"U8","data_offsets":[0,1]'), 1)),
    ("no offsets", file(raw('"dtype":"U8","shape":[1]'), 1)),
    ("an entry that is a list", file({"a": []})),
    ("an entry that is a text", file({"a": "F32"})),
    ("an unknown dtype", file({"a": tensor(0, 4, [1], "float32")}, 4)),
    ("a dtype in small letters", file({"a": tensor(0, 4, [1], "f32")}, 4)),
    ("a shape that is a number", file({"a": tensor(0, 4, 1)}, 4)),
    ("a negative dimension", file({"a": tensor(0, 4, [-1])}, 4)),
    ("two negative dimensions", file({"a": tensor(0, 16, [-2, -2])}, 16)),
    ("a fractional dimension", file({"a": tensor(0, 4, [1.0])}, 4)),
    ("a boolean dimension", file({"a": tensor(0, 4, [True])}, 4)),
    ("a dimension as text", file({"a": tensor(0, 4, ["1"])}, 4)),
    ("a product that wraps at 2^64", file({"a": tensor(0, 4, [2**32 + 1, 2**32, 1])}, 4)),
    ("sizes that wrap in bytes only", file({"a": tensor(0, 16, [2**62 + 4])}, 16)),
    ("a huge dimension beside zero", file({"a": tensor(0, 0, [2**63, 4, 0])})),
    ("a thousand dimensions", file({"a": tensor(0, 4, [1] * 1000)}, 4)),
    ("three offsets", file(raw('"dtype":"U8","shape":[1],"data_offsets":[0,1,1]'), 1)),
    ("offsets as text", file(raw('"dtype":"U8","shape":[1],"data_offsets":["0","1"]'), 1)),
    ("an offset as a fraction", file(raw('"dtype":"U8","shape":[1],"data_offsets":[0,1.0]'), 1)),
    ("minus zero", file(raw('"dtype":"U8","shape":[1],"data_offsets":[-0,1]'), 1)),
    ("offsets the wrong way round", file(raw('"dtype":"U8","shape":[1],"data_offsets":[1,0]'), 1)),
    ("a begin that wraps", file({"a": {"dtype": "F32", "shape": [4], "data_offsets": [2**64 - 8, 8]}}, 8)),
    ("fewer bytes than elements", file({"a": tensor(0, 12, [4])}, 12)),
    ("more bytes than elements", file({"a": tensor(0, 20, [4])}, 20)),
    ("elements that end within a byte", file({"a": tensor(0, 1, [1], "F4")}, 1)),
    ("beyond the end of the file", file(TWO, 20)),
    ("bytes behind the last tensor", file(TWO, 25)),
    ("bytes before the first tensor", file({"a": tensor(4, 20)}, 20)),
    ("bytes between tensors", file({"a": tensor(0, 16), "b": tensor(20, 28)}, 28)),
    ("tensors that overlap", file({"a": tensor(0, 16), "b": tensor(12, 20)}, 20)),
    ("the same bytes twice", file({"a": tensor(0, 16), "b": tensor(0, 16)}, 16)),
    ("an empty tensor inside another", file({"a": tensor(0, 16), "z": tensor(8, 8, [0])}, 16)),
    ("an empty tensor beyond the end", file({"a": tensor(0, 16), "z": tensor(64, 64, [0])}, 16)),
    ("metadata that is a list", file({"__metadata__": [], **TWO}, 24)),
    ("metadata that is null", file({"__metadata__": None, **TWO}, 24)),
    ("a number in metadata", file({"__metadata__": {"epoch": 3}, **TWO}, 24)),
    ("a NUL in a name", file({"a\x00b": tensor(0, 4)}, 4)),
    ("a direction change in a name", file({"a\u202eb": tensor(0, 4)}, 4)),
    ("no name", file({"": tensor(0, 4)}, 4)),
    ("a name of 1,025 characters", file({"a" * 1025: tensor(0, 4)}, 4)),
    ("a trailing comma", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},}', 1)),
    ("NaN", file(raw('"dtype":"U8","shape":[NaN],"data_offsets":[0,1]'), 1)),
]  # fmt: skip


def documents() -> dict[str, Any]:
    valid = []
    for why, data in VALID:
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        metadata = header.pop("__metadata__", {})
        valid.append({"why": why, "base64": base64.b64encode(data).decode(), "metadata": metadata, "tensors": header})
    return {
        "about": "base64: a whole safetensors file. valid: what its header holds. invalid: a reader must refuse it.",
        "valid": numbered("header", valid),
        "invalid": numbered(
            "no-header", [{"why": why, "base64": base64.b64encode(data).decode()} for why, data in INVALID]
        ),
    }


def main(folder: Path = CONFORMANCE) -> None:
    write(folder, "headers/headers.json", documents())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
