"""Trusted publishing: a CI job proves who it is with its provider's OpenID Connect token and gets a token for minutes.

An organisation names issuer, audience and claims; every claim must be equal, exactly. The token that comes out publishes for
that organisation for 15 minutes. No secret is stored anywhere. (OpenID Connect Core 1.0, RFC 7519, RFC 8693.)
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, delete, insert, select

from adapterhub.server.accounts.tokens import CreatedToken, create_token
from adapterhub.server.moderation.audit import record
from adapterhub.server.outbound import check_url, get_json
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import inserted_id
from adapterhub.server.storage.tables import now, organisations, trusted_publishers, used_assertions
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError, AuthenticationError, InvalidConfigError
from adapterhub.spec.reference import fold

if TYPE_CHECKING:  # a tenth of the hub's start, for what few hubs use
    from joserfc.jwk import KeySet

__all__ = ["add_publisher", "exchange", "list_publishers", "remove_publisher"]

LIFETIME = timedelta(minutes=15)
_ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]  # never "none", never a shared secret
_LEEWAY = 30
_A_DAY = 24 * 3600
_MAX_TOKEN = 16_384
_KEYS_SECONDS = 300.0
_REFETCH_SECONDS = 10.0
_TOO_COMMON = frozenset(("iss", "aud", "exp", "iat", "nbf", "jti"))

_keys: dict[str, tuple[float, KeySet]] = {}
_keys_lock = threading.Lock()


def add_publisher(
    connection: Connection,
    settings: Settings,
    organisation_id: int,
    *,
    issuer: str,
    audience: str,
    claims: Mapping[str, Any],
    adapters: str = "",
) -> dict[str, Any]:
    """Trust an identity to publish for an organisation.

    Raises:
        InvalidConfigError: no https issuer, no claims, or only claims that everybody at the issuer has.
    """
    check_url(settings, issuer)
    if issuer.endswith("/.well-known/openid-configuration") or not audience:
        raise InvalidConfigError("Give the issuer as it stands in its tokens, and an audience.")
    telling = {name: value for name, value in claims.items() if name not in _TOO_COMMON}
    if not telling or not all(isinstance(value, str | int | bool) and value != "" for value in claims.values()):
        raise InvalidConfigError(
            "The claims must say who may publish, with plain values.", hint='For example {"repository": "me/mine"}.'
        )
    made = connection.execute(
        insert(trusted_publishers).values(
            organisation_id=organisation_id,
            issuer=issuer,
            audience=audience,
            claims=json.dumps(dict(claims), sort_keys=True),
            adapters=fold(adapters),
            created_at=now(),
        )
    )
    return {
        "id": inserted_id(made),
        "issuer": issuer,
        "audience": audience,
        "claims": dict(claims),
        "adapters": fold(adapters),
    }


def list_publishers(connection: Connection, organisation_id: int) -> list[dict[str, Any]]:
    """Who is trusted by an organisation."""
    rows = connection.execute(select(trusted_publishers).where(trusted_publishers.c.organisation_id == organisation_id))
    return [
        {
            "id": row.id,
            "issuer": row.issuer,
            "audience": row.audience,
            "claims": json.loads(row.claims),
            "adapters": row.adapters,
            "created_at": row.created_at,
        }
        for row in rows
    ]


def remove_publisher(connection: Connection, organisation_id: int, publisher_id: int) -> None:
    """Trust no longer. Tokens already given live out their minutes."""
    gone = connection.execute(
        delete(trusted_publishers).where(
            trusted_publishers.c.id == publisher_id, trusted_publishers.c.organisation_id == organisation_id
        )
    )
    if not gone.rowcount:
        raise AdapterNotFoundError(f"There is no trusted publisher {publisher_id}.")


def exchange(storage: Storage, settings: Settings, organisation: str, token: str) -> CreatedToken:
    """A token to publish with, for an identity token of a trusted publisher.

    Raises:
        AuthenticationError: for whatever reason it is not good; the log of the hub says which.
    """
    refused = AuthenticationError(
        "The identity token is not that of a trusted publisher of this organisation.",
        hint="Compare issuer, audience and claims with what the organisation trusts.",
    )
    issuer = _issuer_of(token)
    with storage.database.read() as connection:
        rows = connection.execute(
            select(trusted_publishers, organisations.c.name, organisations.c.private)
            .join(organisations, organisations.c.id == trusted_publishers.c.organisation_id)
            .where(
                organisations.c.key == fold(organisation),
                organisations.c.retired_at.is_(None),
                trusted_publishers.c.issuer == issuer,
            )
        ).all()
    if issuer is None or not rows:
        raise refused
    claims = _verified(settings, issuer, token)
    chosen = next((row for row in rows if claims is not None and _matches(row, claims)), None)
    if claims is None or chosen is None:
        raise refused
    # what was signed, not the whole text: a signature can be written in several ways
    used = hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()
    with storage.database.write() as connection:
        connection.execute(delete(used_assertions).where(used_assertions.c.expires_at < now()))
        hours = (float(claims["exp"]) - time.time() + 2 * _LEEWAY) / 3600
        if not insert_missing(connection, used_assertions, {"hash": used, "expires_at": now(hours=hours)}):
            raise refused  # once is enough: a stolen copy is worth nothing afterwards
        made = create_token(
            connection,
            organisation_id=chosen.organisation_id,
            scopes=("read", "publish"),
            expires=LIFETIME,
            name=f"trusted publisher {chosen.id}: {str(claims.get('sub', ''))[:150]}",
            adapters=chosen.adapters,
            origin="oidc",
        )
        told: dict[str, Any] = {name: str(claims[name])[:300] for name in ("iss", "sub", "jti") if name in claims}
        record(
            connection,
            f"trusted publisher {chosen.id}",
            "token.exchange",
            f"@{chosen.name}",
            {**told, "token": made.id},
            organisation_id=chosen.organisation_id,
            private=True,
        )
    return made


def _issuer_of(token: str) -> str | None:
    """The issuer a token claims, unverified: only to look up who could be meant."""
    parts = token.split(".")
    if len(token) > _MAX_TOKEN or len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) else None


def _verified(settings: Settings, issuer: str, token: str) -> dict[str, Any] | None:
    """The claims of a token whose signature and times are good; else None."""
    from joserfc import jwt
    from joserfc.errors import JoseError

    for fresh in (False, True):
        try:
            keys = _keys_of(settings, issuer, fresh=fresh)
        except AdapterHubError:
            return None
        try:
            decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # perhaps the issuer has changed its keys
        claims = dict(decoded.claims)
        return claims if claims.get("iss") == issuer and _in_time(claims) else None
    return None


def _in_time(claims: Mapping[str, Any]) -> bool:
    clock = time.time()
    expires, issued, begins = (claims.get(name) for name in ("exp", "iat", "nbf"))
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expires, issued)):
        return False
    if begins is not None and (not isinstance(begins, int | float) or begins > clock + _LEEWAY):
        return False
    return clock - _LEEWAY < expires < clock + _A_DAY and clock - _A_DAY < issued < clock + _LEEWAY  # type: ignore[operator]


def _matches(row: Row[Any], claims: Mapping[str, Any]) -> bool:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if row.audience not in audiences:
        return False
    wanted = json.loads(row.claims)
    return all(type(claims.get(name)) is type(value) and claims.get(name) == value for name, value in wanted.items())


def _keys_of(settings: Settings, issuer: str, *, fresh: bool) -> KeySet:
    """The issuer's public keys, asked for at most every few seconds."""
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    with _keys_lock:
        known = _keys.get(issuer)
    age = time.monotonic() - known[0] if known else float("inf")
    if known is not None and age < (_REFETCH_SECONDS if fresh else _KEYS_SECONDS):
        return known[1]
    about = get_json(settings, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if not isinstance(about, dict) or about.get("issuer") != issuer or not isinstance(about.get("jwks_uri"), str):
        raise InvalidConfigError(f"{issuer} does not describe itself as OpenID Connect Discovery asks.")
    document = get_json(settings, about["jwks_uri"])
    try:
        listed = [
            key for key in document["keys"] if key.get("kty") in ("RSA", "EC", "OKP") and key.get("use", "sig") == "sig"
        ]
        keys = KeySet.import_key_set({"keys": listed})
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidConfigError(f"The keys of {issuer} cannot be read.") from error
    with _keys_lock:
        _keys[issuer] = (time.monotonic(), keys)
    return keys
