"""What the chunks of a text are, as digests, so that an edit embeds those alone that are new.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "chunk_digests",
        sa.Column("space", sa.BigInteger, primary_key=True),
        sa.Column("content_hash", pg.BYTEA, primary_key=True),
        sa.Column("digests", pg.BYTEA, nullable=False),
        schema=op.get_context().opts["embedmig_schema"],
        comment="digests of the chunks of texts, 16 bytes each, by the text's hash",
    )


def downgrade() -> None:
    op.drop_table("chunk_digests", schema=op.get_context().opts["embedmig_schema"])
