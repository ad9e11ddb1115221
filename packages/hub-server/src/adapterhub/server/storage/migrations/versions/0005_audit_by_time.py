"""What an organisation did in the last day, found without reading all it ever did: the quota of every publish asks."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("ix_audit_organisation_at", "audit", ["organisation_id", "at"])
    op.drop_index("ix_audit_organisation_id", "audit")


def downgrade() -> None:
    op.create_index("ix_audit_organisation_id", "audit", ["organisation_id"])
    op.drop_index("ix_audit_organisation_at", "audit")
