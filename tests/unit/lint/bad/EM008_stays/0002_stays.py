"""stays where it is"""

from embedmig import Space, op

revision = "0002"
down_revision = "0001"

NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=64)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=0.995, ndcg_at_10=0.3)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    pass
