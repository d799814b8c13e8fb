"""What an operation was estimated to take, and what it took, beside each other.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    for name, comment in (("estimate", "what it was expected to take"), ("truth", "what it took, up to its end")):
        op.add_column("embedding_operations", sa.Column(name, pg.JSONB, comment=comment), schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    for name in ("truth", "estimate"):
        op.drop_column("embedding_operations", name, schema=schema)
