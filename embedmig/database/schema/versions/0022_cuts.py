"""Thresholds of similarity, a value for each version.

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

NOW = sa.text("now()")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "cuts",
        sa.Column("collection", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("similarity", sa.Float(53), nullable=False),
        sa.Column("low", sa.Float(53)),
        sa.Column("high", sa.Float(53)),
        sa.Column("max_distance", sa.Float(53), nullable=False),
        sa.Column("carried_from", sa.Text),
        sa.Column("pairs", sa.Text),
        sa.Column("above", sa.BigInteger),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="thresholds by version: declared, or carried over from another version on pairs of the same texts",
    )


def downgrade() -> None:
    op.drop_table("cuts", schema=op.get_context().opts["embedmig_schema"])
