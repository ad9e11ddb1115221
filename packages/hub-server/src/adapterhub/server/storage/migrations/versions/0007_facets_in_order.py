"""The most common values of a facet in one order, equally common ones by name, straight from an index."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.drop_index("ix_facet_counts_top", "facet_counts")
    op.create_index("ix_facet_counts_top", "facet_counts", ["field", sa.desc("adapters"), "value"])


def downgrade() -> None:
    op.drop_index("ix_facet_counts_top", "facet_counts")
    op.create_index("ix_facet_counts_top", "facet_counts", ["field", "adapters"])
