"""Logins by device code, tokens that know who approved them, reports by readers, checks of weights."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _id() -> sa.types.TypeEngine:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("tokens", sa.Column("approved_by", _id(), nullable=True))
    op.create_index(op.f("ix_tokens_approved_by"), "tokens", ["approved_by"], unique=False)
    op.create_table(
        "device_codes",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("scopes", sa.String(length=128), nullable=False),
        sa.Column("client", sa.Text(), server_default="", nullable=False),
        sa.Column("address", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("expires_at", sa.String(length=27), nullable=False),
        sa.Column("next_poll_at", sa.String(length=27), nullable=False),
        sa.Column("pause", sa.String(length=16), nullable=False),
        sa.Column("organisation_id", _id(), nullable=True),
        sa.Column("account_id", _id(), nullable=True),
        sa.Column("adapters", sa.Text(), server_default="", nullable=False),
        sa.Column("approved_by", _id(), nullable=True),
        sa.Column("token_expires_at", sa.String(length=27), nullable=True),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_device_codes")),
        sa.UniqueConstraint("user_hash", name=op.f("uq_device_codes_user_hash")),
    )
    op.create_index(op.f("ix_device_codes_expires_at"), "device_codes", ["expires_at"], unique=False)
    op.create_table(
        "reports",
        sa.Column("id", _id(), nullable=False),
        sa.Column("version_id", _id(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("reporter", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.String(length=27), nullable=False),
        sa.Column("closed_at", sa.String(length=27), nullable=True),
        sa.Column("closed_by", sa.Text(), server_default="", nullable=False),
        sa.Column("outcome", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_reports_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_version_id"), "reports", ["version_id"], unique=False)
    op.create_index(op.f("ix_reports_closed_at"), "reports", ["closed_at"], unique=False)
    op.create_table(
        "weight_checks",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("numbers", sa.BigInteger(), nullable=False),
        sa.Column("not_finite", sa.BigInteger(), nullable=False),
        sa.Column("details", sa.Text(), server_default="{}", nullable=False),
        sa.Column("checked_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_weight_checks")),
    )


def downgrade() -> None:
    op.drop_table("weight_checks")
    op.drop_table("reports")
    op.drop_table("device_codes")
    op.drop_index(op.f("ix_tokens_approved_by"), table_name="tokens")
    op.drop_column("tokens", "approved_by")
