"""First schema."""

from alembic import op
from sqlalchemy import text

from adapterhub.server.storage.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind()
    metadata.create_all(connection)
    connection.execute(
        text("INSERT INTO hub (key, number, text) VALUES ('serial', 0, ''), ('id', 0, :id)"),
        {"id": __import__("secrets").token_hex(16)},
    )


def downgrade() -> None:
    metadata.drop_all(op.get_bind())
