"""What re-ranking reads did and cost.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

NOW = sa.text("now()")
COUNTS = ("reads", "reranked", "candidates", "found", "budget_ended", "unavailable", "texts", "tokens")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "read_counts",
        sa.Column("space", sa.BigInteger, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTS),
        sa.Column("cost", sa.Float(53), nullable=False, server_default="0"),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="re-ranking reads by the version that re-ranks: how many, how many could, and what they cost in USD",
    )


def downgrade() -> None:
    op.drop_table("read_counts", schema=op.get_context().opts["embedmig_schema"])
