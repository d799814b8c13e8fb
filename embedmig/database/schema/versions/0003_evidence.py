"""What was measured of each version, and what shadow reads saw.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"

NOW = sa.text("now()")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.create_table(
        "evals",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("beside", sa.Text),
        sa.Column("golden", sa.Text, nullable=False),
        sa.Column("golden_digest", sa.Text, nullable=False),
        sa.Column("k", sa.Integer, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("queries", sa.Integer, nullable=False),
        sa.Column("metrics", pg.JSONB, nullable=False),
        sa.Column("latency_ms", pg.JSONB, nullable=False, server_default="{}"),
        sa.Column("completeness", sa.Double, nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("measured_by", sa.Text, nullable=False),
        sa.CheckConstraint("mode in ('exact', 'index')", name="mode"),
        schema=schema,
        comment="quality of each version, with the completeness of its space at that time; beside: compared with",
    )
    op.create_index("evals_newest", "evals", ["collection", "version", "id"], schema=schema)
    op.create_table(
        "shadow_reads",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("active", sa.Text, nullable=False),
        sa.Column("other", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("k", sa.Integer, nullable=False),
        sa.Column("overlap_at_k", sa.Double),
        sa.Column("active_ms", sa.Double),
        sa.Column("other_ms", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("query", sa.Text),
        schema=schema,
        comment="reads that the active version answered and another version was asked too; bounded, the newest are kept",
    )
    op.create_index("shadow_newest", "shadow_reads", ["collection", "other", "id"], schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_table("shadow_reads", schema=schema)
    op.drop_table("evals", schema=schema)
