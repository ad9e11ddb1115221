"""Trusted publishing against a real issuer on loopback: discovery, keys, signatures, and every way to be refused."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hub import Hub, publish
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from adapterhub.server import outbound
from adapterhub.server.accounts import oidc
from adapterhub.spec.errors import HubConnectionError

CLAIMS = {"repository": "me/adapters", "ref": "refs/heads/main"}


class Issuer:
    """An OpenID provider: discovery document, keys, and a pen to sign with."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})]
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                documents = {
                    "/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"},
                    "/keys": {"keys": [key.as_dict(private=False) for key in issuer.keys]},
                }
                body = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in documents else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def token(self, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        clock = int(time.time())
        claims = {
            "iss": self.url, "aud": "adapterhub", "sub": "repo:me/adapters", "iat": clock, "exp": clock + 300, "jti": str(time.time_ns()),
            **CLAIMS, **changes,
        }  # fmt: skip
        key = key or self.keys[0]
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, algorithms=[algorithm])


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    oidc._keys.clear()
    found = Issuer()
    yield found
    found.server.shutdown()


@pytest.fixture
def trusting(hub: Hub, issuer: Issuer) -> Hub:
    """A hub whose organisation demo trusts the issuer's claims for adapters named ci-*."""
    admin = hub.client(hub.token(hub.organisation("demo"), scopes=("admin",)))
    body = {"issuer": issuer.url, "audience": "adapterhub", "claims": CLAIMS, "adapters": "ci-*"}
    admin.post("/v1/organisations/demo/trusted-publishers", json=body).raise_for_status()
    return hub


def exchange(hub: Hub, token: str, organisation: str = "demo") -> httpx.Response:
    return hub.http.post("/v1/oidc/exchange", json={"organisation": organisation, "subject_token": token})


def test_a_job_publishes_without_any_stored_secret(trusting: Hub, issuer: Issuer, folder: Path) -> None:
    answer = exchange(trusting, issuer.token())
    assert answer.status_code == 200
    assert answer.json()["expires_in"] == 900
    client = trusting.client(answer.json()["access_token"])
    told = client.get("/v1/whoami").json()
    assert (told["organisation"], told["origin"], told["scopes"]) == ("demo", "oidc", ["read", "publish"])
    assert publish(client, folder, name="ci-model").status_code == 201
    assert publish(client, folder, name="other").status_code == 403
    assert client.post("/v1/adapters/@demo/ci-model/versions/1/yank").status_code == 403
    admin = trusting.client(trusting.token(1, scopes=("admin",)))
    assert "token.exchange" in [item.get("action") for item in admin.get("/v1/audit").json()["items"]]


def test_an_identity_token_is_good_once(trusting: Hub, issuer: Issuer) -> None:
    token = issuer.token()
    assert [exchange(trusting, token).status_code for _ in range(2)] == [200, 401]


def test_an_identity_token_written_differently_is_still_the_same(trusting: Hub, issuer: Issuer) -> None:
    issuer.keys = [ECKey.generate_key("P-256", {"kid": "curve", "use": "sig"})]
    token = issuer.token(algorithm="ES256")
    signed, _, signature = token.rpartition(".")
    # whoever has the signature (r, s) of ECDSA has another one, (r, n - s), just as good
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    raw = base64.urlsafe_b64decode(f"{signature}==")
    other = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    same = f"{signed}.{base64.urlsafe_b64encode(other).decode().rstrip('=')}"
    jwt.decode(same, issuer.keys[0], algorithms=["ES256"])
    assert exchange(trusting, token).status_code == 200
    assert {exchange(trusting, text).status_code for text in (same, token, f"{token}=", f"{token}==")} == {401}


def test_slow_issuers_hold_up_nobody_else(trusting: Hub, issuer: Issuer) -> None:
    entered, release = threading.Semaphore(0), threading.Event()
    answer = issuer.server.RequestHandlerClass.do_GET

    def slowly(handler: Any) -> None:
        entered.release()
        release.wait(60)
        answer(handler)

    issuer.server.RequestHandlerClass.do_GET = slowly
    token = issuer.token()
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(exchange, trusting, token) for _ in range(60)]  # more than the hub has threads
        try:
            for _ in range(8):
                assert entered.acquire(timeout=60)
            listed = httpx.get(f"{trusting.url}/v1/organisations", timeout=60)
        finally:
            release.set()
        assert listed.status_code == 200
        assert {answer.result().status_code for answer in waiting} <= {200, 401}


def test_an_answer_that_drips_without_end_is_cut_off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(2000):
                    self.wfile.write(b" ")
                    time.sleep(0.01)
                self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(outbound, "_TIMEOUT", 1.0)  # for each read; the whole may take two
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(HubConnectionError, match="TimeoutError"):
        outbound.get_json(hub.settings, f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": "me/adapters2"},
        {"repository": "ME/adapters"},
        {"repository": None},
        {"repository": ["me/adapters"]},
        {"ref": "refs/heads/evil"},
        {"aud": "pypi"},
        {"aud": None},
        {"iss": "https://other.example"},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": int(time.time()) + 3600},
        {"iat": None},
        {"nbf": int(time.time()) + 3600},
        {"exp": "9999999999"},
        {"exp": 1e300},
        {"exp": int(time.time()) + 90 * 86400},
    ],
)
def test_claims_must_be_equal_and_in_time(trusting: Hub, issuer: Issuer, changes: dict[str, Any]) -> None:
    answer = exchange(trusting, issuer.token(**changes))
    assert (answer.status_code, answer.json()["code"]) == (401, "Authentication")


def test_signatures_must_be_the_issuers(trusting: Hub, issuer: Issuer) -> None:
    assert exchange(trusting, issuer.token(RSAKey.generate_key(2048, {"kid": "one"}))).status_code == 401
    public = issuer.keys[0].as_pem(private=False)
    parts = ({"alg": "HS256", "kid": "one"}, {"iss": issuer.url, "exp": time.time() + 99, "iat": time.time(), **CLAIMS})
    signed = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), "sha256")).decode().rstrip("=")
    confused = f"{signed}.{mac}"
    assert exchange(trusting, confused).status_code == 401
    head, body, _ = issuer.token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for forged in (
        f"{none}.{body}.",
        f"{head}.{body}.",
        f"{head}.{body}",
        "a.b.c",
        "",
        "." * 5,
        f"{head}.{'A' * 20000}.x",
    ):
        assert exchange(trusting, forged).status_code in (401, 422)
    assert exchange(trusting, issuer.token(), "nobody").status_code == 401


def test_keys_may_change(trusting: Hub, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exchange(trusting, issuer.token()).status_code == 200
    monkeypatch.setattr(oidc, "_REFETCH_SECONDS", 0.0)
    issuer.keys = [ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})]
    assert exchange(trusting, issuer.token(algorithm="ES256")).status_code == 200


def test_an_organisation_may_take_nothing_else(trusting: Hub, issuer: Issuer, folder: Path) -> None:
    admin = trusting.client(trusting.token(1, scopes=("admin",)))
    admin.patch("/v1/organisations/demo", json={"trusted_only": True}).raise_for_status()
    assert publish(admin, folder, name="ci-model").status_code == 403
    client = trusting.client(exchange(trusting, issuer.token()).json()["access_token"])
    assert publish(client, folder, name="ci-model").status_code == 201


def test_publishers_are_listed_and_removed(trusting: Hub, issuer: Issuer) -> None:
    admin = trusting.client(trusting.token(1, scopes=("admin",)))
    base = "/v1/organisations/demo/trusted-publishers"
    [one] = admin.get(base).json()["items"]
    assert one["claims"] == CLAIMS
    assert trusting.http.get(base).status_code == 401
    assert admin.delete(f"{base}/{one['id']}").status_code == 204
    assert exchange(trusting, issuer.token()).status_code == 401
    for claims in ({"iss": "x"}, {"repository": ""}, {}):
        body = {"issuer": issuer.url, "claims": claims}
        assert admin.post(base, json=body).status_code == 422
