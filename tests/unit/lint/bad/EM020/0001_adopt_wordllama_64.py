"""adopt wordllama 64

Revision ID: 0001
Revises:
Create Date: 2026-11-20 16:00:00+00:00
"""

from embedmig import Space, op

revision = "0001"
down_revision = None

# The vectors that are there already, as they were made.
OLD = Space(
    collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=64, normalize="l2",
    metric="cosine", storage="vector",
)  # fmt: skip


def upgrade() -> None:
    # No gate: rows without a vector are as they were before, and nothing is embedded here.
    op.adopt_space(OLD, table="documents", column="embedding", version_column="embedding_version", writer="application")
    op.flip_alias("docs", to=OLD)


def downgrade() -> None:
    op.flip_alias("docs", to=None)  # removes the alias, keeps the vectors
