"""Key ranges of spaces that are being filled, which workers claim; the one saved position goes.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0006"
down_revision = "0005"


def count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "ranges",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), nullable=False),
        sa.Column("low", pg.ARRAY(sa.Text)),
        sa.Column("high", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("position", pg.ARRAY(sa.Text)),
        sa.Column("sweep", sa.Integer, nullable=False, server_default="1"),
        sa.Column("done", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("turn", sa.Integer, nullable=False, server_default="0"),
        sa.Column("worker", sa.Text),
        sa.Column("claimed_by", sa.Integer),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        count("rows"),
        count("failed"),
        count("truncated"),
        count("changed"),
        count("tokens"),
        sa.Column("cost", sa.Double),
        schema=schema,
        comment="key ranges of spaces that are being filled: who has which, and how far it is",
    )
    op.create_index("ranges_of_space", "ranges", ["space", "id"], schema=schema)
    op.drop_column("spaces", "resume_after", schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.add_column("spaces", sa.Column("resume_after", pg.ARRAY(sa.Text)), schema=schema)
    op.drop_table("ranges", schema=schema)
