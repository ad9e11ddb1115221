"""The safetensors header reader agrees with the reference library on good files and refuses every damaged one."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.safetensors_header import DTYPE_BITS, SafetensorsError, parse_header, read_header


def pack(header: Any, data: bytes = b"", pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def test_what_numpy_and_the_reference_library_wrote_is_read_alike(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    numpy_files = pytest.importorskip("safetensors.numpy")
    tensors = {
        "a": np.ones((2, 3), np.float32),
        "b.c": np.zeros((0, 4), np.int64),
        "d": np.array(1.5),
        "e": np.ones(3, bool),
    }
    numpy_files.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors")
    assert {t.name: t.shape for t in header.tensors} == {name: array.shape for name, array in tensors.items()}
    assert header.metadata == {"format": "pt"} and header.aligned
    data = (tmp_path / "x.safetensors").read_bytes()[header.data_start :]
    for name, array in tensors.items():
        begin, end = header[name].offsets
        assert data[begin:end] == array.tobytes()
        assert header[name].elements == array.size


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "0 bytes"),
        (pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234567"), "truncated"),
        (pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"123456789"), "belongs to no tensor"),
        (pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"x" * 12), "unused"),
        (pack({"a": {"dtype": "F32", "shape": [2, 2**62], "data_offsets": [0, 8]}}, b"x" * 8), "overflows"),
        (pack({"a": {"dtype": "F32", "shape": [0, 2**63, 4], "data_offsets": [0, 0]}}), "overflows"),
        (pack({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"1234"), "whole numbers"),
        (pack({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}}, b"1234"), "exactly"),
        (pack(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "whole numbers"),
        (pack(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}\n'), "end with"),
        (pack({"__metadata__": {"a": None}}), "not a string"),
        (pack({"\u202ea": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), "U+202E"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(data: bytes, told: str) -> None:
    with pytest.raises(SafetensorsError, match=told.replace("+", r"\+")) as caught:
        parse_header(data)
    assert isinstance(caught.value, CheckpointError)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, struct.pack("<Q", len(data)) + data, pack(b"{" + data + b"}")):
        try:
            parse_header(candidate)
        except SafetensorsError:
            pass


_tensor = st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 5), max_size=4)).filter(
    lambda item: not DTYPE_BITS[item[0]] * _count(item[1]) % 8
)


def _count(shape: list[int]) -> int:
    count = 1
    for dimension in shape:
        count *= dimension
    return count


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20).filter(
            lambda n: n != "__metadata__"
        ),
        _tensor,
        max_size=6,
    ),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_every_well_formed_file_is_read_and_every_shifted_one_refused(
    tensors: dict[str, Any], pad: int, random: Any
) -> None:
    names = list(tensors)
    random.shuffle(names)
    header, at = {}, 0
    for name in names:
        dtype, shape = tensors[name]
        size = DTYPE_BITS[dtype] * _count(shape) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    read = parse_header(pack({name: header[name] for name in tensors}, bytes(at), pad))
    assert {t.name: (t.dtype, list(t.shape)) for t in read.tensors} == {
        name: (dtype, shape) for name, (dtype, shape) in tensors.items()
    }
    with pytest.raises(SafetensorsError):
        parse_header(pack(header, bytes(at + 1)))
    if at:
        with pytest.raises(SafetensorsError):
            parse_header(pack(header, bytes(at - 1)))


GOOD = pack(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.c": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "z": {"dtype": "U8", "shape": [0], "data_offsets": [32, 32]},
    },
    bytes(32),
)


@given(st.integers(8, len(GOOD) - 33), st.sampled_from(list(b'{}[]",:0123456789-+.eE ab\\\x00\n')), st.booleans())
def test_what_is_accepted_means_the_same_to_the_reference_library(position: int, byte: int, insert: bool) -> None:
    """One byte of the header changed, or one more: if we take the file, so does the other reader, with the same table."""
    safetensors = pytest.importorskip("safetensors")
    data = bytearray(GOOD)
    data[position : position if insert else position + 1] = bytes([byte])
    data[:8] = struct.pack("<Q", len(data) - 8 - 32)
    try:
        ours = parse_header(bytes(data))
    except SafetensorsError:
        return
    theirs = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in safetensors.deserialize(bytes(data))}
    assert theirs == {tensor.name: (tensor.dtype, tensor.shape) for tensor in ours.tensors}
