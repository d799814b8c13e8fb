"""What went wrong inside a trigger; what capture was installed on and compared; values written alike in every session.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from embedmig.database.schema import name_in_text

revision = "0012"
down_revision = "0011"

NOW = sa.text("now()")
IDENTITY = """do $$ declare name text; begin
  for name in select outbox from {schema}.captures where to_regclass(outbox) is not null loop
    execute 'alter table ' || name || ' replica identity full'; end loop; end $$"""
PINNED = """create function {schema}.pinned_text(value anyelement) returns text language sql stable strict parallel safe
  set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres'
  set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C'
  as $$ select concat_ws('', value) $$"""


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    quoted = name_in_text(schema)
    op.create_table(
        "capture_failures",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        schema=schema,
        comment="writes of applications that a trigger let through without noting them",
    )
    op.add_column("captures", sa.Column("source_oid", sa.BigInteger), schema=schema)
    op.add_column("captures", sa.Column("partitions", pg.JSONB), schema=schema)
    op.add_column("captures", sa.Column("compared", sa.Boolean, nullable=False, server_default="true"), schema=schema)
    op.add_column("captures", sa.Column("scanned_at", sa.DateTime(timezone=True)), schema=schema)
    op.execute(IDENTITY.format(schema=quoted))
    op.execute(PINNED.format(schema=quoted))


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    quoted = name_in_text(schema)
    op.execute(f"drop function {quoted}.pinned_text(anyelement)")
    for column in ("scanned_at", "compared", "partitions", "source_oid"):
        op.drop_column("captures", column, schema=schema)
    op.drop_table("capture_failures", schema=schema)
