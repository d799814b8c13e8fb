"""Maps between the spaces of two versions, with what they were measured to be worth.

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0021"
down_revision = "0020"

NOW = sa.text("now()")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "bridges",
        sa.Column("from_space", sa.BigInteger, primary_key=True),
        sa.Column("to_space", sa.BigInteger, primary_key=True),
        sa.Column("from_fingerprint", sa.Text, nullable=False),
        sa.Column("to_fingerprint", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("matrix", sa.LargeBinary, nullable=False),
        sa.Column("measured", pg.JSONB, nullable=False),
        sa.Column("fitted_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="maps of queries from one version to another: float32, a row a dimension of the first",
    )


def downgrade() -> None:
    op.drop_table("bridges", schema=op.get_context().opts["embedmig_schema"])
