"""Evaluations of re-rankings: which version found the candidates, and how many.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.add_column("evals", sa.Column("recalled_by", sa.Text), schema=schema)
    op.add_column("evals", sa.Column("depth", sa.Integer), schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    evals = sa.table("evals", sa.column("depth"), schema=schema)
    op.execute(evals.delete().where(evals.c.depth.is_not(None)))
    op.drop_column("evals", "depth", schema=schema)
    op.drop_column("evals", "recalled_by", schema=schema)
