"""gone at once"""

from embedmig import op

revision = "0003"
down_revision = "0002"

OLD = "wordllama-l2-supercat@0.4/dim-256/norm-l2"


def upgrade() -> None:
    op.retire_space(OLD, collection="docs", after="1h")


def downgrade() -> None:
    pass
