"""Reports by readers, and what a look at the numbers of a file of weights found."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, String, Table, Text

from adapterhub.server.storage.tables import BigId, metadata

__all__ = ["reports", "weight_checks"]

reports = Table(
    "reports",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("version_id", BigId, ForeignKey("versions.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("reporter", Text, nullable=False, server_default=""),  # the token that reported; empty: nobody logged in
    Column("created_at", String(27), nullable=False),
    Column("closed_at", String(27), index=True),
    Column("closed_by", Text, nullable=False, server_default=""),
    Column("outcome", Text, nullable=False, server_default=""),
)

#: one row for each safetensors blob whose values were looked at
weight_checks = Table(
    "weight_checks",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("numbers", BigInteger, nullable=False),  # how many there are
    Column("not_finite", BigInteger, nullable=False),  # how many of them are NaN or infinite
    Column(
        "details", Text, nullable=False, server_default="{}"
    ),  # JSON: by tensor, root mean square and largest magnitude
    Column("checked_at", String(27), nullable=False),
)
