"""What a body holds: without its compression, never more than is due, and as its digest says."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping

from adapterhub.client.credentials import redact
from adapterhub.spec.errors import HubConnectionError, IntegrityError

__all__ = ["check_content_digest", "decoded", "inflated", "too_much"]

_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")
#: bytes that come out of decompression at a time
_AT_ONCE = 1 << 20


def too_much(sender: str, cap: int) -> IntegrityError:
    return IntegrityError(
        f"{sender} sends more than the {cap:,} bytes that are due.", hint="Nothing was kept.", details={"retry": True}
    )


def decoded(raw: bytes, encoding: str, cap: int, url: str) -> bytes:
    """A body without its compression, never more than `cap` bytes of it."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") or not raw:
        return raw
    return b"".join(inflated([raw], encoding, cap, url))


def inflated(pieces: Iterable[bytes], encoding: str, cap: int, url: str) -> Iterator[bytes]:
    """What was compressed, in pieces of bounded size: a few bytes may stand for gigabytes."""
    if encoding not in ("gzip", "x-gzip"):
        raise HubConnectionError(
            f"{redact(url)} is compressed with {encoding[:20]!r}, which was not asked for.", details={"retry": True}
        )
    unpack, taken = zlib.decompressobj(31), 0
    try:
        for packed in pieces:
            while packed and not unpack.eof:
                piece = unpack.decompress(packed, _AT_ONCE)
                packed, taken = unpack.unconsumed_tail, taken + len(piece)
                if taken > cap:
                    raise too_much(redact(url), cap)
                yield piece
    except zlib.error as error:
        raise HubConnectionError(f"{redact(url)} cannot be decompressed.", details={"retry": True}) from error
    if not unpack.eof:
        raise HubConnectionError(f"{redact(url)} ended in the middle.", details={"retry": True})


def check_content_digest(headers: Mapping[str, str], raw: bytes, body: bytes, url: str) -> None:
    """Compare a body with its `Content-Digest` (RFC 9530), where there is one: a bit that falls over on the way would
    otherwise stay, for the copy is kept and its ETag is right. A proxy that compresses without telling is put up with."""
    found = _DIGEST.search(headers.get("content-digest", ""))
    if found is None:
        return
    if all(base64.b64encode(hashlib.sha256(data).digest()).decode() != found[1] for data in (raw, body)):
        raise IntegrityError(
            f"{redact(url)} arrived broken.", hint="Nothing was kept. Try again.", details={"retry": True}
        )
