"""What a server must have, looked at before anything is changed."""

from __future__ import annotations

from embedmig.database.connections import Connection, scalar
from embedmig.errors import DatabaseUnsuitable

MINIMUM_SERVER = 140000  # PostgreSQL 14: the oldest that its own project still mends
RUN_CONNECTIONS = 6  # of one run at once, but for its first two: lock, runner, reader, writer, counting, recording


def require_suitable(server: int) -> None:
    """Refuses a server without what embedmig needs. ``server`` is ``server_version_num``.

    Raises :class:`DatabaseUnsuitable`.
    """
    if server < MINIMUM_SERVER:
        raise DatabaseUnsuitable(
            f"PostgreSQL {server // 10000} is too old", hint=f"PostgreSQL {MINIMUM_SERVER // 10000} or later is needed"
        )


def check_suitable(conn: Connection) -> None:
    """Looks at the server and the database; what a space needs of them, its store asks for. Changes nothing.

    Raises :class:`DatabaseUnsuitable`.
    """
    _refuse_bytes(conn)
    require_suitable(conn.info.server_version)
    _refuse_few_connections(conn)


def refuse_standby(conn: Connection) -> None:
    """For what writes. Raises :class:`DatabaseUnsuitable`."""
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
