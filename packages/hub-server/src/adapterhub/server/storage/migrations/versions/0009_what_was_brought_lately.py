"""What an organisation brought in the last days, found without reading all it ever brought: the quota of every upload asks."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index("ix_blob_owners_organisation_created", "blob_owners", ["organisation_id", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_blob_owners_organisation_created", "blob_owners")
