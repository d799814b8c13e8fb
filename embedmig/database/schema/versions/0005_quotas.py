"""What workers share of an API's limits: requests and tokens a minute.

Revision ID: 0005
Revises: 0004
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    def moment(name: str, comment: str) -> sa.Column[datetime]:
        return sa.Column(
            name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"), comment=comment
        )

    op.create_table(
        "quotas",
        sa.Column(
            "fingerprint", sa.Text, primary_key=True, comment="a hash of the endpoint and the key; never the key"
        ),
        sa.Column("endpoint", sa.Text, nullable=False),
        moment("requests_at", "up to when the requests of each minute are given out"),
        moment("tokens_at", "up to when the tokens of each minute are given out"),
        moment("bulk_requests_at", "the same, of what is not kept for live traffic"),
        moment("bulk_tokens_at", "the same, of what is not kept for live traffic"),
        sa.Column("live_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("'epoch'")),
        moment("held_until", "the API asked to wait until then"),
        schema=op.get_context().opts["embedmig_schema"],
        comment="requests and tokens a minute, shared by all that use one key; by the clock of this database",
    )


def downgrade() -> None:
    op.drop_table("quotas", schema=op.get_context().opts["embedmig_schema"])
