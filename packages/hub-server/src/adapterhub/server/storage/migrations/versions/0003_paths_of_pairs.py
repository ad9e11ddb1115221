"""Other spellings of tasks and subtasks, so that index files can tell of them; aliases among the words."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "pair_paths",
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("path", sa.String(length=257), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("subtask", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("bucket", sa.String(length=4), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "path", "task", "subtask", "type", name=op.f("pk_pair_paths")),
    )
    op.create_index(op.f("ix_pair_paths_bucket"), "pair_paths", ["bucket"], unique=False)
    if op.get_bind().execute(sa.text("SELECT 1 FROM pairs LIMIT 1")).first() is not None:
        from adapterhub.server.resolving.pairs import PairProjection

        PairProjection().rebuild(op.get_bind())


def downgrade() -> None:
    op.drop_table("pair_paths")
