"""What was pulled from upstream: answers and index files with their age, manifests, and which blobs came with them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text

from adapterhub.server.storage.tables import metadata

__all__ = ["upstream_blobs", "upstream_files"]

upstream_files = Table(
    "upstream_files",
    metadata,
    Column("key", String(64), primary_key=True),  # sha256 of the path with its query
    Column("path", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("etag", Text, nullable=False, server_default=""),
    Column("body", LargeBinary, nullable=False),
    Column("fetched_at", String(27), nullable=False, index=True),
)

#: blobs of upstream's versions, pulled or still to be pulled; served to everybody
upstream_blobs = Table(
    "upstream_blobs",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("fetched_at", String(27), nullable=False, index=True),
)
