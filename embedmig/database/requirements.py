"""What a server must have, looked at before anything is changed."""

from __future__ import annotations

from embedmig.database.connections import Connection
from embedmig.errors import DatabaseUnsuitable

MINIMUM_SERVER = 140000  # PostgreSQL 14: the oldest that its own project still mends


def require_suitable(server: int) -> None:
    """Refuses a server without what embedmig needs. ``server`` is ``server_version_num``.

    Raises :class:`DatabaseUnsuitable`.
    """
    if server < MINIMUM_SERVER:
        raise DatabaseUnsuitable(
            f"PostgreSQL {server // 10000} is too old", hint=f"PostgreSQL {MINIMUM_SERVER // 10000} or later is needed"
        )


def check_suitable(conn: Connection) -> None:
    """Looks at the server; what a space needs of it, its store asks for. Raises :class:`DatabaseUnsuitable`."""
    require_suitable(conn.info.server_version)
