"""does not record"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    raise RuntimeError("not today")


def downgrade() -> None:
    pass
