"""Indexes for crowds: the adapters of one publisher among all of a (model, task, subtask), and those of a model by name."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_adapters_owner_pair", "adapters", ["organisation_id", "model_name", "task_key", "subtask_key"])
    op.create_index("ix_listings_model", "listings", ["model_name", "name_key"])
    op.drop_index("ix_listings_updated", "listings")
    op.create_index("ix_listings_updated", "listings", ["updated_at", "rank"])  # many may have come in one moment


def downgrade() -> None:
    op.drop_index("ix_listings_updated", "listings")
    op.create_index("ix_listings_updated", "listings", ["updated_at"])
    op.drop_index("ix_listings_model", "listings")
    op.drop_index("ix_adapters_owner_pair", "adapters")
