"""beside PostgreSQL"""

from embedmig import Space, op

revision = "0002"
down_revision = "0001"

NEW = Space(collection="docs", model="openai/text-embedding-3-small", version="1", dimensions=256, store="near")


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=0.995, ndcg_at_10=0.3)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.gate("openai-text-embedding-3-small@1/dim-256/norm-l2", collection="docs", completeness=0.995)
    op.flip_alias("docs", to="openai-text-embedding-3-small@1/dim-256/norm-l2")
