"""Each question's score of an evaluation, so that two versions can be compared question by question.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.add_column("evals", sa.Column("scores", pg.ARRAY(pg.DOUBLE_PRECISION), nullable=True), schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_column("evals", "scores", schema=schema)
