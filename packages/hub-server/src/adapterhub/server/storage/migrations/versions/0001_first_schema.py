"""The first schema."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind()
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("email", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("disabled_at", sa.String(length=27), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("key", name=op.f("uq_accounts_key")),
    )
    op.create_table(
        "architectures",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("citation", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_architectures")),
    )
    op.create_table(
        "audit",
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=27), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=48), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), server_default="{}", nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_organisation_id"), "audit", ["organisation_id"], unique=False)
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "configs",
        sa.Column("config_id", sa.String(length=71), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("config_id", name=op.f("pk_configs")),
    )
    op.create_table(
        "download_marks",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("mark", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("day", "mark", name=op.f("pk_download_marks")),
    )
    op.create_table(
        "explore_cells",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("task_key", sa.String(length=128), nullable=False),
        sa.Column("subtask_key", sa.String(length=128), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("using", sa.String(length=64), nullable=False),
        sa.Column("reduction_factor", sa.String(length=24), nullable=False),
        sa.Column("non_linearity", sa.String(length=32), nullable=False),
        sa.Column("adapters", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "kind",
            "task_key",
            "subtask_key",
            "model_name",
            "family",
            "method",
            "using",
            "reduction_factor",
            "non_linearity",
            name=op.f("pk_explore_cells"),
        ),
    )
    op.create_table(
        "explore_pairs",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("task_key", sa.String(length=128), nullable=False),
        sa.Column("subtask_key", sa.String(length=128), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("adapters", sa.Integer(), nullable=False),
        sa.Column("models", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "task_key", "subtask_key", name=op.f("pk_explore_pairs")),
    )
    op.create_table(
        "facet_counts",
        sa.Column("field", sa.String(length=24), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.Column("adapters", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("field", "value", name=op.f("pk_facet_counts")),
    )
    op.create_index("ix_facet_counts_top", "facet_counts", ["field", "adapters"], unique=False)
    op.create_table(
        "hub",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("text", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_hub")),
    )
    op.create_table(
        "manifests",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_manifests")),
    )
    op.create_table(
        "organisations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("display_name", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("url", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("retired_at", sa.String(length=27), nullable=True),
        sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("review", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("trusted_only", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_versions_per_day", sa.Integer(), nullable=True),
        sa.Column("used_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisations")),
        sa.UniqueConstraint("key", name=op.f("uq_organisations_key")),
    )
    op.create_table(
        "pair_words",
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("word", sa.String(length=128), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("bucket", sa.String(length=4), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "word", "task", "subtask", "type", name=op.f("pk_pair_words")),
    )
    op.create_index(op.f("ix_pair_words_bucket"), "pair_words", ["bucket"], unique=False)
    op.create_index(op.f("ix_pair_words_word"), "pair_words", ["word"], unique=False)
    op.create_table(
        "pairs",
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("model_bucket", sa.String(length=4), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "task", "subtask", "type", name=op.f("pk_pairs")),
    )
    op.create_index(op.f("ix_pairs_model_bucket"), "pairs", ["model_bucket"], unique=False)
    op.create_table(
        "upstream_blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("fetched_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_upstream_blobs")),
    )
    op.create_index(op.f("ix_upstream_blobs_fetched_at"), "upstream_blobs", ["fetched_at"], unique=False)
    op.create_table(
        "upstream_files",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("etag", sa.Text(), server_default="", nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("fetched_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_upstream_files")),
    )
    op.create_index(op.f("ix_upstream_files_fetched_at"), "upstream_files", ["fetched_at"], unique=False)
    op.create_table(
        "used_assertions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_used_assertions")),
    )
    op.create_table(
        "vocabulary",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("task_key", sa.String(length=128), nullable=False),
        sa.Column("subtask_key", sa.String(length=128), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("url", sa.Text(), server_default="", nullable=False),
        sa.Column("citation", sa.Text(), server_default="", nullable=False),
        sa.Column("language", sa.Text(), server_default="", nullable=False),
        sa.Column("metric", sa.Text(), server_default="", nullable=False),
        sa.Column("dataset", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("kind", "task_key", "subtask_key", name=op.f("pk_vocabulary")),
    )
    op.create_table(
        "adapters",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("task_key", sa.String(length=128), nullable=False),
        sa.Column("subtask_key", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("using", sa.String(length=64), nullable=True),
        sa.Column("license", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("default_version", sa.String(length=128), nullable=True),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("card", sa.Text(), server_default="", nullable=False),
        sa.Column("citation", sa.Text(), server_default="", nullable=False),
        sa.Column("edited_at", sa.String(length=27), nullable=True),
        sa.Column("downloads", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("updated_at", sa.String(length=27), nullable=False),
        sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("listed", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("serial", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_adapters_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("organisation_id", "key", name=op.f("uq_adapters_organisation_id_key")),
    )
    op.create_index(
        "ix_adapters_model_pair", "adapters", ["model_name", "task_key", "subtask_key", "serial"], unique=False
    )
    op.create_index("ix_adapters_pair", "adapters", ["task_key", "subtask_key", "model_name"], unique=False)
    op.create_index("ix_adapters_private", "adapters", ["private", "model_name"], unique=False)
    op.create_index("ix_adapters_serial", "adapters", ["serial"], unique=False)
    op.create_index("ix_adapters_updated", "adapters", ["updated_at"], unique=False)
    op.create_table(
        "blob_owners",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_blob_owners_digest")),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_blob_owners_organisation_id")),
        sa.PrimaryKeyConstraint("digest", "organisation_id", name=op.f("pk_blob_owners")),
    )
    op.create_table(
        "members",
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("since", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_members_account_id")),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_members_organisation_id")),
        sa.PrimaryKeyConstraint("organisation_id", "account_id", name=op.f("pk_members")),
    )
    op.create_index(op.f("ix_members_account_id"), "members", ["account_id"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("start", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("scopes", sa.String(length=128), nullable=False),
        sa.Column("adapters", sa.Text(), server_default="", nullable=False),
        sa.Column("origin", sa.String(length=16), server_default="cli", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("expires_at", sa.String(length=27), nullable=True),
        sa.Column("revoked_at", sa.String(length=27), nullable=True),
        sa.Column("used_at", sa.String(length=27), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_tokens_account_id")),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_tokens_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_index(op.f("ix_tokens_account_id"), "tokens", ["account_id"], unique=False)
    op.create_index(op.f("ix_tokens_organisation_id"), "tokens", ["organisation_id"], unique=False)
    op.create_table(
        "trusted_publishers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("adapters", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_trusted_publishers_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trusted_publishers")),
    )
    op.create_index(
        op.f("ix_trusted_publishers_organisation_id"), "trusted_publishers", ["organisation_id"], unique=False
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), server_default="", nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_webhooks_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_organisation_id"), "webhooks", ["organisation_id"], unique=False)
    op.create_table(
        "downloads",
        sa.Column("adapter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_downloads_adapter_id")),
        sa.PrimaryKeyConstraint("adapter_id", "day", name=op.f("pk_downloads")),
    )
    op.create_table(
        "imported_records",
        sa.Column("adapter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_imported_records_adapter_id")),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_imported_records")),
    )
    op.create_table(
        "listings",
        sa.Column("rank", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("adapter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.Column("namespace_key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("name_key", sa.String(length=128), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("task_key", sa.String(length=128), nullable=False),
        sa.Column("subtask_key", sa.String(length=128), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("family", sa.String(length=64), server_default="", nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("using", sa.String(length=64), nullable=True),
        sa.Column("reduction_factor", sa.String(length=24), server_default="", nullable=False),
        sa.Column("non_linearity", sa.String(length=32), server_default="", nullable=False),
        sa.Column("config_id", sa.String(length=71), server_default="", nullable=False),
        sa.Column("license", sa.Text(), nullable=True),
        sa.Column("languages", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("hidden_size", sa.Integer(), nullable=True),
        sa.Column("downloads", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("versions", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("updated_at", sa.String(length=27), nullable=False),
        sa.Column("yanked", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("sha1", sa.String(length=40), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_listings_adapter_id")),
        sa.PrimaryKeyConstraint("rank", name=op.f("pk_listings")),
        sa.UniqueConstraint("adapter_id", name=op.f("uq_listings_adapter_id")),
    )
    op.create_index("ix_listings_name", "listings", ["name_key"], unique=False)
    op.create_index("ix_listings_namespace", "listings", ["namespace_key", "name_key"], unique=False)
    op.create_index("ix_listings_pair", "listings", ["kind", "task_key", "subtask_key", "rank"], unique=False)
    op.create_index("ix_listings_updated", "listings", ["updated_at"], unique=False)
    op.create_table(
        "pair_defaults",
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("task_key", sa.String(length=128), nullable=False),
        sa.Column("subtask_key", sa.String(length=128), nullable=False),
        sa.Column("model_bucket", sa.String(length=4), nullable=False),
        sa.Column("adapter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_pair_defaults_adapter_id")),
        sa.PrimaryKeyConstraint("model_name", "task_key", "subtask_key", name=op.f("pk_pair_defaults")),
    )
    op.create_index(op.f("ix_pair_defaults_adapter_id"), "pair_defaults", ["adapter_id"], unique=False)
    op.create_index(op.f("ix_pair_defaults_model_bucket"), "pair_defaults", ["model_bucket"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organisation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("token_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("expires_at", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_uploads_organisation_id")),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_uploads_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"], unique=False)
    op.create_table(
        "versions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("adapter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("yanked", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("yanked_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("bucket", sa.String(length=4), nullable=False),
        sa.Column("model_bucket", sa.String(length=4), nullable=False),
        sa.Column("config_id", sa.String(length=71), server_default="", nullable=False),
        sa.Column("size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("token_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("published_at", sa.String(length=27), nullable=True),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_versions_adapter_id")),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_versions_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("adapter_id", "version", name=op.f("uq_versions_adapter_id_version")),
    )
    op.create_index("ix_versions_bucket", "versions", ["bucket"], unique=False)
    op.create_index("ix_versions_digest", "versions", ["digest"], unique=False)
    op.create_index("ix_versions_model_bucket", "versions", ["model_bucket"], unique=False)
    op.create_index(op.f("ix_versions_serial"), "versions", ["serial"], unique=False)
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("webhook_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event", sa.String(length=48), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.String(length=27), nullable=True),
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("delivered_at", sa.String(length=27), nullable=True),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(op.f("ix_webhook_deliveries_due_at"), "webhook_deliveries", ["due_at"], unique=False)
    op.create_index(op.f("ix_webhook_deliveries_webhook_id"), "webhook_deliveries", ["webhook_id"], unique=False)
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id")),
        sa.PrimaryKeyConstraint("upload_id", "start", name=op.f("pk_upload_parts")),
    )
    op.create_table(
        "version_files",
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_version_files_version_id")),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_version_files")),
    )
    op.create_index(op.f("ix_version_files_digest"), "version_files", ["digest"], unique=False)
    if connection.dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE listings_text USING fts5("
            "words, content='listings', content_rowid='rank', detail='none', columnsize=0, prefix='2 3 4', "
            "tokenize='unicode61 remove_diacritics 0')"
        )
        op.execute(
            "CREATE INDEX ix_listings_light ON listings (rank, name_key, namespace_key, kind, task_key, subtask_key, "
            'model_name, family, method, "using", languages, license, downloads)'
        )
    if connection.dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE listings ADD COLUMN tsv tsvector "
            "GENERATED ALWAYS AS (array_to_tsvector(string_to_array(words, ' '))) STORED"
        )
        op.execute("CREATE INDEX ix_listings_tsv ON listings USING gin (tsv)")
    rows = [{"key": "serial", "number": 0, "text": ""}, {"key": "id", "number": 0, "text": secrets.token_hex(16)}]
    hub = sa.table("hub", sa.column("key"), sa.column("number"), sa.column("text"))
    op.bulk_insert(hub, rows)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE IF EXISTS listings_text")
    op.drop_table("version_files")
    op.drop_table("upload_parts")
    op.drop_table("webhook_deliveries")
    op.drop_table("versions")
    op.drop_table("uploads")
    op.drop_table("pair_defaults")
    op.drop_table("listings")
    op.drop_table("imported_records")
    op.drop_table("downloads")
    op.drop_table("webhooks")
    op.drop_table("trusted_publishers")
    op.drop_table("tokens")
    op.drop_table("members")
    op.drop_table("blob_owners")
    op.drop_table("adapters")
    op.drop_table("vocabulary")
    op.drop_table("used_assertions")
    op.drop_table("upstream_files")
    op.drop_table("upstream_blobs")
    op.drop_table("pairs")
    op.drop_table("pair_words")
    op.drop_table("organisations")
    op.drop_table("manifests")
    op.drop_table("hub")
    op.drop_table("facet_counts")
    op.drop_table("explore_pairs")
    op.drop_table("explore_cells")
    op.drop_table("download_marks")
    op.drop_table("configs")
    op.drop_table("blobs")
    op.drop_table("audit")
    op.drop_table("architectures")
    op.drop_table("accounts")
