"""Vectors of a few fixed texts, kept from each space's first run.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "canaries",
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), primary_key=True),
        sa.Column("text_no", sa.Integer, primary_key=True),
        sa.Column("vector", pg.ARRAY(sa.REAL), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        schema=schema,
        comment="what each space's model made of the canary texts at first: a model changed behind its name is caught",
    )


def downgrade() -> None:
    op.drop_table("canaries", schema=op.get_context().opts["embedmig_schema"])
