"""HTTP to one hub: time-outs, retries, redirects by hand, tokens bound to their origin, caps on every answer.

Rules, all tested against a server that misbehaves:

* A token goes only to the origin it belongs to, never along a redirect elsewhere, never over plain http except to this
  machine. A redirect from https to http is refused.
* This machine is never asked through a proxy, and cookies are not kept.
* 408, 429, 500, 502, 503, 504, broken connections and time-outs are tried again, up to five times in all, with
  exponential back-off and full jitter; `Retry-After` is obeyed up to a minute.
* Every answer has a cap in bytes, checked against Content-Length first and while reading after; an answer that
  trickles below a floor rate is cut off and counts as a time-out.
"""

from __future__ import annotations

import json as jsonlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from adapterhub.client.bodies import check_content_digest, decoded, inflated, too_much
from adapterhub.client.connections import HeadWatch, new_client
from adapterhub.client.credentials import redact
from adapterhub.client.settings import is_loopback, origin_of
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AuthenticationError,
    HubConnectionError,
    IntegrityError,
    OfflineError,
    PolicyError,
    QuotaExceededError,
    error_from_problem,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["Answer", "Limits", "SlowTransferError", "Transport"]

#: statuses worth asking again
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: bytes that compression may add to what is small or cannot be compressed
_GZIP_MARGIN = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, how often to try, how much to take.

    Attributes:
        connect: seconds until a connection stands.
        read: seconds until the next bytes come.
        head: seconds until the head of an answer is complete.
        attempts: tries in all, the first included.
        backoff: seconds of the first pause; doubles each time, up to `longest_pause`; the actual pause is drawn
            uniformly below it (full jitter).
        retry_after: longest `Retry-After` that is waited for.
        floor_rate: bytes/s below which, averaged over `floor_window` seconds, a body counts as stalled.
        small: cap of JSON answers and index files, bytes.
        redirects: how many are followed.
    """

    connect: float = 10.0
    read: float = 30.0
    head: float = 60.0
    attempts: int = 5
    backoff: float = 0.5
    longest_pause: float = 8.0
    retry_after: float = 60.0
    floor_rate: float = 1024.0
    floor_window: float = 30.0
    small: int = 64 * 1024 * 1024
    redirects: int = 5


class SlowTransferError(HubConnectionError):
    """A body that trickles."""


@dataclass(slots=True)
class Answer:
    """An answer read completely: status, headers with lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            HubConnectionError: it is none (a proxy's error page, for example).
        """
        try:
            return jsonlib.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise HubConnectionError(
                "The hub's answer is not JSON.", hint="Is there a proxy or a login page in between? Check the address."
            ) from error


@dataclass
class Transport:
    """Sends requests for one hub.

    Args:
        base: address of the hub, without trailing slash.
        token: gives the token for an origin, or None. Asked for the hub's own origin only.
        offline: refuse everything.
        limits: time-outs, retries, caps.
        log: gets one line for each exchange (`ADAPTERHUB_DEBUG=1`).
        sleep, clock: replaced in tests.
    """

    base: str
    token: Callable[[str], str | None] = lambda origin: None
    offline: bool = False
    limits: Limits = field(default_factory=Limits)
    log: Callable[[str], None] | None = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    requests: int = 0
    received: int = 0
    _clients: dict[tuple[bool, bool], httpx.Client] = field(default_factory=dict)
    _pid: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    # -- one whole answer ---------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
        cap: int | None = None,
        retry: bool = True,
    ) -> Answer:
        """Send a request and read the whole answer.

        Args:
            path: from the root of the hub (`/v1/adapters`), or an address.
            accept: further statuses (304, 404, …) that are answers and not errors.
            cap: most bytes of body to take; `limits.small` if None.
            retry: whether a failed exchange may be repeated (safe or idempotent requests).

        Raises:
            OfflineError, HubConnectionError, AuthenticationError, AdapterNotFoundError, QuotaExceededError: and whatever
                error the hub's problem document stands for.
        """
        url = self.address(path)
        sent: dict[str, str] = {"accept-encoding": "gzip", **(headers or {})}
        if json is not None:
            content = jsonlib.dumps(json).encode()
            sent["content-type"] = "application/json"
        limit = self.limits.small if cap is None else cap

        def once() -> Answer:
            with self.exchange(method, url, params=params, content=content, headers=sent) as response:
                told = {key.lower(): value for key, value in response.headers.items()}
                raw = b"" if method == "HEAD" else b"".join(self.body(response, limit))
            body = decoded(raw, told.get("content-encoding", ""), limit, url)
            answer = Answer(response.status_code, told, body)
            if answer.status == 200 and method != "HEAD":
                check_content_digest(told, raw, body, url)
            if answer.status < 300 or answer.status in accept:
                return answer
            raise self.error_of(answer, url)

        return self.repeat(once) if retry else once()

    def repeat(self, once: Callable[[], Any], progressed: Callable[[], int] | None = None) -> Any:
        """Call `once` until it succeeds, fails for good, or has failed `limits.attempts` times without progress.

        Args:
            progressed: a number that grows while bytes arrive; growth resets the count of failures.
        """
        failures, before = 0, progressed() if progressed else 0
        while True:
            try:
                return once()
            except AdapterHubError as error:
                if not error.details.get("retry"):
                    raise
                moved = progressed is not None and progressed() - before >= 1 << 14
                if progressed is not None and moved:
                    failures, before = 0, progressed()
                failures += 1
                pause = self._pause(failures, error)
                if moved and pause is not None and "retry_after" not in error.details:
                    pause = min(pause, 0.05)  # it was getting somewhere: take it up where it broke
                if failures >= self.limits.attempts or pause is None:
                    raise
                if self.log:
                    self.log(f"again in {pause:.1f} s after: {error.message}")
                self.sleep(pause)

    # -- one exchange -------------------------------------------------------------------------------------------------

    @contextmanager
    def exchange(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """One request with its redirects followed; the body is not read yet. No retries here."""
        if self.offline:
            raise OfflineError(
                f"Offline mode is on, and {url} would have to be asked.",
                hint="Unset ADAPTERHUB_OFFLINE to go online.",
            )
        import httpx

        home = origin_of(self.base)
        left_home = False
        watch = HeadWatch(self.close, self.limits.head)
        try:
            for _ in range(self.limits.redirects + 1):
                sent = {"accept": "application/json, */*;q=0.5", **(headers or {})}
                origin = origin_of(url)
                left_home = left_home or origin != home
                if not left_home:
                    token = self.token(origin)
                    if token:
                        sent["authorization"] = f"Bearer {token}"
                client = self._httpx(url)
                request = client.build_request(
                    method, url, params=params, content=content, headers=sent, extensions={"trace": watch}
                )
                began = self.clock()
                self.requests += 1
                response = client.send(request, stream=True)
                if self.log:
                    self.log(f"{method} {redact(str(request.url))} {response.status_code} {self.clock() - began:.3f} s")
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    try:
                        yield response
                    finally:
                        response.close()
                    return
                target = urljoin(url, response.headers["location"])
                response.close()
                url = self._redirect(method, url, target)
                params = None
            raise HubConnectionError(
                f"{self.base} redirects more than {self.limits.redirects} times.", hint="The hub is set up wrongly."
            )
        except (httpx.TransportError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not client.is_closed:
                raise
            raise self._failure(error, late=watch.late) from error
        except httpx.InvalidURL as error:
            raise HubConnectionError(f"{redact(url)} is no address: {error}.") from error

    def _failure(self, error: Exception, *, late: bool) -> HubConnectionError:
        """The error that a broken exchange stands for; `late` if it was broken here for want of an answer."""
        import httpx

        if late or isinstance(error, httpx.TimeoutException):
            return HubConnectionError(
                f"{self.base} did not answer in time.",
                hint="Try again; if it stays, ask who runs the hub.",
                details={"retry": True},
            )
        if isinstance(error, httpx.ConnectError):
            return HubConnectionError(
                f"Cannot connect to {self.base}: {_reason(error)}.",
                hint="Is the address right (adapterhub env), is the hub running, is there a network? "
                "What is in the cache works with ADAPTERHUB_OFFLINE=1.",
                details={"retry": "certificate" not in str(error).lower()},
            )
        return HubConnectionError(
            f"The connection to {self.base} broke: {_reason(error)}.",
            hint="Try again; what arrived so far is kept.",
            details={"retry": not isinstance(error, (httpx.UnsupportedProtocol, httpx.ProxyError))},
        )

    def _redirect(self, method: str, url: str, target: str) -> str:
        if method not in ("GET", "HEAD"):
            raise HubConnectionError(
                f"{self.base} redirects a {method} to {redact(target)}; writing does not follow redirects.",
                hint="Set the hub's address to where it really is.",
            )
        if not target.lower().startswith(("http://", "https://")):
            raise PolicyError(f"{self.base} redirects to {redact(target)!r}, which is not http.")
        if "@" in re.split(r"[/?#\\]", target.partition("://")[2], maxsplit=1)[0]:
            raise PolicyError(f"{self.base} redirects to an address with a user name in it; that is refused.")
        if url.lower().startswith("https://") and not target.lower().startswith("https://"):
            raise PolicyError(
                f"{self.base} redirects from https to plain http ({redact(target)}); that is refused.",
                hint="The hub is set up wrongly; tell who runs it.",
            )
        return target

    # -- parts --------------------------------------------------------------------------------------------------------

    def address(self, path: str) -> str:
        """The full address of `path`."""
        return path if path.startswith(("http://", "https://")) else f"{self.base}{path}"

    def body(self, response: httpx.Response, cap: int, *, announced: bool = True) -> Iterator[bytes]:
        """The body in pieces as they were sent, cut off beyond `cap` bytes and when it trickles.

        Args:
            announced: refuse at once what announces more than `cap` bytes.
        """
        length = response.headers.get("content-length", "")
        if announced and length.isdigit() and int(length) > cap:
            raise IntegrityError(
                f"{self.base} announces {int(length):,} bytes where at most {cap:,} are due.",
                hint="Nothing was kept. The hub, or something in between, is not to be trusted with this file.",
                details={"retry": True},
            )
        limits = self.limits
        taken = in_window = 0
        since = self.clock()
        for piece in response.iter_raw():
            taken += len(piece)
            in_window += len(piece)
            self.received += len(piece)
            if taken > cap:
                raise too_much(self.base, cap)
            now = self.clock()
            if now - since >= limits.floor_window:
                if in_window < limits.floor_rate * (now - since):
                    raise SlowTransferError(
                        f"{self.base} sends only {in_window / (now - since):.0f} bytes/s.",
                        hint="Try again later; what arrived so far is kept.",
                        details={"retry": True},
                    )
                since, in_window = now, 0
            yield piece

    def plain_body(self, response: httpx.Response, cap: int) -> Iterator[bytes]:
        """The body in pieces without the compression something in between may have put on it, at most `cap` bytes."""
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return self.body(response, cap)
        raw = self.body(response, 2 * cap + _GZIP_MARGIN, announced=False)
        return inflated(raw, encoding, cap, str(response.url))

    def error_of(self, answer: Answer, url: str) -> AdapterHubError:
        """The error an answer stands for; `details["retry"]` says whether asking again may help."""
        again = answer.status in RETRIED
        details: dict[str, Any] = {"retry": again, "http_status": answer.status}
        if answer.headers.get("retry-after"):
            details["retry_after"] = answer.headers["retry-after"]
        if "problem+json" in answer.headers.get("content-type", ""):
            try:
                problem = jsonlib.loads(answer.body)
            except (ValueError, RecursionError):
                problem = None
            if isinstance(problem, dict):
                error = error_from_problem(problem)
                if type(error) is AdapterHubError:  # a failure without a name of its own
                    number = f" (request {problem['request_id']})" if problem.get("request_id") else ""
                    error = HubConnectionError(f"{self.base} failed: {error.message}{number}", hint=error.hint)
                error.details.update(details)
                return error
        path = redact(url)
        status = answer.status
        if status in (401, 403):
            known = self.base if origin_of(url) == origin_of(self.base) else redact(url)
            return AuthenticationError(
                f"{known} does not accept the token, or wants one ({status}).",
                hint="See which one is used with: adapterhub whoami. Log in with: adapterhub login",
                details=details,
            )
        if status in (404, 410):
            return AdapterNotFoundError(f"{path} does not exist there.", details=details)
        if status in (413, 429):
            return QuotaExceededError(
                f"{self.base} says {'too large' if status == 413 else 'too many requests'}.",
                hint="Wait a while and try again." if status == 429 else "",
                details=details,
            )
        return HubConnectionError(
            f"{self.base} answered {status} for {path}.", hint="Try again later.", details=details
        )

    def _pause(self, failures: int, error: AdapterHubError) -> float | None:
        """Seconds to wait before the next try; None to give up."""
        limits = self.limits
        pause = random.uniform(0, min(limits.longest_pause, limits.backoff * 2 ** (failures - 1)))
        asked = retry_after(str(error.details.get("retry_after", "")))
        if asked is None:
            return pause
        return None if asked > limits.retry_after else max(asked, 0.0) + pause

    def _httpx(self, url: str) -> httpx.Client:
        kind = (url.lower().startswith("https://"), is_loopback(url))
        with self._lock:
            if self._pid != os.getpid():  # a forked child must not share the sockets
                self._clients, self._pid = {}, os.getpid()
            if kind not in self._clients:
                self._clients[kind] = new_client(*kind, self.limits)
            return self._clients[kind]

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values() if self._pid == os.getpid() else ():
            client.close()


def retry_after(text: str) -> float | None:
    """Seconds a `Retry-After` header asks for: a number or an HTTP date (RFC 9110 §10.2.3); None if it says nothing."""
    text = text.strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    text = str(error)
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return redact(text or type(error).__name__).rstrip(".")
