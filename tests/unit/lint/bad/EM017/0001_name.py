"""does not load"""

from embedmig import no_such_thing

no_such_thing()

revision = "0001"
down_revision = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
