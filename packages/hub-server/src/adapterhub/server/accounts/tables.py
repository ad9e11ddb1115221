"""Logins that wait for somebody's approval (RFC 8628). Rows live for minutes; no secret is in them."""

from __future__ import annotations

from sqlalchemy import Column, String, Table, Text

from adapterhub.server.storage.tables import BigId, metadata

__all__ = ["device_codes"]

device_codes = Table(
    "device_codes",
    metadata,
    Column("hash", String(64), primary_key=True),  # sha256 of the device code, which only the device has
    Column("user_hash", String(64), nullable=False, unique=True),  # of the code a person types, keyed by the hub's id
    Column("state", String(16), nullable=False),  # waiting | approved | denied
    Column("scopes", String(128), nullable=False),  # asked for; once approved: granted
    Column("client", Text, nullable=False, server_default=""),  # what the device calls itself
    Column("address", Text, nullable=False, server_default=""),  # where the request came from
    Column("created_at", String(27), nullable=False),
    Column("expires_at", String(27), nullable=False, index=True),
    Column("next_poll_at", String(27), nullable=False),
    Column("pause", String(16), nullable=False),  # seconds between two polls
    # of the token that will be made
    Column("organisation_id", BigId),
    Column("account_id", BigId),
    Column("adapters", Text, nullable=False, server_default=""),
    Column("approved_by", BigId),  # the token that approved; null: the command line
    Column("token_expires_at", String(27)),
)
