"""Which queries an evaluation did worst on.

Revision ID: 0009
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0009"
down_revision = "0004"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    column = sa.Column("worst", pg.JSONB, nullable=False, server_default="[]")
    op.add_column("evals", column, schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_column("evals", "worst", schema=schema)
