"""The ledger, its journal, and the registries of spaces, aliases and failed rows.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None

NOW = sa.text("now()")


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    for create in (create_attempts, create_operations, create_spaces, create_aliases, create_failed_rows):
        create(schema)


def create_attempts(schema: str) -> None:
    op.create_table(
        "embedding_migrations",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("active_seconds", sa.Double, nullable=False, server_default="0"),
        sa.Column("rows_done", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cost_usd", sa.Numeric),
        sa.Column("applied_by", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("tool_version", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("gates", pg.JSONB),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.CheckConstraint("direction in ('upgrade', 'downgrade', 'stamp', 'unstamp', 'retire')", name="direction"),
        sa.CheckConstraint("status in ('running', 'done', 'failed', 'gated', 'interrupted')", name="status"),
        schema=schema,
        comment="embedmig's ledger: one row per attempt at a revision",
    )
    op.create_index(
        "one_running", "embedding_migrations", [sa.text("(true)")], unique=True, schema=schema,
        postgresql_where=sa.text("status = 'running'"),
    )  # fmt: skip


def create_operations(schema: str) -> None:
    op.create_table(
        "embedding_operations",
        sa.Column("attempt", sa.BigInteger, sa.ForeignKey(f"{schema}.embedding_migrations.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Text),
        schema=schema,
        comment="the journal: operations of each attempt; a transactional one is written with its own effect",
    )


def create_spaces(schema: str) -> None:
    op.create_table(
        "spaces",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("adopted", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("table_schema", sa.Text, nullable=False),
        sa.Column("table_name", sa.Text, nullable=False),
        sa.Column("embedding_column", sa.Text, nullable=False, server_default="embedding"),
        sa.Column("version_column", sa.Text, nullable=False, server_default="version"),
        sa.Column("writer", sa.Text, nullable=False, server_default="embedmig"),
        sa.Column("definition", pg.JSONB, nullable=False),
        sa.Column("text_columns", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("weights", sa.Text, nullable=False, server_default=""),
        sa.Column("resume_after", pg.ARRAY(sa.Text)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.UniqueConstraint("collection", "version"),
        sa.CheckConstraint("state in ('building', 'ready', 'active', 'retained', 'retired')", name="state"),
        schema=schema,
        comment="every space there is or was, and the exact configuration that made it",
    )


def create_aliases(schema: str) -> None:
    op.create_table(
        "aliases",
        sa.Column("collection", sa.Text, primary_key=True),
        sa.Column("alias_schema", sa.Text, nullable=False),
        sa.Column("alias_name", sa.Text, nullable=False),
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id")),
        sa.Column("version", sa.Text),
        sa.Column("fingerprint", sa.Text),
        sa.Column("encoder", pg.JSONB),
        sa.Column("flipped_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("flip_ms", sa.Double),
        sa.UniqueConstraint("alias_schema", "alias_name"),
        schema=schema,
        comment="which version each alias shows, and the encoder that its queries need",
    )


def create_failed_rows(schema: str) -> None:
    op.create_table(
        "failed_rows",
        sa.Column("space", sa.BigInteger, sa.ForeignKey(f"{schema}.spaces.id"), primary_key=True),
        sa.Column("key", pg.ARRAY(sa.Text), primary_key=True),
        sa.Column("content_hash", pg.BYTEA, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="dead letters: rows that a model refuses, and why",
    )


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    for table in ("failed_rows", "aliases", "spaces", "embedding_operations", "embedding_migrations"):
        op.drop_table(table, schema=schema)
