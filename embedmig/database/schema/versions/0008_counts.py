"""The last exact count of each space, with what it was counted of.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "counts",
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), primary_key=True),
        sa.Column("mark", pg.JSONB, nullable=False),
        sa.Column("counts", pg.JSONB, nullable=False),
        sa.Column("unaccounted", pg.JSONB, nullable=False),
        sa.Column(
            "counted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        schema=schema,
        comment="the last exact count of each space, for looking: good while the mark is still the same",
    )


def downgrade() -> None:
    op.drop_table("counts", schema=op.get_context().opts["embedmig_schema"])
