"""The tables of a hub. Names are kept as written and once more folded (`key`), which is what must be unique.

Times are RFC 3339 text in UTC with microseconds, so that they sort; see `now()`. `serial` is one counter for the whole
hub: whatever changes takes the next number, in commit order.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    true,
)

__all__ = [
    "accounts",
    "adapters",
    "audit",
    "blob_owners",
    "blobs",
    "download_marks",
    "downloads",
    "hub",
    "manifests",
    "members",
    "metadata",
    "now",
    "organisations",
    "pair_defaults",
    "pair_paths",
    "pair_words",
    "pairs",
    "time_text",
    "tokens",
    "trusted_publishers",
    "upload_parts",
    "uploads",
    "used_assertions",
    "version_files",
    "versions",
    "webhook_deliveries",
    "webhooks",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BigId = BigInteger().with_variant(Integer, "sqlite")


def time_text(moment: datetime) -> str:
    """`moment` as the text the tables hold."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def now(*, hours: float = 0.0) -> str:
    """The present, or `hours` from it, as the text the tables hold."""
    return time_text(datetime.now(UTC) + timedelta(hours=hours))


#: single values: `id` of the hub, `serial`, and what projections keep (see storage.changes)
hub = Table(
    "hub",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False, server_default="0"),
    Column("text", Text, nullable=False, server_default=""),
)

organisations = Table(
    "organisations",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("key", String(64), nullable=False, unique=True),
    Column("display_name", Text, nullable=False, server_default=""),
    Column("description", Text, nullable=False, server_default=""),
    Column("url", Text, nullable=False, server_default=""),
    Column("created_at", String(27), nullable=False),
    Column("retired_at", String(27)),  # a retired name stays taken for ever
    Column("private", Boolean, nullable=False, server_default=false()),
    Column("review", Boolean, nullable=False, server_default=false()),
    Column("trusted_only", Boolean, nullable=False, server_default=false()),
    Column("max_bytes", BigInteger),
    Column("max_versions_per_day", Integer),
    Column("used_bytes", BigInteger, nullable=False, server_default="0"),
)

#: people and services that act for an organisation
accounts = Table(
    "accounts",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("key", String(64), nullable=False, unique=True),
    Column("email", Text, nullable=False, server_default=""),
    Column("created_at", String(27), nullable=False),
    Column("disabled_at", String(27)),
)

members = Table(
    "members",
    metadata,
    Column("organisation_id", BigId, ForeignKey("organisations.id"), primary_key=True),
    Column("account_id", BigId, ForeignKey("accounts.id"), primary_key=True, index=True),
    Column("role", String(16), nullable=False),  # owner | maintainer | reviewer | reader
    Column("since", String(27), nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),  # sha256 of the token; the token itself is never stored
    Column("start", String(16), nullable=False),  # first characters, to recognise it in lists
    Column("name", Text, nullable=False, server_default=""),
    Column(
        "organisation_id", BigId, ForeignKey("organisations.id"), index=True
    ),  # null: the whole hub (administrators)
    Column("account_id", BigId, ForeignKey("accounts.id"), index=True),
    Column("scopes", String(128), nullable=False),  # words with blanks between
    Column("adapters", Text, nullable=False, server_default=""),  # folded name pattern, empty: all of the organisation
    Column("origin", String(16), nullable=False, server_default="cli"),  # cli | api | oidc | device
    Column("created_at", String(27), nullable=False),
    Column("expires_at", String(27)),
    Column("revoked_at", String(27)),
    Column("used_at", String(27)),
    Column("approved_by", BigId, index=True),  # the token that approved this one's making; they end together
    Column("made_by", BigId, index=True),  # the token that asked for this one; it ends with that one's member
)

trusted_publishers = Table(
    "trusted_publishers",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("organisation_id", BigId, ForeignKey("organisations.id"), nullable=False, index=True),
    Column("issuer", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("claims", Text, nullable=False),  # JSON object: every one must be equal
    Column("adapters", Text, nullable=False, server_default=""),
    Column("created_at", String(27), nullable=False),
)

#: identity tokens that were exchanged already, until they would have expired anyway
used_assertions = Table(
    "used_assertions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("expires_at", String(27), nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", String(27), nullable=False),
)

#: which organisation brought a blob: knowing a digest alone gives nobody someone else's private bytes
blob_owners = Table(
    "blob_owners",
    metadata,
    Column("digest", String(71), ForeignKey("blobs.digest"), primary_key=True),
    Column("organisation_id", BigId, ForeignKey("organisations.id"), primary_key=True),
    Column("created_at", String(27), nullable=False),
    Index("ix_blob_owners_organisation_created", "organisation_id", "created_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("organisation_id", BigId, ForeignKey("organisations.id")),
    Column("token_id", BigId, ForeignKey("tokens.id"), nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("expires_at", String(27), nullable=False, index=True),
)

#: the pieces of an unfinished upload; each is one object in the blob store
upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", String(32), ForeignKey("uploads.id"), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("digest", String(71), nullable=False),
)

adapters = Table(
    "adapters",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("organisation_id", BigId, ForeignKey("organisations.id"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("key", String(128), nullable=False),
    Column("model_name", String(255), nullable=False),
    Column("task", String(128), nullable=False),
    Column("subtask", String(128), nullable=False),
    Column("task_key", String(128), nullable=False),
    Column("subtask_key", String(128), nullable=False),
    Column("type", String(32), nullable=False),
    Column("method", String(32), nullable=False),
    Column("using", String(64)),
    Column("license", Text),
    Column("language", Text),
    Column("default_version", String(128)),
    Column("description", Text, nullable=False, server_default=""),  # may be edited; the manifest's own never changes
    Column("card", Text, nullable=False, server_default=""),  # Markdown, may be edited
    Column("citation", Text, nullable=False, server_default=""),
    Column("edited_at", String(27)),  # when people changed these texts; from then on publishing leaves them alone
    Column("downloads", BigInteger, nullable=False, server_default="0"),
    Column("created_at", String(27), nullable=False),
    Column("updated_at", String(27), nullable=False),
    Column("private", Boolean, nullable=False, server_default=false()),  # copy of the organisation's
    Column("listed", Boolean, nullable=False, server_default=true()),  # has a published version
    Column("serial", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("organisation_id", "key"),
    Index("ix_adapters_model_pair", "model_name", "task_key", "subtask_key", "serial"),
    Index("ix_adapters_pair", "task_key", "subtask_key", "model_name"),
    Index("ix_adapters_owner_pair", "organisation_id", "model_name", "task_key", "subtask_key"),
    Index("ix_adapters_private", "private", "model_name"),
    Index("ix_adapters_updated", "updated_at"),
    Index("ix_adapters_serial", "serial"),
)

manifests = Table(
    "manifests",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # RFC 8785 bytes
)

versions = Table(
    "versions",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("adapter_id", BigId, ForeignKey("adapters.id"), nullable=False),
    Column("version", String(128), nullable=False),
    Column("digest", String(71)),  # of the manifest; null: bytes unavailable
    Column("state", String(16), nullable=False),  # published | pending | refused | quarantined | deleted
    Column("reason", Text, nullable=False, server_default=""),  # of a refusal, quarantine or deletion
    Column("yanked", Boolean, nullable=False, server_default=false()),
    Column("yanked_reason", Text, nullable=False, server_default=""),
    Column("line", Text, nullable=False),  # the index line, as it is served
    Column("bucket", String(4), nullable=False),  # of (model, task, subtask), see spec.index
    Column("model_bucket", String(4), nullable=False),
    Column("config_id", String(71), nullable=False, server_default=""),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("token_id", BigId, ForeignKey("tokens.id")),
    Column("created_at", String(27), nullable=False),
    Column("published_at", String(27)),
    Column("serial", BigInteger, nullable=False, index=True),
    UniqueConstraint("adapter_id", "version"),
    Index("ix_versions_digest", "digest"),
    Index("ix_versions_bucket", "bucket"),
    Index("ix_versions_model_bucket", "model_bucket"),
)

version_files = Table(
    "version_files",
    metadata,
    Column("version_id", BigId, ForeignKey("versions.id"), primary_key=True),
    Column("path", String(255), primary_key=True),
    Column("digest", String(71), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("media_type", String(128), nullable=False),
)

#: the adapter that answers for (model, task, subtask) when several would
pair_defaults = Table(
    "pair_defaults",
    metadata,
    Column("model_name", String(255), primary_key=True),
    Column("task_key", String(128), primary_key=True),
    Column("subtask_key", String(128), primary_key=True),
    Column("model_bucket", String(4), nullable=False, index=True),
    Column("adapter_id", BigId, ForeignKey("adapters.id"), nullable=False, index=True),
)

#: public (task, subtask, type) of each model, as spelt, with whether any version of it is not yanked
pairs = Table(
    "pairs",
    metadata,
    Column("model_name", String(255), primary_key=True),
    Column("task", String(128), primary_key=True),
    Column("subtask", String(128), primary_key=True),
    Column("type", String(32), primary_key=True),
    Column("model_bucket", String(4), nullable=False, index=True),
    Column("live", Boolean, nullable=False),
)

#: which of them a word finds, by equality or segment prefix
pair_words = Table(
    "pair_words",
    metadata,
    Column("model_name", String(255), primary_key=True),
    Column("word", String(128), primary_key=True, index=True),
    Column("task", String(128), primary_key=True),
    Column("subtask", String(128), primary_key=True),
    Column("type", String(32), primary_key=True),
    Column("bucket", String(4), nullable=False, index=True),
)

#: which other spellings `task/subtask` mean them: leading segments, and what the alias table replaces
pair_paths = Table(
    "pair_paths",
    metadata,
    Column("model_name", String(255), primary_key=True),
    Column("path", String(257), primary_key=True),
    Column("task", String(128), primary_key=True),
    Column("subtask", String(128), primary_key=True),
    Column("type", String(32), primary_key=True),
    Column("bucket", String(4), nullable=False, index=True),
)

#: completed downloads a day
downloads = Table(
    "downloads",
    metadata,
    Column("adapter_id", BigId, ForeignKey("adapters.id"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

#: who was counted already today, as a keyed hash that is forgotten after two days
download_marks = Table(
    "download_marks",
    metadata,
    Column("day", Date, primary_key=True),
    Column("mark", String(32), primary_key=True),
)

#: append-only and hash-chained: `hash` covers the row and the `hash` before it
audit = Table(
    "audit",
    metadata,
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(27), nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(48), nullable=False),
    Column("organisation_id", BigId),
    Column("private", Boolean, nullable=False, server_default=false()),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False, server_default="{}"),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_organisation_at", "organisation_id", "at"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("organisation_id", BigId, ForeignKey("organisations.id"), nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("events", Text, nullable=False, server_default=""),  # words with blanks between; empty: all
    Column("active", Boolean, nullable=False, server_default=true()),
    Column("created_at", String(27), nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("webhook_id", BigId, ForeignKey("webhooks.id"), nullable=False, index=True),
    Column("event", String(48), nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", String(27), index=True),  # null: finished
    Column("answer", Text, nullable=False, server_default=""),
    Column("created_at", String(27), nullable=False),
    Column("delivered_at", String(27)),
)
