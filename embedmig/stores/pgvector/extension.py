"""The extension ``vector``: wanted where a space is in it, and nowhere else."""

from __future__ import annotations

from embedmig.database import Connection, scalar
from embedmig.errors import DatabaseUnsuitable

MINIMUM = (0, 7)  # halfvec, and HNSW builds in parallel


def require(installed: str | None, *, can_create: bool) -> None:
    """Refuses a version that is too old, and a database that can't have it. Raises :class:`DatabaseUnsuitable`."""
    if installed is None and not can_create:
        raise DatabaseUnsuitable(
            "the pgvector extension is not in this database and this role can't create it",
            hint="install pgvector on the server, then as a superuser: CREATE EXTENSION vector",
        )
    if installed and tuple(int(part) for part in installed.split(".")[:2]) < MINIMUM:
        raise DatabaseUnsuitable(
            f"pgvector {installed} is too old",
            hint=f"{'.'.join(map(str, MINIMUM))} or later is needed: ALTER EXTENSION vector UPDATE",
        )


def check(conn: Connection) -> None:
    """Looks at the database; changes nothing. Raises :class:`DatabaseUnsuitable`."""
    installed = scalar(conn, "select extversion from pg_extension where extname = 'vector'")
    can_create = installed is not None or bool(
        scalar(
            conn,
            """select exists (select from pg_available_extension_versions where name = 'vector'
               and (not superuser or trusted or (select rolsuper from pg_roles where rolname = current_user)))
               and has_database_privilege(current_database(), 'CREATE')""",
        )
    )
    require(installed, can_create=can_create)


def create(conn: Connection) -> None:
    """Makes it where it is not there yet."""
    conn.execute("create extension if not exists vector")
