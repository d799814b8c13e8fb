"""From which version the vectors of a space were computed, whether that is over, and what was assumed of them.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("spaces", sa.Column("derived", pg.JSONB), schema=op.get_context().opts["embedmig_schema"])


def downgrade() -> None:
    op.drop_column("spaces", "derived", schema=op.get_context().opts["embedmig_schema"])
