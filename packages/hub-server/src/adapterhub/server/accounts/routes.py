"""Organisations, members and tokens over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, select

from adapterhub.server.accounts import members, oidc
from adapterhub.server.accounts.organisations import (
    create_organisation,
    describe,
    find_organisation,
    list_organisations,
    update_organisation,
)
from adapterhub.server.accounts.tokens import (
    check_scopes,
    create_token,
    find_good_token,
    list_tokens,
    parse_duration,
    revoke_token,
)
from adapterhub.server.accounts.viewer import Viewer, forbidden
from adapterhub.server.dependencies import Bearer, SettingsOf, StorageOf, ViewerOf
from adapterhub.server.moderation import webhooks
from adapterhub.server.moderation.audit import record
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.tables import adapters, organisations, time_text, tokens
from adapterhub.spec.errors import AuthenticationError, InvalidConfigError
from adapterhub.spec.reference import fold

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["accounts"], dependencies=[Depends(Bearer)])

Number = Annotated[int, Path(ge=1, le=2**53)]
Organisation = Annotated[str, Path(max_length=64)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewOrganisation(_Body):
    """An organisation to make."""

    name: str = Field(max_length=64)
    display_name: str = Field("", max_length=200)
    private: bool = False


class OrganisationChanges(_Body):
    """What to change; what is left out stays."""

    display_name: Annotated[str, Field(max_length=200)] | None = None
    description: Annotated[str, Field(max_length=5000)] | None = None
    url: Annotated[str, Field(max_length=500)] | None = None
    private: bool | None = None
    review: bool | None = None
    trusted_only: bool | None = None
    max_bytes: Annotated[int, Field(ge=0, le=2**60)] | None = None
    max_versions_per_day: Annotated[int, Field(ge=0, le=10**9)] | None = None


class NewToken(_Body):
    """A token to make. Its scopes cannot exceed those of the token that asks."""

    organisation: Annotated[str, Field(max_length=64)] | None = None
    scopes: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=8)] = ["read", "publish", "yank"]
    expires: (
        Annotated[str, Field(max_length=16, description="Such as 90d; left out: never, or when the asking token does")]
        | None
    ) = None
    name: str = Field("", max_length=200)
    adapters: str = Field("", max_length=128)


class NewWebhook(_Body):
    """Where to post events, or `mailto:` whom to write; no events named means all."""

    url: str = Field(max_length=1000)
    events: Annotated[list[Annotated[str, Field(max_length=48)]], Field(max_length=20)] = []


class Confirmation(_Body):
    """The code that was sent to a mail address."""

    code: str = Field(max_length=64)


class NewPublisher(_Body):
    """An identity to trust. Every claim must be equal in the identity token."""

    issuer: str = Field(max_length=500)
    audience: str = Field("adapterhub", max_length=200)
    claims: Annotated[dict[str, str | int | bool], Field(min_length=1, max_length=20)]
    adapters: str = Field("", max_length=128)


class Exchange(_Body):
    """Token exchange (RFC 8693) for one organisation."""

    organisation: str = Field(max_length=64)
    subject_token: str = Field(max_length=16_384)
    subject_token_type: str = Field("urn:ietf:params:oauth:token-type:id_token", max_length=100)
    grant_type: str = Field("urn:ietf:params:oauth:grant-type:token-exchange", max_length=100)


class Role(_Body):
    """What a member may do."""

    role: str = Field(max_length=16)


@router.get("/whoami", summary="Whose token this is")
def whoami(storage: StorageOf, viewer: ViewerOf) -> dict[str, Any]:
    """Organisation, scopes and expiry of the token in the request."""
    if viewer.token_id is None:
        raise AuthenticationError("There is no token in the request.", hint="Send `Authorization: Bearer ahub_…`.")
    with storage.database.read() as connection:
        row = connection.execute(select(tokens).where(tokens.c.id == viewer.token_id)).one()
        name = connection.execute(
            select(organisations.c.name).where(organisations.c.id == viewer.organisation_id)
        ).scalar_one_or_none()
    return {
        "organisation": name,
        "name": row.name,
        "scopes": row.scopes.split(),
        "adapters": row.adapters,
        "origin": row.origin,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
    }


@router.get("/organisations", summary="All organisations")
def organisations_list(storage: StorageOf, viewer: ViewerOf) -> dict[str, Any]:
    """By name. Private ones are listed to their own tokens only."""
    with storage.database.read() as connection:
        return {"items": list_organisations(connection, viewer)}


@router.post("/organisations", status_code=201, summary="Make an organisation (operators)")
def organisations_create(storage: StorageOf, viewer: ViewerOf, body: NewOrganisation) -> dict[str, Any]:
    """The name is taken for ever."""
    _operator(viewer)
    with storage.database.change() as connection:
        made = create_organisation(connection, body.name, display_name=body.display_name, private=body.private)
        record(
            connection, viewer.name, "organisation.create", f"@{body.name}", organisation_id=made, private=body.private
        )
        return describe(find_organisation(connection, body.name), 0)


@router.get("/organisations/{organisation}", summary="One organisation")
def organisations_get(storage: StorageOf, viewer: ViewerOf, organisation: Organisation) -> dict[str, Any]:
    """Its texts, switches and limits."""
    with storage.database.read() as connection:
        return describe(find_organisation(connection, organisation, viewer))


@router.patch("/organisations/{organisation}", summary="Change an organisation")
def organisations_change(
    storage: StorageOf, viewer: ViewerOf, organisation: Organisation, body: OrganisationChanges
) -> dict[str, Any]:
    """Needs the scope admin. Limits are set by operators."""
    changes = {key: value for key, value in body.model_dump(exclude_unset=True).items() if value is not None}
    with storage.database.change() as connection:
        row = _administered(connection, viewer, organisation)
        made = update_organisation(connection, row, changes, viewer)
        if made:
            serial = next_serial(connection)
            if "private" in made:
                ids = list(
                    connection.execute(select(adapters.c.id).where(adapters.c.organisation_id == row.id)).scalars()
                )
                connection.execute(adapters.update().where(adapters.c.organisation_id == row.id).values(serial=serial))
                project(connection, ids)
            private = bool(made.get("private", row.private))
            record(
                connection,
                viewer.name,
                "organisation.change",
                f"@{row.name}",
                made,
                organisation_id=row.id,
                private=private,
                serial=serial,
            )
        return describe(find_organisation(connection, organisation))


@router.get("/organisations/{organisation}/members", summary="Members and their roles")
def members_list(storage: StorageOf, viewer: ViewerOf, organisation: Organisation) -> dict[str, Any]:
    """For the organisation's own tokens."""
    viewer.require("read")
    with storage.database.read() as connection:
        row = find_organisation(connection, organisation, viewer)
        viewer.require("read", row.id)
        return {"items": members.list_members(connection, row.id)}


@router.put("/organisations/{organisation}/members/{account}", summary="Add a member, or change a role")
def members_set(
    storage: StorageOf, viewer: ViewerOf, organisation: Organisation, account: Organisation, body: Role
) -> dict[str, Any]:
    """Roles: owner, maintainer, publisher, reviewer, reader. Tokens the member has or made lose what the role does not allow."""
    with storage.database.change() as connection:
        row = _administered(connection, viewer, organisation)
        made = members.set_member(connection, row.id, account, body.role)
        record(
            connection,
            viewer.name,
            "member.set",
            f"@{row.name}",
            made,
            organisation_id=row.id,
            private=True,
        )
        return made


@router.delete("/organisations/{organisation}/members/{account}", status_code=204, summary="Remove a member")
def members_remove(storage: StorageOf, viewer: ViewerOf, organisation: Organisation, account: Organisation) -> Response:
    """The tokens for the organisation that the member has or made, for whomever, are revoked."""
    with storage.database.change() as connection:
        row = _administered(connection, viewer, organisation)
        ended = members.remove_member(connection, row.id, account)
        record(
            connection,
            viewer.name,
            "member.remove",
            f"@{row.name}",
            {"account": account, **ended},
            organisation_id=row.id,
            private=True,
        )
    return Response(status_code=204)


@router.post(
    "/organisations/{organisation}/members/{account}/tokens", status_code=201, summary="Make a token for a member"
)
def members_token(
    storage: StorageOf, viewer: ViewerOf, organisation: Organisation, account: Organisation, body: NewToken
) -> dict[str, Any]:
    """It can do at most what the member's role allows, and ends with the membership."""
    with storage.database.change() as connection:
        row = _administered(connection, viewer, organisation)
        account_id, allowed = members.allowed_scopes(connection, row.id, account)
        scopes = [scope for scope in check_scopes(body.scopes) if scope in allowed]
        if not scopes:
            raise InvalidConfigError(
                f"The role of {account!r} allows none of these scopes.", hint=f"It allows {', '.join(allowed)}."
            )
        return _made(connection, viewer, body, row.id, scopes, account_id)


@router.get("/tokens", summary="Tokens, without their secrets")
def tokens_list(storage: StorageOf, viewer: ViewerOf) -> dict[str, Any]:
    """Of the organisation, or of the whole hub for operators."""
    viewer.require("admin")
    with storage.database.read() as connection:
        return {"items": list_tokens(connection, viewer.organisation_id)}


@router.post("/tokens", status_code=201, summary="Make a token")
def tokens_create(storage: StorageOf, viewer: ViewerOf, body: NewToken) -> dict[str, Any]:
    """`token` in the answer is shown this once. It loses what the member loses whose token asked for it."""
    viewer.require("admin")
    scopes = check_scopes(body.scopes)
    with storage.database.change() as connection:
        organisation_id = viewer.organisation_id
        if body.organisation is not None:
            organisation_id = _administered(connection, viewer, body.organisation).id
        if organisation_id is None:
            _operator(viewer)
        return _made(connection, viewer, body, organisation_id, list(scopes), None)


@router.delete("/tokens/{token_id}", status_code=204, summary="Revoke a token")
def tokens_revoke(storage: StorageOf, viewer: ViewerOf, token_id: Annotated[int, Path(ge=1, le=2**53)]) -> Response:
    """From now on it is worth nothing. A token may revoke itself."""
    if token_id != viewer.token_id:
        viewer.require("admin")
    with storage.database.change() as connection:
        revoke_token(connection, token_id, viewer.organisation_id)
        record(
            connection,
            viewer.name,
            "token.revoke",
            f"token {token_id}",
            organisation_id=viewer.organisation_id,
            private=True,
        )
    return Response(status_code=204)


@router.get("/organisations/{organisation}/trusted-publishers", summary="Who may publish by OIDC")
def publishers_list(storage: StorageOf, viewer: ViewerOf, organisation: Organisation) -> dict[str, Any]:
    """Needs the scope admin."""
    with storage.database.read() as connection:
        row = _administered(connection, viewer, organisation)
        return {"items": oidc.list_publishers(connection, row.id)}


@router.post(
    "/organisations/{organisation}/trusted-publishers", status_code=201, summary="Trust an identity to publish"
)
def publishers_add(
    storage: StorageOf, settings: SettingsOf, viewer: ViewerOf, organisation: Organisation, body: NewPublisher
) -> dict[str, Any]:
    """A job that shows an identity token with exactly these claims gets a token for 15 minutes."""
    with storage.database.write() as connection:
        row = _administered(connection, viewer, organisation)
        made = oidc.add_publisher(
            connection,
            settings,
            row.id,
            issuer=body.issuer,
            audience=body.audience,
            claims=body.claims,
            adapters=body.adapters,
        )
        record(connection, viewer.name, "publisher.trust", f"@{row.name}", made, organisation_id=row.id, private=True)
        return made


@router.delete(
    "/organisations/{organisation}/trusted-publishers/{publisher_id}", status_code=204, summary="Trust it no longer"
)
def publishers_remove(
    storage: StorageOf, viewer: ViewerOf, organisation: Organisation, publisher_id: Number
) -> Response:
    """Tokens already given live out their minutes."""
    with storage.database.write() as connection:
        row = _administered(connection, viewer, organisation)
        oidc.remove_publisher(connection, row.id, publisher_id)
        details = {"id": publisher_id}
        record(
            connection, viewer.name, "publisher.distrust", f"@{row.name}", details, organisation_id=row.id, private=True
        )
    return Response(status_code=204)


@router.post("/oidc/exchange", summary="Exchange an identity token for a token to publish with")
async def oidc_exchange(request: Request, storage: StorageOf, settings: SettingsOf, body: Exchange) -> JSONResponse:
    """For trusted publishers. An identity token can be exchanged once."""
    work = partial(oidc.exchange, storage, settings, body.organisation, body.subject_token)
    made = await to_thread.run_sync(work, limiter=request.app.state.exchanging)
    answer = {
        "access_token": made.secret,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": int(oidc.LIFETIME.total_seconds()),
        "scope": " ".join(made.scopes),
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


@router.get("/webhooks", summary="Webhooks of the organisation")
def webhooks_list(storage: StorageOf, viewer: ViewerOf) -> dict[str, Any]:
    """With their last deliveries; secrets are never shown again."""
    with storage.database.read() as connection:
        return {"items": webhooks.list_webhooks(connection, _own_organisation(viewer))}


@router.post("/webhooks", status_code=201, summary="Add a webhook")
def webhooks_create(storage: StorageOf, settings: SettingsOf, viewer: ViewerOf, body: NewWebhook) -> dict[str, Any]:
    """Posts are signed with the `secret` of the answer, which is shown this once. `mailto:` addresses are confirmed first."""
    organisation_id = _own_organisation(viewer)
    with storage.database.write() as connection:
        made = webhooks.create_webhook(connection, settings, organisation_id, body.url, body.events)
        _note(connection, viewer, "webhook.create", made["id"], {"url": body.url})
        return made


@router.post("/webhooks/{webhook_id}/confirm", summary="Confirm a mail address")
def webhooks_confirm(storage: StorageOf, viewer: ViewerOf, webhook_id: Number, body: Confirmation) -> dict[str, Any]:
    """With the code that was sent there. From then on it is told of events."""
    with storage.database.write() as connection:
        done = webhooks.confirm(connection, _own_organisation(viewer), webhook_id, body.code)
        _note(connection, viewer, "webhook.confirm", webhook_id, {"url": done["url"]})
        return done


@router.delete("/webhooks/{webhook_id}", status_code=204, summary="Delete a webhook")
def webhooks_remove(storage: StorageOf, viewer: ViewerOf, webhook_id: Number) -> Response:
    """What it still had to deliver is dropped."""
    with storage.database.write() as connection:
        webhooks.remove_webhook(connection, _own_organisation(viewer), webhook_id)
        _note(connection, viewer, "webhook.delete", webhook_id, {})
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, summary="Deliver again")
def webhooks_redeliver(storage: StorageOf, viewer: ViewerOf, webhook_id: Number, delivery_id: Number) -> dict[str, Any]:
    """Whatever became of it before."""
    with storage.database.write() as connection:
        webhooks.redeliver(connection, _own_organisation(viewer), webhook_id, delivery_id)
    return {"queued": True}


def _own_organisation(viewer: Viewer) -> int:
    viewer.require("admin")
    if viewer.organisation_id is None:
        raise forbidden("This is done with an admin token of the organisation.")
    return viewer.organisation_id


def _note(connection: Connection, viewer: Viewer, action: str, number: int, details: dict[str, Any]) -> None:
    subject = f"webhook {number}"
    record(connection, viewer.name, action, subject, details, organisation_id=viewer.organisation_id, private=True)


def _made(
    connection: Connection,
    viewer: Viewer,
    body: NewToken,
    organisation_id: int | None,
    scopes: list[str],
    account_id: int | None,
) -> dict[str, Any]:
    own = find_good_token(connection, viewer.token_id or 0)
    if own is None or "admin" not in own.scopes.split():
        raise forbidden("This token has just lost the scope 'admin'.")
    made = create_token(
        connection,
        organisation_id=organisation_id,
        scopes=scopes,
        expires_at=_end_of(own.expires_at, body.expires),
        name=body.name,
        adapters=fold(body.adapters),
        account_id=account_id,
        origin="api",
        made_by=viewer.token_id,
    )
    details = {"scopes": list(made.scopes), "expires_at": made.expires_at}
    record(
        connection,
        viewer.name,
        "token.create",
        f"token {made.id}",
        details,
        organisation_id=organisation_id,
        private=True,
    )
    return {"id": made.id, "token": made.secret, "scopes": list(made.scopes), "expires_at": made.expires_at}


def _end_of(own: str | None, lifetime: str | None) -> str | None:
    """When a token ends that is asked for by one that ends at `own`: not after that, or an end would be none."""
    if lifetime is None:
        return own
    end = time_text(datetime.now(UTC) + parse_duration(lifetime))
    if own is not None and end > own:
        raise forbidden(
            f"This token ends at {own}; one it makes cannot live longer.", "Leave `expires` out, or shorten it."
        )
    return end


def _administered(connection: Connection, viewer: Viewer, name: str) -> Row[Any]:
    """The organisation, if the viewer may administer it."""
    viewer.require("admin")
    row = find_organisation(connection, name, viewer)
    viewer.require("admin", row.id)
    return row


def _operator(viewer: Viewer) -> None:
    viewer.require("admin")
    if not viewer.is_operator:
        raise forbidden("Only operators of the hub may do this.")
