"""Changes that wait for each space, and the state of capture per collection.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"

NOW = sa.text("now()")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "captures",
        sa.Column("collection", sa.Text, primary_key=True),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("outbox", sa.Text),
        sa.Column("digest", sa.Text),
        sa.Column("watermark", sa.Text),
        sa.Column("installed_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.CheckConstraint("mode in ('triggers', 'watermark')", name="mode"),
        schema=schema,
        comment="how each collection's changes are noticed, and what was installed for it",
    )
    op.create_table(
        "pending_changes",
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), primary_key=True),
        sa.Column("key", pg.ARRAY(sa.Text), primary_key=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("claimed_by", sa.Integer),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text),
        schema=schema,
        comment="captured changes, distributed to the spaces that still have to take them in",
    )
    # An expression, so that a look-up by (space, key) is never answered by this index, whatever the statistics say.
    op.create_index("pending_by_age", "pending_changes", [sa.text("(space + 0)"), "changed_at"], schema=schema)
    op.add_column("aliases", sa.Column("rights", pg.JSONB), schema=schema)
    op.add_column("spaces", sa.Column("model_error", sa.Text), schema=schema)
    op.create_table(
        "hot_rows",
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), primary_key=True),
        sa.Column("key", pg.ARRAY(sa.Text), primary_key=True),
        sa.Column("reads", sa.Integer, nullable=False, server_default="1"),
        schema=schema,
        comment="lazy on read: rows that readers found, to be embedded before the cold rest",
    )
    op.create_table(
        "controls",
        sa.Column("collection", sa.Text, primary_key=True),
        sa.Column("paused", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("rows_per_second", sa.Double),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="what an operator asked of running backfills: pause, or a speed",
    )


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_column("spaces", "model_error", schema=schema)
    op.drop_column("aliases", "rights", schema=schema)
    for table in ("controls", "hot_rows", "pending_changes", "captures"):
        op.drop_table(table, schema=schema)
