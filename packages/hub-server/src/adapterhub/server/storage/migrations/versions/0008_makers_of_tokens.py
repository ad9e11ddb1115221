"""Tokens that know which token asked for them. Of those made before, the audit log tells."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_MADE = sa.text("SELECT actor, subject FROM audit WHERE action = 'token.create'")
_MAKER = sa.text("UPDATE tokens SET made_by = :maker WHERE id = :made AND approved_by IS NULL")


def upgrade() -> None:
    op.add_column("tokens", sa.Column("made_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))
    op.create_index(op.f("ix_tokens_made_by"), "tokens", ["made_by"], unique=False)
    for actor, subject in op.get_bind().execute(_MADE).all():
        maker, made = re.search(r"\(token (\d+)\)$", actor), re.fullmatch(r"token (\d+)", subject)
        if maker and made:
            op.get_bind().execute(_MAKER, {"maker": int(maker[1]), "made": int(made[1])})


def downgrade() -> None:
    op.drop_index(op.f("ix_tokens_made_by"), "tokens")
    op.drop_column("tokens", "made_by")
