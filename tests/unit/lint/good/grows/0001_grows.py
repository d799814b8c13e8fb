"""the index grows while the model is waited for"""

from embedmig import Space, op

revision = "0001"
down_revision = None

NEW = Space(collection="docs", model="openai/text-embedding-3-large", version="1", dimensions=1536)


def upgrade() -> None:
    op.create_space(NEW)
    op.create_index(NEW, during="backfill")
    op.backfill(NEW)
    op.gate(NEW, completeness=0.995)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
