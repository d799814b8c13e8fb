"""a version that nobody makes"""

from embedmig import op

revision = "0002"
down_revision = "0001"

NEW = "wordllama-l2-supercat@0.4/dim-265/norm-l2"


def upgrade() -> None:
    op.gate(NEW, collection="docs", completeness=0.995)


def downgrade() -> None:
    pass
