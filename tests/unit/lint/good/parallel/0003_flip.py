"""the flip by itself"""

from embedmig import op

revision = "0003"
down_revision = "0002"

OLD = "wordllama-l2-supercat@0.4/dim-256/norm-l2"
NEW = "wordllama-l2-supercat@0.4/dim-64/norm-l2"


def upgrade() -> None:
    op.gate(NEW, collection="docs", completeness=0.999, freshness="1m", ndcg_at_10=0.3)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.gate(OLD, collection="docs", completeness=0.995)
    op.flip_alias("docs", to=OLD)
