"""What a server must have, looked at before anything is changed."""

from __future__ import annotations

import re

from embedmig.database.connections import Connection, scalar
from embedmig.errors import DatabaseUnsuitable

MINIMUM_SERVER = 140000  # PostgreSQL 14: the oldest that its own project still mends
MINIMUM_PGVECTOR = (0, 7)  # halfvec, and HNSW builds in parallel
RUN_CONNECTIONS = 6  # of one run at once, but for its first two: lock, runner, reader, writer, counting, recording


def version_of(text: str) -> tuple[int, ...]:
    """``"0.10.1"`` and ``"0.10.1-dev"`` as numbers, to be compared as such: 0.10 is newer than 0.7."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def pgvector_version(conn: Connection) -> tuple[int, ...]:
    """The version of the extension in this database; ``()`` without one."""
    return version_of(scalar(conn, "select extversion from pg_extension where extname = 'vector'") or "")


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
    if pgvector and version_of(pgvector) < MINIMUM_PGVECTOR:
        raise DatabaseUnsuitable(
            f"pgvector {pgvector} is too old",
            hint=f"{'.'.join(map(str, MINIMUM_PGVECTOR))} or later is needed: ALTER EXTENSION vector UPDATE",
        )


def check_suitable(conn: Connection) -> None:
    """Looks at the server, the database and pgvector; changes nothing. Raises :class:`DatabaseUnsuitable`."""
    _refuse_standby(conn)
    _refuse_bytes(conn)
    offered, installed = _pgvector(conn)
    require_suitable(conn.info.server_version, installed or offered, can_create=installed is not None or bool(offered))
    _refuse_hidden_extension(conn)
    _refuse_few_connections(conn)


def _refuse_standby(conn: Connection) -> None:
    if scalar(conn, "select pg_is_in_recovery()"):
        raise DatabaseUnsuitable(
            "this server is a hot standby, which takes no writes",
            hint="give the primary's address; status, search, gate and check work on a standby",
        )


def _refuse_bytes(conn: Connection) -> None:
    """Without an encoding the server can't tell which text a row holds, and no hash of it would mean anything."""
    if scalar(conn, "select getdatabaseencoding()") == "SQL_ASCII":
        raise DatabaseUnsuitable(
            "the database's encoding is SQL_ASCII, so nobody knows which characters its bytes are",
            hint="pg_dump it, and restore it into CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        )


def _pgvector(conn: Connection) -> tuple[str | None, str | None]:
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


def _refuse_hidden_extension(conn: Connection) -> None:
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


def _refuse_few_connections(conn: Connection) -> None:
    """A run that finds none left in the middle would fail there; counted are the limits of role, database and server."""
    row = conn.execute(
        """select least(
             case when rolconnlimit < 0 then null else rolconnlimit - (select count(*) from pg_stat_activity where usesysid = r.oid) end,
             case when datconnlimit < 0 then null else datconnlimit - (select count(*) from pg_stat_activity where datid = d.oid) end,
             current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true), '0')::int
               - (select count(*) from pg_stat_activity where backend_type = 'client backend'))::int, r.rolname
           from pg_roles r, pg_database d where r.rolname = session_user and d.datname = current_database()
             and not r.rolsuper"""
    ).fetchone()
    if row is not None and row[0] < RUN_CONNECTIONS - 2:
        raise DatabaseUnsuitable(
            f"this role has {max(row[0], 0)} connections left, and a run needs {RUN_CONNECTIONS - 2} more",
            hint=f"end some (pg_stat_activity shows them), or: ALTER ROLE {row[1]} CONNECTION LIMIT {RUN_CONNECTIONS}",
        )
