"""Points to be deleted from a store beside PostgreSQL; the version to which a store's alias is on its way.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0015"
down_revision = "0014"

NOW = sa.text("now()")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "garbage",
        sa.Column("space", sa.BigInteger, primary_key=True),
        sa.Column("point_id", pg.UUID, primary_key=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="points of stores beside PostgreSQL that may be deleted there, unless a manifest names them again",
    )
    op.add_column("aliases", sa.Column("wanted", sa.Text), schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_column("aliases", "wanted", schema=schema)
    op.drop_table("garbage", schema=schema)
