"""another prefix under the same tag"""

from embedmig import Space, op

revision = "0002"
down_revision = "0001"

NEW = Space(
    collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256, document_prefix="passage: "
)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)


def downgrade() -> None:
    pass
