"""Which queries an evaluation did worst on.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    column = sa.Column("worst", pg.JSONB, nullable=False, server_default="[]")
    op.add_column("evals", column, schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_column("evals", "worst", schema=schema)
