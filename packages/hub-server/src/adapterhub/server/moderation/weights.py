"""A look at the numbers of published weights: how many are NaN or infinite, and how large they are.

Nothing is refused for it (the client refuses to push such files): a reader is told, and judges. Files are looked at one after the other in the background, for a
twentieth of the time while others are published and for half of it otherwise; `adapterhub-server verify --rebuild` catches up
on what was missed.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import operator
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Connection, func, select
from starlette.concurrency import run_in_threadpool

from adapterhub.server.moderation.tables import weight_checks
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.storage import Storage
from adapterhub.server.storage.blobs import BlobStore
from adapterhub.server.storage.tables import blobs, now, version_files
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.safetensors_header import DTYPE_BITS, MAX_HEADER_BYTES, TensorInfo, check_stream

__all__ = ["WeightQueue", "check_missing", "look_at", "look_at_weights", "not_finite", "weights_of"]

log = logging.getLogger("adapterhub.server.weights")

_WINDOW = 8 * 1024 * 1024
_SAMPLE = 1024
_MOST_WAITING = 10_000
_BUSY_SECONDS = 2.0
_REST, _REST_WHILE_BUSY = 1.0, 19.0  # times as long as the look took
#: dtype → (bytes, bits of the exponent in the highest byte, bits of it in the byte below): all set means NaN or infinite (IEEE 754)
_EXPONENTS = {"F16": (2, 0x7C, 0x00), "BF16": (2, 0x7F, 0x80), "F32": (4, 0x7F, 0x80), "F64": (8, 0x7F, 0xF0)}


class WeightQueue:
    """Blobs this process still has to look at."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._last = 0.0

    def add(self, digests: Iterable[str]) -> None:
        """Look at these some time."""
        self._waiting.extend(digests)
        self._last = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether something was published just now."""
        return time.monotonic() - self._last < _BUSY_SECONDS

    def take(self) -> str | None:
        """The next one."""
        return self._waiting.popleft() if self._waiting else None


async def look_at_weights(app: FastAPI) -> None:
    """Background task: look at what was published here."""
    queue: WeightQueue = app.state.weights
    while True:
        digest = queue.take()
        if digest is None:
            await asyncio.sleep(0.5)
            continue
        began = time.monotonic()
        try:
            await run_in_threadpool(_check, app.state.storage, digest)
        except Exception:
            log.exception("weights could not be looked at", extra={"fields": {"digest": digest}})
        await asyncio.sleep((_REST_WHILE_BUSY if queue.busy else _REST) * (time.monotonic() - began))


def check_missing(storage: Storage) -> int:
    """Look at every file of weights nobody has looked at; returns how many there were."""
    query = (
        select(version_files.c.digest)
        .join(blobs, blobs.c.digest == version_files.c.digest)
        .outerjoin(weight_checks, weight_checks.c.digest == version_files.c.digest)
        .where(version_files.c.path.endswith(".safetensors"), weight_checks.c.digest.is_(None))
        .distinct()
    )
    with storage.database.read() as connection:
        missing = list(connection.execute(query).scalars())
    return sum(_check(storage, digest) for digest in missing)


def weights_of(connection: Connection, digests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What is known about these blobs, by digest."""
    wanted = list(digests)
    rows = connection.execute(select(weight_checks).where(weight_checks.c.digest.in_(wanted))) if wanted else ()
    return {
        row.digest: {
            "numbers": row.numbers,
            "not_finite": row.not_finite,
            "checked_at": row.checked_at,
            **json.loads(row.details),
        }
        for row in rows
    }


def not_finite(connection: Connection, digests: list[str]) -> int:
    """How many numbers of these blobs are known to be NaN or infinite."""
    here = weight_checks.c.digest.in_(digests)
    return int(
        connection.execute(select(func.coalesce(func.sum(weight_checks.c.not_finite), 0)).where(here)).scalar_one()
    )


def look_at(store: BlobStore, digest: str) -> dict[str, Any]:
    """Count the numbers of a safetensors blob that are not finite, and measure a sample of each tensor.

    Returns:
        `numbers` and `not_finite` over all floating-point tensors, and `tensors`: name, not_finite, largest (magnitude)
        and rms (root mean square) of at most 1,024 evenly spread values of each. Tensors of other types are left out.

    Raises:
        AdapterHubError: no such blob, or no safetensors file.
    """
    size = store.size(digest) or 0
    length = int.from_bytes(store.read(digest, 0, min(8, size)), "little")
    header = check_stream(io.BytesIO(store.read(digest, 0, min(size, 8 + min(length, MAX_HEADER_BYTES)))), size)
    tensors = [tensor for tensor in header.tensors if tensor.dtype in _EXPONENTS]
    found = [_measure(tensor, _pieces(store, digest, header.data_start, tensor)) for tensor in tensors]
    return {
        "numbers": sum(tensor.size * 8 // DTYPE_BITS[tensor.dtype] for tensor in tensors),
        "not_finite": sum(one["not_finite"] for one in found),
        "tensors": found,
    }


def _check(storage: Storage, digest: str) -> bool:
    """Look at a blob, unless that was done; whether it could be done."""
    with storage.database.read() as connection:
        if weights_of(connection, [digest]):
            return False
    try:
        found = look_at(storage.blobs, digest)
    except (AdapterHubError, OSError) as error:
        log.info("weights not looked at", extra={"fields": {"digest": digest, "reason": str(error)}})
        return False
    row = {
        "digest": digest,
        "numbers": found["numbers"],
        "not_finite": found["not_finite"],
        "details": json.dumps({"tensors": found["tensors"]}),
        "checked_at": now(),
    }
    with storage.database.write(durable=False) as connection:
        insert_missing(connection, weight_checks, row)
    return True


def _pieces(store: BlobStore, digest: str, start: int, tensor: TensorInfo) -> Iterator[bytes]:
    at, end = (start + offset for offset in tensor.offsets)
    while at < end:
        yield store.read(digest, at, min(at + _WINDOW, end))
        at += _WINDOW


def _measure(tensor: TensorInfo, pieces: Iterable[bytes]) -> dict[str, Any]:
    width, high, low = _EXPONENTS[tensor.dtype]
    marks = [bytes([byte]) for byte in range(256) if byte & high == high]
    count = tensor.size // width
    step = max(1, math.ceil(count / _SAMPLE))
    odd = 0
    sample: list[float] = []
    for data in pieces:
        top = data[width - 1 :: width]
        if any(mark in top for mark in marks):
            odd += _odd(top, data[width - 2 :: width], high, low)
        sample += _values(data, width, tensor.dtype, step)
    finite = [value for value in sample if math.isfinite(value)] if odd else sample
    square = sum(map(operator.mul, finite, finite)) / len(finite) if finite else 0.0
    largest = max(max(finite), -min(finite)) if finite else 0.0
    return {"name": tensor.name, "not_finite": odd, "largest": largest, "rms": math.sqrt(square)}


def _odd(top: bytes, below: bytes, high: int, low: int) -> int:
    return sum(one & high == high and other & low == low for one, other in zip(top, below, strict=True))


def _values(data: bytes, width: int, dtype: str, step: int) -> tuple[float, ...]:
    """Every `step`-th value."""
    count = -(-len(data) // (width * step))
    wide = 4 if dtype == "BF16" else width  # the upper half of a float32
    picked = bytearray(count * wide)
    for byte in range(width):
        picked[byte + wide - width :: wide] = data[byte :: width * step]
    letter = {"F16": "e", "BF16": "f", "F32": "f", "F64": "d"}[dtype]
    return struct.unpack(f"<{count}{letter}", picked)
