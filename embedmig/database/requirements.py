"""What a server must have, looked at before anything is changed."""

from __future__ import annotations

from embedmig.database.connections import Connection, scalar
from embedmig.errors import DatabaseUnsuitable

MINIMUM_SERVER = 140000  # PostgreSQL 14: the oldest that its own project still mends
MINIMUM_PGVECTOR = (0, 7)  # halfvec, and HNSW builds in parallel


def require_suitable(server: int, pgvector: str | None, *, can_create: bool) -> None:
    """Refuses a server without what embedmig needs. ``server`` is ``server_version_num``.

    Raises :class:`DatabaseUnsuitable`.
    """
    if server < MINIMUM_SERVER:
        raise DatabaseUnsuitable(
            f"PostgreSQL {server // 10000} is too old", hint=f"PostgreSQL {MINIMUM_SERVER // 10000} or later is needed"
        )
    if pgvector is None and not can_create:
        raise DatabaseUnsuitable(
            "the pgvector extension is not in this database and this role can't create it",
            hint="install pgvector on the server, then as a superuser: CREATE EXTENSION vector",
        )
    if pgvector and tuple(int(part) for part in pgvector.split(".")[:2]) < MINIMUM_PGVECTOR:
        raise DatabaseUnsuitable(
            f"pgvector {pgvector} is too old",
            hint=f"{'.'.join(map(str, MINIMUM_PGVECTOR))} or later is needed: ALTER EXTENSION vector UPDATE",
        )


def check_suitable(conn: Connection) -> None:
    """Looks at the server and at pgvector; changes nothing. Raises :class:`DatabaseUnsuitable`."""
    installed = scalar(conn, "select extversion from pg_extension where extname = 'vector'")
    can_create = installed is not None or bool(
        scalar(
            conn,
            """select exists (select from pg_available_extension_versions where name = 'vector'
               and (not superuser or trusted or (select rolsuper from pg_roles where rolname = current_user)))
               and has_database_privilege(current_database(), 'CREATE')""",
        )
    )
    require_suitable(conn.info.server_version, installed, can_create=can_create)
