"""moves what upgrade() leaves alone"""

from embedmig import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    pass


def downgrade() -> None:
    op.flip_alias("docs", to=None)
