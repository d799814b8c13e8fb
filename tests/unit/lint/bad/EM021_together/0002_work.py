"""goes on working when readers are on the new version already"""

from embedmig import Space, op

revision = "0002"
down_revision = "0001"

OLD = "wordllama-l2-supercat@0.4/dim-256/norm-l2"
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=64)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=0.995, ndcg_at_10=0.3)
    op.flip_aliases({"docs": NEW})
    op.execute("analyze documents")


def downgrade() -> None:
    op.gate(OLD, collection="docs", completeness=0.995)
    op.flip_alias("docs", to=OLD)
