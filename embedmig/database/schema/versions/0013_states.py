"""The journal keeps what each operation was; a space can be released.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from embedmig.database.schema import name_in_text

revision = "0013"
down_revision = "0012"

STATES = ("building", "ready", "active", "retained", "retired", "released")


def allow(schema: str, states: tuple[str, ...]) -> None:
    """Which states a space may have."""
    op.drop_constraint("state", "spaces", schema=schema)
    op.create_check_constraint("state", "spaces", sa.column("state").in_(states), schema=schema)


FLIPS = """update {schema}.embedding_operations set operation = jsonb_build_object(
    'collection', coalesce(substring(description from '^flip the alias of (.+) to [^ ]+$'),
                           substring(description from '^remove the alias of (.+); the vectors stay$')),
    'version', substring(description from '^flip the alias of .+ to ([^ ]+)$'))
  where kind = 'flip_alias'"""


def upgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.add_column("embedding_operations", sa.Column("operation", pg.JSONB), schema=schema)
    op.execute(FLIPS.format(schema=name_in_text(schema)))
    allow(schema, STATES)


def downgrade() -> None:
    schema = op.get_context().opts["embedmig_schema"]
    op.drop_column("embedding_operations", "operation", schema=schema)
    allow(schema, STATES[:-1])
