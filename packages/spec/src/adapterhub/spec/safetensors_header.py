"""Read and check the header of a safetensors file: standard library only, tensor data never touched.

A file is `N` (8 bytes, unsigned, little endian), `N` bytes of JSON, and the data the JSON describes. Every byte of the
data must belong to exactly one tensor: a file that passes here cannot hide a payload, claim memory it does not have, or
mean two things to two readers. Unaligned data is allowed (`Header.aligned` tells).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.validation.plain_text import hidden_character
from adapterhub.spec.validation.strict_json import JSONSyntaxError, read_json

__all__ = ["DTYPE_BITS", "Header", "SafetensorsError", "TensorInfo", "check_stream", "parse_header", "read_header"]

#: dtype name → bits of one element
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_TENSORS = 10_000
MAX_NAME_LENGTH = 1_024
MAX_RANK = 64
MAX_METADATA_BYTES = 65_536
_MAX_BYTES = 2**63 - 1


class SafetensorsError(CheckpointError):
    """A file that is no well-formed safetensors file. `pointer` is the place in the header, `""` for the file itself."""

    def __init__(self, message: str, *, pointer: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it.

    Attributes:
        name: its key.
        dtype: a name of `DTYPE_BITS`.
        shape: the dimensions; `()` for a scalar.
        offsets: first byte and first byte behind, counted from the start of the data (not of the file).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self.offsets[1] - self.offsets[0]

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header.

    Attributes:
        tensors: in the order of the header.
        metadata: the strings of `__metadata__`.
        data_start: where the data begins in the file.
        file_size: bytes of the whole file.
    """

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    data_start: int = 8
    file_size: int = 8

    def __getitem__(self, name: str) -> TensorInfo:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the header."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def aligned(self) -> bool:
        """Whether the data starts at a multiple of 8 and each tensor at a multiple of its element's size."""
        return self.data_start % 8 == 0 and all(
            tensor.offsets[0] % max(1, DTYPE_BITS[tensor.dtype] // 8) == 0 for tensor in self.tensors
        )


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked header of the safetensors file at `path`.

    Raises:
        SafetensorsError: the file is not well-formed; the message says where and why.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return check_stream(file, os.fstat(file.fileno()).st_size)


def parse_header(data: bytes) -> Header:
    """The checked header of a safetensors file that is in memory as a whole."""
    import io

    return check_stream(io.BytesIO(data), len(data))


def check_stream(file: BinaryIO, size: int) -> Header:
    """The checked header of a stream that is said to hold `size` bytes; only the header is read.

    Raises:
        SafetensorsError: the file is not well-formed.
    """
    start = file.read(8)
    if len(start) < 8:
        raise SafetensorsError(
            f"the file has {len(start)} bytes; a safetensors file starts with 8 bytes of header length"
        )
    length = int.from_bytes(start, "little")
    if length > size - 8:
        raise SafetensorsError(
            f"the header claims {length:,} bytes, the file has {size - 8:,} after its length field",
            hint="The file is truncated or is not a safetensors file.",
        )
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(f"the header claims {length:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise SafetensorsError("the header does not start with '{'")
    if not text.rstrip(b" ").endswith(b"}"):
        raise SafetensorsError("the header does not end with '}' (only blanks may pad it)")
    try:
        header = read_json(text, max_bytes=MAX_HEADER_BYTES, max_depth=3, parse_int=_integer)
    except JSONSyntaxError as error:
        raise SafetensorsError(f"header: {error.message}", pointer=error.pointer, hint=error.hint) from None
    metadata = _metadata(header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise SafetensorsError(f"{len(header):,} tensors, more than the {MAX_TENSORS:,} allowed")
    tensors = tuple(_tensor(name, entry) for name, entry in header.items())
    _check_layout(tensors, size - 8 - length)
    return Header(tensors, metadata, 8 + length, size)


def _integer(text: str) -> Any:
    """Unsigned 64-bit integers as int; any other text as itself, which the checks below then refuse."""
    return int(text) if text.isdigit() and len(text) <= 20 else text


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise SafetensorsError("__metadata__ is not an object of strings", pointer="/__metadata__")
    total = 0
    for key, text in value.items():
        if not isinstance(text, str):
            raise SafetensorsError(f"__metadata__ value of {_shown(key)} is not a string", pointer="/__metadata__")
        total += len(key.encode()) + len(text.encode())
    if total > MAX_METADATA_BYTES:
        raise SafetensorsError(
            f"__metadata__ holds {total:,} bytes, more than the {MAX_METADATA_BYTES:,} allowed", pointer="/__metadata__"
        )
    return dict(value)


def _tensor(name: str, entry: Any) -> TensorInfo:
    pointer = "/" + name[:MAX_NAME_LENGTH].replace("~", "~0").replace("/", "~1")
    if not name or len(name) > MAX_NAME_LENGTH:
        raise SafetensorsError(f"a tensor name of {len(name):,} characters (1 to {MAX_NAME_LENGTH:,} are allowed)")
    hidden = hidden_character(name)
    if hidden is not None:
        raise SafetensorsError(f"the tensor name {_shown(name)} holds U+{ord(hidden):04X}", pointer=pointer)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(
            f"{_shown(name)} is not an object with exactly dtype, shape and data_offsets", pointer=pointer
        )
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise SafetensorsError(f"{_shown(name)}: unknown dtype {_shown(dtype)}", pointer=f"{pointer}/dtype")
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_is_count(item) for item in shape):
        raise SafetensorsError(
            f"{_shown(name)}: the shape is not a list of at most {MAX_RANK} whole numbers from 0 on",
            pointer=f"{pointer}/shape",
        )
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(item) for item in offsets):
        raise SafetensorsError(
            f"{_shown(name)}: data_offsets are not two whole numbers from 0 on", pointer=f"{pointer}/data_offsets"
        )
    begin, end = offsets
    if begin > end:
        raise SafetensorsError(f"{_shown(name)} ends before it begins", pointer=f"{pointer}/data_offsets")
    bits = DTYPE_BITS[dtype]
    for dimension in shape:  # zeros are left out here: whether [2^63, 4, 0] overflows must not depend on the order
        bits *= dimension or 1
        if bits > 8 * _MAX_BYTES:
            raise SafetensorsError(f"{_shown(name)}: the shape overflows 63 bits", pointer=f"{pointer}/shape")
    if 0 in shape:
        bits = 0
    if bits != 8 * (end - begin):
        raise SafetensorsError(
            f"{_shown(name)}: {dtype} of shape {list(shape)} takes {bits / 8:,.10g} bytes, "
            f"its offsets span {end - begin:,}",
            pointer=f"{pointer}/data_offsets",
        )
    return TensorInfo(name, dtype, tuple(shape), (begin, end))


def _check_layout(tensors: tuple[TensorInfo, ...], data_size: int) -> None:
    """Sorted by offset, the tensors must tile the data: no gap, no overlap, nothing before, between or after."""
    reached = 0
    for tensor in sorted(tensors, key=lambda item: item.offsets):
        begin, end = tensor.offsets
        if begin != reached:
            what = "overlaps the one before it" if begin < reached else f"leaves {begin - reached:,} bytes unused"
            raise SafetensorsError(f"{_shown(tensor.name)} begins at {begin:,} and {what}")
        reached = end
    if reached != data_size:
        what = "the file is truncated" if reached > data_size else "the rest belongs to no tensor"
        raise SafetensorsError(f"the tensors end at byte {reached:,} of {data_size:,} bytes of data: {what}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
