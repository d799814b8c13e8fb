"""Batches that work at an API for hours, and the rows that are in them.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), nullable=False),
        sa.Column("mark", sa.Text, nullable=False, unique=True, comment="finds the batch again whose answer got lost"),
        sa.Column("remote_id", sa.Text, comment="the API's name for it; NULL: it may or may not be there"),
        sa.Column("tokens", sa.BigInteger, nullable=False, comment="estimated"),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        schema=schema,
        comment="batches at an API that have not been taken in",
    )
    op.create_table(
        "batch_rows",
        sa.Column("space", sa.BigInteger, primary_key=True),
        sa.Column("key", pg.ARRAY(sa.Text), primary_key=True),
        sa.Column("batch", sa.BigInteger, sa.ForeignKey(f"{schema}.batches.id", ondelete="CASCADE"), nullable=False),
        sa.Column("request", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("pieces", sa.Integer, nullable=False),
        sa.Column("content_hash", sa.LargeBinary, nullable=False),
        schema=schema,
        comment="rows claimed by a batch: nobody else embeds them meanwhile",
    )
    op.create_index("batch_rows_batch", "batch_rows", ["batch", "request", "place"], schema=schema)


def downgrade() -> None:
    for table in ("batch_rows", "batches"):
        op.drop_table(table, schema=op.get_context().opts["embedmig_schema"])
