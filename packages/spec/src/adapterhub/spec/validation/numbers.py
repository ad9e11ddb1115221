"""Whether the numbers of a safetensors file are all finite: a NaN in an adapter makes every output a NaN.

Standard library only, a few bytes an element: a float is NaN or infinite exactly if all bits of its exponent are 1, so the
highest byte of almost every number already tells that it is not (IEEE 754).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from adapterhub.spec.safetensors_header import Header, TensorInfo
from adapterhub.spec.validation.problem import Problem

__all__ = ["number_problems"]

_CHUNK = 4 * 1024 * 1024
#: dtype → (bytes, bits of the exponent in the highest byte, bits of it in the byte below)
_EXPONENTS = {"F16": (2, 0x7C, 0x00), "BF16": (2, 0x7F, 0x80), "F32": (4, 0x7F, 0x80), "F64": (8, 0x7F, 0xF0)}


def number_problems(path: Path, header: Header) -> Iterator[Problem]:
    """A problem for each tensor that holds NaN or infinity; at most twenty.

    Args:
        path: a safetensors file.
        header: its header.
    """
    told = 0
    with path.open("rb") as file:
        for tensor in header.tensors:
            if tensor.dtype in _EXPONENTS and _odd(file, tensor, header.data_start):
                yield Problem("", f"{tensor.name[:200]!r} holds NaN or infinity", "The training diverged; train again.")
                told += 1
                if told == 20:
                    return


def _odd(file: BinaryIO, tensor: TensorInfo, start: int) -> bool:
    width, high, low = _EXPONENTS[tensor.dtype]
    marks = [bytes([byte]) for byte in range(256) if byte & high == high]
    file.seek(start + tensor.offsets[0])
    left = tensor.size
    while left:
        data: bytes = file.read(min(_CHUNK, left))
        if not data:
            return False
        left -= len(data)
        top = data[width - 1 :: width]
        if any(mark in top for mark in marks) and (not low or _both(top, data[width - 2 :: width], high, low)):
            return True
    return False


def _both(top: bytes, below: bytes, high: int, low: int) -> bool:
    return any(one & high == high and other & low == low for one, other in zip(top, below, strict=True))
