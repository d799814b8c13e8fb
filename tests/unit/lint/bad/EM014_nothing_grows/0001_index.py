"""there is nothing left for the index to grow with"""

from embedmig import Space, op

revision = "0001"
down_revision = None

NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW, during="backfill")
    op.gate(NEW, completeness=0.995)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
