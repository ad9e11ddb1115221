"""Rate limits: so many requests a minute for one anonymous address or one token, told in headers.

Counted in each process by a token bucket that holds a minute's worth. Health and metrics are free. A wrong token counts
against the address it came from, so that guessing is limited too.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict

from starlette.types import Scope

from adapterhub.server.settings import Settings

__all__ = ["Buckets", "RateLimits", "Verdict"]

_FREE = ("/healthz", "/readyz", "/metrics")
_REMEMBERED = 50_000


class Verdict:
    """What a request may do, and the headers that say so."""

    __slots__ = ("address", "allowed", "limit", "remaining", "seconds")

    def __init__(self, allowed: bool, limit: int, remaining: int, seconds: float, address: str) -> None:
        self.allowed = allowed
        self.limit = limit
        self.remaining = remaining
        self.seconds = seconds
        self.address = address

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
        settings = self._settings
        if scope["path"] in _FREE:
            return None
        if authorization and settings.rate_per_minute_token:
            key, limit = hashlib.sha256(authorization).hexdigest(), settings.rate_per_minute_token
            if settings.rate_per_minute and not self._buckets.has(f"address {address}", settings.rate_per_minute):
                return Verdict(False, settings.rate_per_minute, 0, 60 / settings.rate_per_minute, address)
            return self._buckets.take(f"token {key}", limit, address)
        if settings.rate_per_minute and not authorization:
            return self._buckets.take(f"address {address}", settings.rate_per_minute, address)
        return None

    def punish(self, address: str) -> None:
        """A token that was not good: count it against the address."""
        if self._settings.rate_per_minute:
            self._buckets.take(f"address {address}", self._settings.rate_per_minute, address)


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

    def take(self, key: str, limit: int, address: str = "") -> Verdict:
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
        return Verdict(allowed, limit, int(left), seconds, address)
