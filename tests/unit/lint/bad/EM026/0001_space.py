"""a model that ends, or is cut"""

from embedmig import Space, op

revision = "0001"
down_revision = None

NEW = Space(collection="docs", model="openai/gone", version="1", dimensions=8)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=0.995)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
