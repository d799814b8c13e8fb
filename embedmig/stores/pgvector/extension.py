"""The extension ``vector``: wanted where a space is in it, and nowhere else."""

from __future__ import annotations

import re

from psycopg import sql

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
    if installed and numbers(installed) < MINIMUM:
        raise DatabaseUnsuitable(
            f"pgvector {installed} is too old",
            hint=f"{'.'.join(map(str, MINIMUM))} or later is needed: ALTER EXTENSION vector UPDATE",
        )


def check(conn: Connection, *, looking: bool = False) -> None:
    """Looks at the database; changes nothing. ``looking``: who runs it may be a role that may more than this one.

    Raises :class:`DatabaseUnsuitable`.
    """
    offered, installed = _offered_and_installed(conn)
    if looking:
        offered = scalar(conn, "select default_version from pg_available_extensions where name = 'vector'")
    require(installed or offered, can_create=bool(offered))
    if not looking:
        _refuse_hidden(conn)


def numbers(text: str) -> tuple[int, ...]:
    """``"0.10.1"`` and ``"0.10.1-dev"`` as numbers, to be compared as such: 0.10 is newer than 0.7."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def version(conn: Connection) -> tuple[int, ...]:
    """The version of the extension in this database; ``()`` without one."""
    return numbers(scalar(conn, "select extversion from pg_extension where extname = 'vector'") or "")


def _offered_and_installed(conn: Connection) -> tuple[str | None, str | None]:
    """The version that this role could create, and the one that is installed."""
    row = conn.execute(
        """select (select default_version from pg_available_extensions e where name = 'vector' and exists (
                     select from pg_available_extension_versions v where v.name = e.name and v.version = e.default_version
                     and (not superuser or trusted or (select rolsuper from pg_roles where rolname = current_user)))
                   and has_database_privilege(current_database(), 'CREATE')),
                  (select extversion from pg_extension where extname = 'vector')"""
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _refuse_hidden(conn: Connection) -> None:
    hidden = scalar(
        conn,
        """select extnamespace::regnamespace::text from pg_extension
           where extname = 'vector' and not has_schema_privilege(extnamespace, 'USAGE')""",
    )
    if hidden is not None:
        raise DatabaseUnsuitable(
            f"pgvector is in schema {hidden}, which this role may not use",
            hint=f"GRANT USAGE ON SCHEMA {hidden} TO {scalar(conn, 'select quote_ident(current_user)')}",
        )


def create(conn: Connection) -> None:
    """Makes it where it is not there yet."""
    for statement in create_sql(conn):
        conn.execute(statement)


def create_sql(conn: Connection) -> list[sql.SQL]:
    """What makes it; nothing where it is there."""
    there = scalar(conn, "select extname from pg_extension where extname = 'vector'") is not None
    return [] if there else [sql.SQL("create extension if not exists vector")]
