"""Rate limits: so many requests a minute for one anonymous address or one token, told in headers.

Counted in each process by a token bucket that holds a minute's worth. Health and metrics are free. Wrong tokens are counted
by address, so that guessing is limited too, and an invented one opens no door around the limit.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from ipaddress import AddressValueError, IPv6Address

from starlette.types import Scope

from adapterhub.server.settings import Settings

__all__ = ["Buckets", "RateLimits", "Verdict"]

_FREE = ("/healthz", "/readyz", "/metrics")
_REMEMBERED = 50_000


class Verdict:
    """What a request may do, and the headers that say so."""

    __slots__ = ("allowed", "limit", "remaining", "seconds")

    def __init__(self, allowed: bool, limit: int, remaining: int, seconds: float) -> None:
        self.allowed = allowed
        self.limit = limit
        self.remaining = remaining
        self.seconds = seconds

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """RateLimit headers, with Retry-After for a refusal."""
        found = [
            (b"ratelimit-limit", str(self.limit).encode()),
            (b"ratelimit-remaining", str(self.remaining).encode()),
            (b"ratelimit-reset", str(math.ceil(self.seconds)).encode()),
        ]
        return found if self.allowed else [*found, (b"retry-after", str(max(1, math.ceil(self.seconds))).encode())]


class RateLimits:
    """The buckets of this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = Buckets()

    def check(self, scope: Scope, authorization: bytes, address: str) -> Verdict | None:
        """Take one from the caller's bucket; None where nothing is limited."""
        if scope["path"] in _FREE:
            return None
        anonymous, limit = self._settings.rate_per_minute, self._settings.rate_per_minute_token
        if not authorization:
            return self._buckets.take(f"address {_network(address)}", anonymous) if anonymous else None
        if anonymous and not self._buckets.has(f"wrong tokens of {_network(address)}", anonymous):
            return Verdict(False, anonymous, 0, 60 / anonymous)
        return self._buckets.take(f"token {hashlib.sha256(authorization).hexdigest()}", limit) if limit else None

    def punish(self, address: str) -> None:
        """A token that was not good: count it against the address."""
        if self._settings.rate_per_minute:
            self._buckets.take(f"wrong tokens of {_network(address)}", self._settings.rate_per_minute)


def _network(address: str) -> str:
    """Whose address it is: of IPv6 a subscriber has at least the last 64 bits to choose freely."""
    if ":" not in address:
        return address
    try:
        return ":".join(IPv6Address(address.partition("%")[0]).exploded.split(":")[:4])
    except AddressValueError:  # whatever a proxy wrote
        return address


class Buckets:
    """Token buckets by key: each holds a minute's worth, and fills again at that rate. The least used are forgotten."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key → (left, at)
        self._lock = threading.Lock()

    def has(self, key: str, limit: int) -> bool:
        """Whether there is one left; takes nothing."""
        clock = time.monotonic()
        with self._lock:
            left, at = self._buckets.get(key, (float(limit), clock))
            return left + (clock - at) * limit / 60 >= 1

    def take(self, key: str, limit: int) -> Verdict:
        """Take one of the `limit` a minute."""
        clock = time.monotonic()
        with self._lock:
            left, at = self._buckets.pop(key, (float(limit), clock))
            left = min(float(limit), left + (clock - at) * limit / 60)
            allowed = left >= 1
            left -= allowed
            self._buckets[key] = (left, clock)
            while len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        seconds = (limit - left) * 60 / limit if allowed else (1 - left) * 60 / limit
        return Verdict(allowed, limit, int(left), seconds)
