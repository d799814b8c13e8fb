"""Texts that several rows of a space that is being filled have, and the one row whose vector the others get.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "repeats",
        sa.Column("space", sa.BigInteger, primary_key=True),
        sa.Column("content_hash", pg.BYTEA, primary_key=True),
        sa.Column("key", pg.ARRAY(sa.Text), nullable=False),
        schema=op.get_context().opts["embedmig_schema"],
        comment="texts that several rows of a space that is being filled have, and the row whose vector the others get",
    )


def downgrade() -> None:
    op.drop_table("repeats", schema=op.get_context().opts["embedmig_schema"])
