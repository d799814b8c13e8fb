"""Outboxes note the keys of a statement's many inserted rows as ranges.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

from embedmig.database.schema import name_in_text

revision = "0011"
down_revision = "0010"

EACH = """do $$ declare name text; begin
  for name in select outbox from {schema}.captures where to_regclass(outbox) is not null loop {statement} end loop; end $$"""
ADD = "execute 'alter table ' || name || ' add column if not exists embedmig_upto bigint';"
DROP = """execute 'alter table ' || name || ' add constraint no_ranges check (embedmig_upto is null)';  -- none is lost
  execute 'alter table ' || name || ' drop column embedmig_upto';"""


def run(statement: str) -> None:
    """Does so for every outbox."""
    schema = name_in_text(op.get_context().opts["embedmig_schema"])
    op.execute(EACH.format(schema=schema, statement=statement))


def upgrade() -> None:
    run(ADD)


def downgrade() -> None:
    run(DROP)
