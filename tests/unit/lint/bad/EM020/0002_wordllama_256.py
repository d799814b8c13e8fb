"""wordllama 256

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-20 16:30:00+00:00
"""

from embedmig import Space, op

revision = "0002"
down_revision = "0001"

OLD = "wordllama-l2-supercat@0.4/dim-64/norm-l2"
NEW = Space(
    collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256, normalize="l2",
    metric="cosine", storage="vector",
)  # fmt: skip


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW, m=16, ef_construction=64)
    op.gate(NEW, completeness=0.995, freshness="15m")
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.gate(OLD, collection="docs", completeness=0.995)  # rollback must be fresh too
    op.flip_alias("docs", to=OLD)
