"""What became of a version that is kept for a rollback in half the bytes, and what that cost.

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.add_column("spaces", sa.Column("compacted", pg.JSONB), schema=op.get_context().opts["embedmig_schema"])


def downgrade() -> None:
    op.drop_column("spaces", "compacted", schema=op.get_context().opts["embedmig_schema"])
