"""The type of an adapter among the words it is found by."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    if op.get_bind().execute(sa.text("SELECT 1 FROM listings LIMIT 1")).first() is not None:
        from adapterhub.server.catalogue.listings import ListingsProjection

        ListingsProjection().rebuild(op.get_bind())


def downgrade() -> None:
    """Words that nobody asks for do no harm."""
